"""The project's commands in processes that fork from one which has imported torch, onnx and onnxruntime already: a test can
start and kill a hundred of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# What the commands import, but not the commands' own modules: they run as __main__, with the memory of a fresh process.
_PRELOADED = [
    "pytest",
    "numpy",
    "PIL.Image",
    "onnx",
    "onnxsim",
    "onnxruntime",
    "torch",
    "safetensors.torch",
    "export.stage",
    "export.parity",
    "export.to_onnx",
    "export.fp16",
    "models.pretrained",
    "calibration.stage",
    "calibration.report.page",
    "runtime.networks.classifier",
    "runtime.backends.tensorrt.engine",
    "runtime.sweep.run",
    "tests.warm",
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


@dataclass
class Ended:
    """How a command ended; stdout and stderr as one, byte for byte."""

    status: int  # below 0: minus the signal
    output: bytes

    @property
    def text(self) -> str:
        return self.output.decode("utf-8", "replace")


class Command:
    """A command at work."""

    def __init__(self, module: str, *arguments: object, **environment: str) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self.output = Path(file.name)
        words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in arguments]
        # Arguments need not be text: a file's name may be any bytes.
        self.process = ForkServerProcess(
            target=_run, args=(module, [os.fsencode(word) for word in words], environment, str(self.output))
        )
        self.process.start()

    def kill(self, group: bool = False) -> None:
        """SIGKILL to the process, or to it and all the children that share its group."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)

    def wait(self, seconds: float = 900) -> Ended:
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill(group=True)
            self.process.join()
            raise AssertionError(f"not done after {seconds} s: {self.output.read_bytes()!r}")
        assert self.process.exitcode is not None
        ended = Ended(self.process.exitcode, self.output.read_bytes())
        self.output.unlink()
        return ended


def command(module: str, *arguments: object, **environment: str) -> Ended:
    return Command(module, *arguments, **environment).wait()


def descendants_gone(folder: Path, seconds: float = 300) -> None:
    """Waits until no process has `folder` in its command line or environment: children of killed commands that are still at
    work. TensorRT's builder has it in none but the second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(os.fsencode(folder) in words for words in _words()):
            return
        time.sleep(0.1)
    raise AssertionError(f"processes at work in {folder} after {seconds} s")


def _words() -> list[bytes]:
    """The command line of each other process, and its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            for file in ("cmdline", "environ"):
                with contextlib.suppress(OSError):  # gone since, or another user's
                    found.append((entry / file).read_bytes())
    return found


def _run(module: str, arguments: list[bytes], environment: dict[str, str], output: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(handle, descriptor)
    sys.argv = [module, *map(os.fsdecode, arguments)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
