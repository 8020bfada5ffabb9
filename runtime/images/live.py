"""Where images come from that nobody lists beforehand: cameras, video files, folders into which files are put."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterator, NamedTuple, Optional, Protocol, Union

from .decode import Source


class Frame(NamedTuple):
    """One image to classify."""

    about: Dict[str, Any]  # what its line says of it: {"frame": 17} or {"file": "door/17.jpg"}
    image: Source
    name: str  # for errors
    came: float  # time.monotonic() when it was there


class Event(NamedTuple):
    """Something else that happened, in its place among the frames."""

    name: str
    about: Dict[str, Any]


class Stream(Protocol):
    """A source: iterated once, by one thread; ends soon after its Stop was pulled."""

    live: bool  # the newest frame is what counts: whoever is slow misses some
    dropped: int  # frames that came and were not given out, so far

    @property
    def missing(self) -> int:
        """Frames of a damaged video that can't be read, so far."""
        ...

    def __iter__(self) -> Iterator[Union[Frame, Event]]: ...

    def close(self) -> None:
        """Lets go of the device; it can't be iterated afterwards."""
        ...


class Stop:
    """Says that it is time to stop. Set by signal handlers, so it has no lock; who waits looks at it ten times a second."""

    LOOK = 0.1

    def __init__(self) -> None:
        self.reason: Optional[str] = None

    def pull(self, reason: str) -> None:
        self.reason = self.reason or reason

    def __bool__(self) -> bool:
        return self.reason is not None

    def pause(self, seconds: float) -> bool:
        """Waits `seconds`, or until it is pulled: whether it was."""
        until = time.monotonic() + seconds
        while not self:
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, self.LOOK))
        return bool(self)


class Pace:
    """At most `rate` frames a second; None: as fast as they come."""

    def __init__(self, rate: Optional[float], stop: Stop) -> None:
        self.gap, self.stop, self.due = 1 / rate if rate else 0.0, stop, time.monotonic()

    def wait(self) -> bool:
        """Until the next frame is due: False if it is time to stop. What was missed is not made up for."""
        now = time.monotonic()
        if self.stop.pause(self.due - now):
            return False
        self.due = max(self.due, now - self.gap) + self.gap
        return True
