"""Progress of long work on one line: redrawn in place on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Callable, Optional, Protocol, TextIO


class Report(Protocol):
    """What long work tells how much of how much is done, and at which step: a `Progress`, or `silent`. With 0 of 0, `note`
    is a sentence that stays on the screen."""

    def __call__(self, done: int, of: int, note: str = "") -> None: ...


def silent(done: int, of: int, note: str = "") -> None:
    """Tells nobody."""


class Line:
    """A status line: redrawn at most five times a second on a terminal, printed every `pause` seconds elsewhere (a log, a pipe).

    `stream`: stderr if None, since stdout is for results.
    """

    def __init__(self, stream: Optional[TextIO] = None, pause: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.pause = 0.2 if self.terminal else pause
        self._shown = -1e9 if self.terminal else time.monotonic()  # work that is done at once leaves no line in a log
        self._drawn = False

    def due(self) -> bool:
        """Whether show() would show something now: worth asking if the text is expensive."""
        return time.monotonic() - self._shown >= self.pause

    def show(self, text: str, now: bool = False) -> None:
        """Shows `text` if it is due, or `now`."""
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
        """Ends the line, or erases it."""
        if self._drawn:
            blank = "\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r"
            print(blank if erase else "\n", end="", file=self.stream, flush=True)
        self._drawn = False


class Progress:
    """How much of long work is done, and the time that is left: "evaluating 120 of 500, 1:05 left" on one Line.

    Called with what is done, of how much, and, if the work has steps, which one (`note`). Time counts from the first call,
    since what an interrupted run had done cost this one nothing, and anew when a step begins: when less is done than
    before, or it is another amount. `count` writes the two numbers.
    """

    def __init__(self, label: str, pause: float = 10.0, count: Callable[[int], str] = str) -> None:
        self.label, self.line, self.count = label, Line(pause=pause), count
        self._of, self._done = -1, 0
        self.first, self._began = 0, 0.0

    def __call__(self, done: int, of: int, note: str = "") -> None:
        if not of:
            self.line.end(erase=True)
            print(f"{self.label} {note}", file=self.line.stream, flush=True)
            return
        begins = of != self._of or done < self._done
        if begins:
            self.first, self._began = done, time.monotonic()
        self._done, self._of = done, of
        now = done >= of or begins and bool(note)
        if not now and not self.line.due():
            return
        left = time_left(done - self.first, of - self.first, time.monotonic() - self._began)
        drawn = f"{bar(done, of)} " if self.line.terminal else ""
        step = f"{note}, " if note else ""
        self.line.show(f"{self.label} {drawn}{step}{self.count(done)} of {self.count(of)}{left}", now)

    @property
    def rate(self) -> float:
        """What was done in a second since the step began, 0 before anything was."""
        return (self._done - self.first) / max(time.monotonic() - self._began, 1e-9)

    def end(self, erase: bool = False) -> None:
        """Ends the line, or erases it."""
        self.line.end(erase)


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
