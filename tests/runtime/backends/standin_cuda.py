"""A compiled stand-in for the CUDA driver's library (libcuda.c), for commands in processes of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("libcuda.c")


def standin(folder: Path) -> Path:
    """Compiles libcuda.so.1 into `folder`, which is then for LD_LIBRARY_PATH. Skips the test without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / "libcuda.so.1"
    options = ["-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *options, "-o", str(library), str(SOURCE)], check=True)
    return folder
