"""`python -m runtime.sweep` in a folder: it writes to reports/ in the current one."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # of its children
    os.chdir(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module("runtime.sweep", run_name="__main__", alter_sys=True)
