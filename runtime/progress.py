"""One line that says how far long work is: redrawn in place on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Optional, TextIO


class Line:
    """Shows what it is told at most five times a second on a terminal, each `pause` seconds elsewhere (a log, a pipe).

    `stream`: stderr if None, since stdout is for results.
    """

    def __init__(self, stream: Optional[TextIO] = None, pause: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.pause = 0.2 if self.terminal else pause
        self._shown = -1e9 if self.terminal else time.monotonic()  # work that is done at once leaves no line in a log
        self._drawn = False

    def due(self) -> bool:
        """Whether show() would show something: where making the text costs."""
        return time.monotonic() - self._shown >= self.pause

    def show(self, text: str, now: bool = False) -> None:
        """`now`: whatever was shown when."""
        if not now and not self.due():
            return
        self._shown = time.monotonic()
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r" + text[:width].ljust(width))
            self.stream.flush()
            self._drawn = True
        else:
            print(text, file=self.stream, flush=True)

    def end(self, erase: bool = False) -> None:
        """Leaves the line as it is and goes to the next, or takes it away."""
        if self._drawn:
            blank = "\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r"
            print(blank if erase else "\n", end="", file=self.stream, flush=True)
        self._drawn = False


def bar(done: int, of: int, width: int = 20) -> str:
    """[########............]"""
    full = width * min(done, of) // max(of, 1)
    return f"[{'#' * full}{'.' * (width - full)}]"


def time_left(done: int, of: int, seconds: float) -> str:
    """ ", 1:05 left" if `done` of `of` took `seconds`; "" if that can't be told."""
    if not 0 < done < of or seconds <= 0:
        return ""
    minutes, rest = divmod(round((of - done) * seconds / done), 60)
    return f", {minutes}:{rest:02} left"
