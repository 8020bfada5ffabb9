"""Runs a command under a limit on the size of files: python -m tests.kill.limited BYTES MODULE [ARGUMENT ...]"""

from __future__ import annotations

import resource
import runpy
import sys

if __name__ == "__main__":
    size, module = int(sys.argv[1]), sys.argv[2]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
