"""Runs commands in forks of one process that has imported what all of them need, on machines that are made up for each.

A request is a line of JSON on standard input: "module" and "argv" of the command, "cwd", "environment", "path" (folders that
come first on sys.path), "missing" (modules that seem not to be installed), "libcuda" (a file, or "" for no driver); "out" and
"err" are files for what it prints. The answer is a line with its exit status.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import sys
from typing import Any, Dict

import numpy  # noqa: F401  # what follows is imported for the forks
import onnxruntime  # noqa: F401
import PIL.Image

import runtime.backends.onnx_runtime
import runtime.backends.tensorrt.backend
import runtime.backends.tensorrt.build
import runtime.backends.tensorrt.engine
import runtime.backends.tensorrt.explain
import runtime.backends.tensorrt.tuned
import runtime.command
import runtime.fleet.options
import runtime.images.find
import runtime.networks.classifier
import runtime.networks.pipeline
import runtime.output  # noqa: F401
import tests.runtime.backends.fake_tensorrt  # noqa: F401


def run(request: Dict[str, Any]) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    sys.path[:0] = request["path"]
    for module in request["missing"]:
        sys.modules[module] = None  # type: ignore[assignment]
    if request["libcuda"]:
        try:
            ctypes.CDLL(request["libcuda"])  # found by its name from here on, as if it lay where the linker looks
        except OSError as error:

            def refuse(name: str) -> None:
                raise refused

            refused, ctypes.CDLL = error, refuse  # type: ignore[assignment, misc]
    sys.argv = [request["module"], *request["argv"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    PIL.Image.preinit()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 0
            try:
                run(json.loads(line))
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 1
            except BaseException:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), flush=True)


if __name__ == "__main__":
    main()
