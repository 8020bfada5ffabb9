"""The real tritonserver, as the wheel nvidia-pytriton carries it: it has the Python backend alone, and runs without a GPU.

build/triton/bin/python -m tests.serving.triton artifacts/triton-cpu    # serves until Ctrl-C
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Optional

LOADING = 120.0  # seconds that a server may take until it is ready; it takes about 4
_STUB = "triton_python_backend_stub"


def wheel() -> Optional[Path]:
    """The folder of the server in the wheel; None where that is not installed."""
    spec = importlib.util.find_spec("pytriton")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / "tritonserver" if places else None


class Triton:
    """A server on free ports of this machine, until it is closed."""

    def __init__(self, repository: Path, folder: Path, *options: str) -> None:
        """`folder`: for its log and its backends. Raises RuntimeError with the end of the log if it does not start."""
        home = wheel()
        assert home is not None
        self.http, self.grpc, self.metrics = _free_ports(3)
        self.log = folder / "triton.log"
        backends = _backends(home, folder)
        libraries = [str(home.parents[1] / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
        command = [
            str(home / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--http-port={self.http}",
            f"--grpc-port={self.grpc}",
            f"--metrics-port={self.metrics}",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--metrics-address=127.0.0.1",
            "--exit-timeout-secs=5",
            *options,
        ]
        # The Python inside the backend's process takes the packages of the first python3 in PATH.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries)), "PATH": path}
        environment.pop("PYTHONPATH", None)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=str(folder), start_new_session=True
            )
        try:
            self.wait()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.http}"

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc}"

    def wait(self) -> None:
        """Until it is ready."""
        end = time.monotonic() + LOADING
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(
                f"http://{self.url}/v2/health/ready", timeout=5
            ) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"tritonserver did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.url}/v2/{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, content: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://{self.url}/v2/{path}", json.dumps(content or {}).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=LOADING) as answer:
            return json.loads(answer.read() or b"{}")

    def statistics(self, model: str) -> Dict[str, Any]:
        """Of the newest version that was asked anything."""
        return max(self.get(f"models/{model}/stats")["model_stats"], key=lambda row: int(row["version"]))

    def counters(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def stubs(self) -> List[int]:
        """Process ids of the Python backend's processes."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and _STUB in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    if int(parent) == self.process.pid:
                        found.append(int(entry.name))
        return sorted(found)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # what is left of its own session
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def __enter__(self) -> Triton:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _backends(home: Path, folder: Path) -> Path:
    """The wheel's backends, with the stub of the Python that runs this beside the Python backend."""
    target = folder / "backends" / "python"
    if not target.exists():
        target.mkdir(parents=True)
        for file in (home / "backends" / "python").iterdir():
            if file.name != _STUB:
                (target / file.name).symlink_to(file)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        (target / _STUB).symlink_to(home / "python_backend_stubs" / version / _STUB)
    return target.parent


def _free_ports(count: int) -> List[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> int:
    """Serves the repository that the command line names, on free ports."""
    repository = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path("artifacts", "triton-cpu").resolve()
    if wheel() is None or not repository.is_dir():
        print(
            f"{repository} is no folder, or nvidia-pytriton is not installed (make test-triton does it).",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        options = ("--model-control-mode=explicit", "--load-model=*", "--exit-on-error=false")
        with Triton(repository, Path(folder), *options) as server:
            print(f"HTTP {server.url}, gRPC {server.grpc_url}, metrics 127.0.0.1:{server.metrics}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                return server.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
