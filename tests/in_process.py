"""The project's commands, run inside the test's own process: what they print and how they end, without the half second that
a new process takes. Each command has one test besides that starts it as people do."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Callable, List, NamedTuple
from unittest import mock

from runtime.command import run
from runtime.images import find


class Done(NamedTuple):
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


def called(main: Callable[[List[str]], int], *arguments: Any, stdin: bytes = b"", **environment: str) -> Done:
    """`main` of a command's module, with `arguments` (text, bytes or paths) and variables of the `environment` set."""
    words = [os.fsdecode(word) if isinstance(word, (bytes, os.PathLike)) else str(word) for word in arguments]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    hook = sys.unraisablehook
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.object(sys, "stdin", given))
        stack.enter_context(mock.patch.object(find, "LEFT_OUT", find.LeftOut()))  # a process of its own has its own
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            run(lambda: main(words))
        except SystemExit as left:
            status = left.code
        finally:
            sys.unraisablehook = hook
    texts = [stream.buffer.getvalue().decode() for stream in (out, err) if not stream.flush()]  # type: ignore[attr-defined]
    assert isinstance(status, int), status
    assert "Traceback" not in texts[1], texts[1]
    return Done(status, *texts)
