"""Puts the faults of table.py into a copy of the code, one at a time, and runs the tests named beside each:
python -m tests.mutants [WORDS]

Prints which faults no test noticed. Those with all WORDS in their file, fault or tests; without any, all. Exit status: 0
if every fault was noticed, 1 if one survived, could not be put in, or its tests fail without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.table import MUTANTS

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = (
    *("models", "export", "calibration", "runtime", "tests", "docs", "examples", "deploy"),
    *("pyproject.toml", "setup.py", "make_variables.py", "Makefile", "mkdocs.yml"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"),
)


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if all(word in " ".join(mutant) for word in words)]
    survived: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy(source, copy / name)
        print(f"{len(chosen)} faults; their tests without any", flush=True)
        status, said = tested(copy, sorted({test for mutant in chosen for test in mutant.tests.split()}))
        if status != 0:
            print(f"{said}\nThese tests fail, or are not there, without a fault.")
            return 1
        for mutant in chosen:
            began = time.perf_counter()
            outcome = noticed(copy, mutant)
            print(
                f"{outcome or 'noticed':<10} {time.perf_counter() - began:5.1f} s  {mutant.file}: {mutant.fault}",
                flush=True,
            )
            if outcome:
                survived.append(f"{mutant.file}: {mutant.fault} ({outcome})")
    print(f"{len(survived)} survivors of {len(chosen)}", *survived, sep="\n  ")
    return min(1, len(survived))


def noticed(copy: Path, mutant: Mutant) -> str:
    """ "" if the mutant's tests fail, else why not."""
    path = copy / mutant.file
    code = path.read_text(encoding="utf-8")
    count = code.count(mutant.old)
    if count != 1:
        return f"occurs {count} times"
    path.write_text(code.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        status, _ = tested(copy, mutant.tests.split())
    finally:
        path.write_text(code, encoding="utf-8")
    return {0: "SURVIVED", 1: ""}.get(status, f"pytest ended with {status}")


def tested(copy: Path, tests: list[str]) -> tuple[int, str]:
    """Exit status of pytest on `tests` within `copy`, and what it printed. 1: a test failed."""
    # Python tells old bytecode by the time and size of the source, which a fault put in at once need not change.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "pytest", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
