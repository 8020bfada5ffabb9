"""A Ray cluster of several nodes on this machine, each with processes of its own, on the loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240  # s for a condition that is sure to come: a shared machine may be slow


class Done(NamedTuple):
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


class Nodes:
    """A head, most often without CPUs, so that all work is on `workers` nodes of one CPU each."""

    def __init__(self, workers: int, head_cpus: int = 0) -> None:
        os.environ.update(
            RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0"
        )  # the second: loopback alone
        from ray.cluster_utils import Cluster

        common: Dict[str, Any] = {
            "node_ip_address": "127.0.0.1",
            "include_dashboard": False,
            "object_store_memory": 200 << 20,
        }
        self.cluster = Cluster(initialize_head=True, connect=False, head_node_args={**common, "num_cpus": head_cpus})
        common.pop("include_dashboard")
        self.workers = [self.cluster.add_node(wait=True, num_cpus=1, **common) for _ in range(workers)]
        self.address = self.cluster.address

    def kill(self, worker: int) -> None:
        """As a power cut: the node's raylet and all that it has started, at once."""
        (raylet,) = [each.process for each in self.workers[worker].all_processes["raylet"]]
        family = [raylet.pid, *descendants(raylet.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        self.cluster.shutdown()


def descendants(pid: int) -> List[int]:
    found: List[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def command(*arguments: object) -> List[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def environment(folder: Path) -> Dict[str, str]:
    """Of a command that runs in `folder`."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def run(folder: Path, *arguments: object) -> Done:
    """`python -m arguments` in `folder`."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def started(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The same, not waited for; killed at the end if it still runs."""
    with open(folder / "stderr.txt", "w") as errors:
        process = subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Waits for `condition` to hold, while `process` runs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        assert process.poll() is None, f"it ended with {process.returncode} before that"
        time.sleep(0.02)
    raise AssertionError("waited in vain")
