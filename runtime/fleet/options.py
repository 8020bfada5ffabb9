"""What a command is told about a cluster. A device bundle holds this file alone of the room, and offers no --ray."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from typing import List, NamedTuple, Optional

from ..command import positive
from ..errors import UserError
from ..invocation import install


class Fleet(NamedTuple):
    """Where a job runs, and on how much of it."""

    address: str = ""  # of a cluster; "": RAY_ADDRESS, else one of this machine alone, for this job
    actors: Optional[int] = None  # that hold a model each; None: one a GPU, or one for each `threads` CPUs
    gpus: float = 0.0  # of an actor
    threads: int = 1  # of the CPU, for one run of a network

    def arguments(self) -> List[str]:
        """The options that mean this fleet to another command."""
        options = [f"--ray={self.address}" if self.address else "--ray"]
        options += ["--ray-actors", str(self.actors)] if self.actors else []
        return options + (["--ray-gpus", f"{self.gpus:g}"] if self.gpus else [])


def add_fleet_options(parser: argparse.ArgumentParser, table: bool = False) -> None:
    """The options from which `fleet_of` makes a Fleet; `table`: and those for a job that writes a table of its images.

    Where the rest of this room is missing, as in a device bundle, none of them is offered.
    """
    if find_spec(f"{__package__}.bulk") is None:
        parser.set_defaults(ray=None, ray_actors=None, ray_gpus=0.0)
        return
    group = parser.add_argument_group("on a Ray cluster")
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="spread the work: over the cluster at HOST:PORT, the one running here (auto), or this machine alone (no ADDRESS)",
    )
    group.add_argument(
        "--ray-actors", type=positive, metavar="N", help="models held at once (default: one a GPU, or a CPU)"
    )
    group.add_argument(
        "--ray-gpus", type=_share, default=0.0, metavar="G", help="GPUs of each: 1, or a share (default 0)"
    )
    if table:
        group.add_argument(
            "--out", metavar="FOLDER", help="write Parquet there, a row an image, instead of lines; may be a URL"
        )
        group.add_argument(
            "--column", metavar="NAME", help="of a manifest or of Parquet: what holds the images or their paths"
        )
        group.add_argument("--fresh", action="store_true", help="do not go on with a job that was interrupted")
        parser.set_defaults(needs_ray=("out", "column", "fresh"))


def fleet_of(options: argparse.Namespace) -> Optional[Fleet]:
    """None without --ray. Raises UserError for options that belong to it, and for an address that is none."""
    if options.ray is None:
        if options.ray_actors or options.ray_gpus:
            raise UserError("--ray-actors and --ray-gpus say how a cluster is used: add --ray.")
        if any(getattr(options, name) for name in getattr(options, "needs_ray", ())):
            raise UserError("--out, --column and --fresh are for many images on a cluster: add --ray.")
        return None
    address = options.ray
    if address and os.path.exists(address):
        raise UserError(
            f"'{address}' is a file or folder, no address of a cluster: put --ray last, or write --ray=HOST:PORT."
        )
    return Fleet(address, options.ray_actors, options.ray_gpus, options.threads or 1)


def require_ray(address: str) -> None:
    """Imports Ray, set up for the cluster at `address`. Raises UserError if Ray or pyarrow can't be imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will do anyway, without the hint
    address = address or os.environ.get("RAY_ADDRESS", "local")
    if address == "local" or _loopback_only(address):
        # Ray turns 127.0.0.1 into the machine's own address, which others can reach, unless it takes it for a system where it has
        # no clusters. Read at its import; its processes inherit it.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import pyarrow  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(f"Ray can't be imported ({error}): {install('-e', '.[ray]')} in this repository.") from None


def _loopback_only(address: str) -> bool:
    """Whether a cluster at 127.0.0.1:PORT listens there alone; one that others may join has the machine's own address."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("8.8.8.8", 80))  # sends nothing: the system names the address that it would send from
            own = probe.getsockname()[0]
        socket.create_connection((own, int(port)), 1.0).close()
    except (OSError, OverflowError):
        return True
    return False


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 64 or (share > 1 and share != int(share)):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of GPUs: give 1, 2, or a share such as 0.5")
    return share
