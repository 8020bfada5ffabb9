"""Joining a Ray cluster, or starting one of this machine alone, and what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from typing import Any, Dict, Iterator

from ..backends.processor import processors
from ..errors import UserError
from .options import require_ray

_ANSWER = 5.0  # s that a cluster may take to accept a connection


@contextlib.contextmanager
def joined(address: str) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address` (see Fleet) until the end.

    A cluster that is started here has no dashboard, listens on the loopback alone and ends with this process. To others
    this project's runtime/ is sent, so that every node runs the driver's version. Raises UserError if there is none."""
    require_ray(address)
    import ray

    address = address or os.environ.get("RAY_ADDRESS", "")
    options: Dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address and address != "local":
        _require_listening(address)
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        options.update(address=address, runtime_env={"py_modules": [here], "excludes": ["__pycache__", "*.pyc"]})
    else:
        address = ""
        options.update(address="local", include_dashboard=False, num_cpus=processors(), _node_ip_address="127.0.0.1")
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # this project has lines of its own
    try:
        ray.init(**options)
    except Exception as error:  # plain ones too, where a node starts too slowly
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise UserError(f"Can't use {where}: {str(error).strip().splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """A cluster that isn't there is found out at once; Ray itself would try for minutes."""
    if address == "auto":
        return
    found = re.fullmatch(r"([^\s/:]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if address.startswith("ray://"):
        raise UserError(
            f"{address} is for Ray's client, and a job's driver belongs on a node of the cluster: run this command there with "
            "--ray auto, or send it with 'ray job submit'."
        )
    if not found:
        raise UserError(f"'{address}' is no address of a Ray cluster: write HOST:PORT (often port 6379), or auto.")
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"No Ray cluster answers at {address} ({error}): 'ray start --head' starts one.") from None
