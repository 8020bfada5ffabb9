"""Every module of the runtime loads on this Python, with nothing installed but numpy and Pillow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Rooms that only a Ray cluster or a GPU's driver reaches, and the packages whose absence may keep them from loading.
OPTIONAL = {
    "runtime.fleet": {"ray", "pyarrow"},
    "runtime.backends.cuda": {"pycuda", "cuda"},
    "runtime.serve": {"aiohttp", "prometheus_client"},
}
PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(name, error.name)
"""


@pytest.mark.smoke
def test_every_module_imports() -> None:
    files = sorted((ROOT / "runtime").rglob("*.py"))
    assert len(files) > 80
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, *names]
    done = subprocess.run(command, cwd=str(ROOT), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for line in done.stdout.splitlines():
        name, missing = line.split()
        allowed = [packages for room, packages in OPTIONAL.items() if name.startswith(room + ".")]
        assert allowed and missing.split(".")[0] in allowed[0], f"{name} needs {missing}"
