"""What all live sources of images share: cameras, video files, and folders that files are put into."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterator, NamedTuple, Optional, Protocol, Union

from .decode import Source


class Frame(NamedTuple):
    """One image to classify."""

    about: Dict[str, Any]  # the keys of its output line: {"frame": 17} or {"file": "door/17.jpg"}
    image: Source
    name: str  # for errors
    came: float  # time.monotonic() at which it became available


class Event(NamedTuple):
    """Something other than a frame that happened at this point of the stream."""

    name: str
    about: Dict[str, Any]


class Stream(Protocol):
    """A live source of images. One thread iterates it, once; it ends soon after its Stop was pulled."""

    live: bool  # only the newest frame counts: a slow consumer misses older ones
    dropped: int  # frames so far that were replaced by newer ones

    @property
    def missing(self) -> int:
        """Frames of a damaged video that can't be read, so far."""
        ...

    def __iter__(self) -> Iterator[Union[Frame, Event]]: ...

    def close(self) -> None:
        """Releases the device. The stream can't be iterated afterwards."""
        ...


class Stop:
    """A flag that tells a loop to stop. Signal handlers set it, so it has no lock; waiting code polls it ten times a second."""

    LOOK = 0.1

    def __init__(self) -> None:
        self.reason: Optional[str] = None

    def pull(self, reason: str) -> None:
        self.reason = self.reason or reason

    def __bool__(self) -> bool:
        return self.reason is not None

    def pause(self, seconds: float) -> bool:
        """Waits `seconds`, or until the flag is set. Returns whether it is set."""
        until = time.monotonic() + seconds
        while not self:
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, self.LOOK))
        return bool(self)


class Pace:
    """Limits a stream to `rate` frames a second. None: no limit."""

    def __init__(self, rate: Optional[float], stop: Stop) -> None:
        self.gap, self.stop, self.due = 1 / rate if rate else 0.0, stop, time.monotonic()

    def wait(self) -> bool:
        """Waits until the next frame is due. Returns False if it is time to stop. Time lost is not made up for."""
        now = time.monotonic()
        if self.stop.pause(self.due - now):
            return False
        self.due = max(self.due, now - self.gap) + self.gap
        return True
