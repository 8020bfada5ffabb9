"""The project's other commands as child processes: each starts with a fresh memory, and may fail alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from typing import List, Set

from ..invocation import environment, module

_SAID: Set[str] = set()  # lines that children passed on: the second one that warns of the same adds nothing
_PATIENCE = 3  # s that an interrupted child has to end by itself: Ctrl-C reaches it too


class Failed(Exception):
    """A child ended with an error; the text is its reason, on one line. `output`: what it had printed to stdout."""

    output = ""


BESIDE = ("export", "calibration", "models")  # commands of a checkout that are not of this package


def command(name: str) -> List[str]:
    """The beginning of a command line that runs `name`: of this package, as "bench", or one of BESIDE."""
    return [sys.executable, "-m", name] if name in BESIDE else module(name)


def run_module(name: str, *arguments: object) -> str:
    """What command `name`, see `command`, prints with `arguments` to stdout; its stderr is passed on as it comes.

    Raises Failed with the sentence that it ended with. When this process is interrupted, the child ends first.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [*command(name), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment(),
            encoding="utf-8",
            errors="replace",
        )
        lines = []
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line not in _SAID:
                    print(f"  {line.rstrip()}", file=sys.stderr, flush=True)
                if re.search(r"[^.]\.$", line):  # a sentence, not a step
                    _SAID.add(line)
                lines.append(line.rstrip())
                del lines[:-50]
            status = process.wait()
        except BaseException:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        output.seek(0)
        printed = output.read()
        if status:
            failed = Failed(reason(lines, status))
            failed.output = printed
            raise failed
        return printed


def reason(lines: List[str], status: int) -> str:
    """Why a process ended with `status`, from the last `lines` of its stderr: its error, else its last words."""
    if status < 0:
        return f"ended by signal {-status}" + (", probably for want of memory" if status == -9 else "")
    spoken = [line for line in lines if line.strip()]
    if not spoken:
        return f"ended with status {status} and without a word"
    begin = next((i for i in reversed(range(len(spoken))) if spoken[i].startswith("error: ")), None)
    if begin is not None:
        error = [line.strip() for line in spoken[begin:]]
        first = error[0][len("error: ") :]
        return f"{first} ... {error[-1]}" if len(error) > 2 else " ".join([first, *error[1:]])
    trace = next((i for i in reversed(range(len(spoken))) if spoken[i].startswith("Traceback ")), None)
    if trace is not None:  # the exception is the first line after it that is not indented
        return next((line for line in spoken[trace + 1 :] if not line.startswith(" ")), spoken[-1].strip())
    return spoken[-1].strip()
