"""Every command of the project explains itself, and loads nothing slow for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# Each module as `python -m` runs it, one after the other: what it prints, how it ends, and whether torch is there by then.
ASKED = """
import contextlib, io, json, runpy, sys
for name in sys.argv[1:]:
    for end in range(name.count(".") + 1):  # the module and its packages are run anew, as at the start of a process
        sys.modules.pop(name.rsplit(".", end)[0], None)
    sys.argv, out, err = [name, "--help"], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            status = ended.code
    print(json.dumps([name, status, out.getvalue(), err.getvalue(), "torch" in sys.modules]))
"""


def test_every_command_explains_itself_at_once() -> None:
    files = [
        file for room in ("models", "export", "calibration", "runtime") for file in (REPOSITORY / room).rglob("*.py")
    ]
    modules = [
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        for file in files
        if "\n    run(main)\n" in file.read_text()
    ]
    names = [module[: -len(".__main__")] if module.endswith(".__main__") else module for module in modules]
    assert len(names) >= 15
    command = [sys.executable, "-c", ASKED, *names]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in told] == names, done.stderr
    for name, status, out, err, torch in told:
        assert (status, err) == (0, "") and out.startswith(f"usage: python -m {name} "), (name, status, out, err)
        assert not torch, f"{name} loads torch, which takes seconds, before it knows what is asked"
