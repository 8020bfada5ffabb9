"""Runs a command and lists the folder's files afterwards: python -m tests.kill.on_a_small_disk FOLDER MODULE [ARGUMENT ...]"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    ended = subprocess.run([sys.executable, "-m", *sys.argv[2:]], stdout=sys.stderr)
    files = (f"{path.relative_to(folder)} {path.stat().st_size}" for path in folder.rglob("*") if path.is_file())
    print("|".join([str(ended.returncode), *files]))
