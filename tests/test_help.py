"""Every command of the project explains itself."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_every_command_explains_itself() -> None:
    files = [
        file for room in ("models", "export", "calibration", "runtime") for file in (REPOSITORY / room).rglob("*.py")
    ]
    commands = [file for file in files if "\n    run(main)\n" in file.read_text()]
    assert len(commands) >= 15

    def helped(file: Path) -> str:
        module = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        name = module[: -len(".__main__")] if module.endswith(".__main__") else module
        command = [sys.executable, "-m", name, "--help"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        fine = done.returncode == 0 and not done.stderr and done.stdout.startswith(f"usage: python -m {name} ")
        return "" if fine else f"{name}: {done.returncode} {done.stdout[:200]} {done.stderr[-500:]}"

    with ThreadPoolExecutor(2) as threads:
        assert not list(filter(None, threads.map(helped, commands)))
