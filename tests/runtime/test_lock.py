"""One process at a time, and the peak of a process's own memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.lock import Taken, locked


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_second_holder_is_told_and_an_error_inside_is_the_callers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "lock" if kind == "file" else tmp_path
    with locked(path), pytest.raises(Taken), locked(path, wait=False):
        pass
    with pytest.raises(FileNotFoundError, match="of the body"), locked(path):
        raise FileNotFoundError("of the body")
    with locked(path, wait=False):  # free again
        pass


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells apart what came before exec")
def test_a_childs_peak_is_not_its_parents() -> None:
    """getrusage's ru_maxrss survives exec: a child of a 300 MB parent would say at least 300 MB."""
    child = [sys.executable, "-c", "from runtime.peak_memory import peak_bytes; print(peak_bytes())"]
    parent = (
        f"import subprocess; held = bytearray(b'x') * 300_000_000; print(subprocess.check_output({child!r}).decode())"
    )
    told = int(subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout)
    assert 1_000_000 < told < 150_000_000
