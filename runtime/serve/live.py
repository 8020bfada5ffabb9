"""The camera loop behind the page: the newest frame, its classes, a minute of timings, the latest events."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional

from PIL import Image

from ..errors import UserError
from ..images.decode import ImageError, Source, open_image
from ..images.live import Stop
from .models import Busy, Classified, Reloading

SHOWN = 960  # px, the longer side of a frame on the page
_THUMBNAIL = 160  # px
_QUALITY = 80  # of JPEG
_EVENTS = 24
_MINUTE = 60  # seconds of timings
_AGAIN = 2  # frames in a row with another best class before that is an event: one may be a flicker


class Event(NamedTuple):
    """Something worth a line on the page."""

    number: int
    time: float  # time.time()
    text: str
    thumbnail: bytes  # JPEG, or b""


class _Second(NamedTuple):
    second: int  # of time.monotonic()
    frames: int
    milliseconds: Dict[str, float]  # sums


class Live:
    """Classifies what a source gives, in a thread, and keeps what the page shows of it. Memory does not grow with viewers:
    they all get the newest frame, encoded once, whenever each asks."""

    def __init__(self, source: Any, models: Reloading, stop: Stop, changed: Callable[[], None] = lambda: None) -> None:
        """`source`: as runtime.watch opens it. `changed` is called, from the thread, when there is a new frame or event."""
        self.source, self.models, self.stop, self.changed = source, models, stop, changed
        self.ended: Optional[str] = None  # why
        self.number = 0  # of the newest frame
        self.failed = 0
        self._frame: Optional[Source] = None
        self._about: Dict[str, Any] = {}
        self._found: Optional[Classified] = None
        self._encoded = (0, b"")
        self._seconds: Deque[_Second] = deque(maxlen=_MINUTE)
        self.events: Deque[Event] = deque(maxlen=_EVENTS)
        self._best: Optional[int] = None  # the class that was last an event
        self._candidate, self._times = -1, 0
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the loop and lets go of the camera."""
        self.stop.pull("closed")
        self._thread.join(5)
        self.source.close()

    def jpeg(self) -> bytes:
        """The newest frame as JPEG, at most SHOWN px on its longer side; b"" before the first."""
        with self._encoding:
            with self._lock:
                number, frame = self.number, self._frame
            if frame is None or self._encoded[0] == number:
                return self._encoded[1]
            self._encoded = (number, _jpeg(frame, SHOWN))
            return self._encoded[1]

    def state(self) -> Dict[str, Any]:
        """What the page shows, as JSON-able values."""
        with self._lock:
            found, seconds = self._found, list(self._seconds)
            state = {
                "frame": self.number,
                "about": self._about,
                "predictions": [each._asdict() for each in found.predictions] if found else [],
                "ms": {name: round(ms, 2) for name, ms in found.milliseconds.items()} if found else {},
                "dropped": self.source.dropped,
                "failed": self.failed,
                "ended": self.ended,
                "events": [{**event._asdict(), "thumbnail": bool(event.thumbnail)} for event in reversed(self.events)],
            }
        now = int(time.monotonic())
        whole = [each for each in seconds if now - 6 < each.second < now]
        state["fps"] = round(sum(each.frames for each in whole) / 5, 1) if whole else 0.0
        state["minute"] = [
            {
                "ago": now - each.second,
                "frames": each.frames,
                "ms": {name: round(ms / each.frames, 2) for name, ms in each.milliseconds.items()},
            }
            for each in seconds
            if now - each.second <= _MINUTE
        ]
        return state

    def _run(self) -> None:
        reason = ""
        try:
            for item in self.source:
                if self.stop:
                    break
                if hasattr(item, "came"):
                    self._classify(item)
                else:
                    self._event(_without_paths(item.name, item.about.get("error", "")), None)
                self.changed()
        except Exception as error:  # the camera's or the network's: the endpoint goes on, and the page says it
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            print(f"the live image has ended: {said}", file=sys.stderr, flush=True)
            reason = said if "/" not in said else "an error that the server's log names"
        with self._lock:
            self.ended = reason or self.stop.reason or "the source has ended"
        self.changed()

    def _classify(self, item: Any) -> None:
        name = item.name.replace("\\", "/").rpartition("/")[2]  # a folder's files have their whole path
        about = {**item.about, "file": name} if "file" in item.about else item.about
        try:
            found = self.models.classify(item[1], name, 5)
        except Busy:  # requests fill the queue: the next frame is a newer one
            return
        except ImageError as error:
            with self._lock:
                self.failed += 1
            self._event(str(error), None)
            return
        with self._lock:
            self.number += 1
            self._frame, self._about, self._found = item[1], about, found
            second = int(time.monotonic())
            if self._seconds and self._seconds[-1].second == second:
                last = self._seconds.pop()
                sums = {name: last.milliseconds.get(name, 0.0) + ms for name, ms in found.milliseconds.items()}
                self._seconds.append(_Second(second, last.frames + 1, sums))
            else:
                self._seconds.append(_Second(second, 1, found.milliseconds))
        best = found.predictions[0]
        self._times = self._times + 1 if best.index == self._candidate else 1
        self._candidate = best.index
        if best.index != self._best and self._times >= (_AGAIN if self._best is not None else 1):
            self._best = best.index
            self._event(f"{best.label} ({best.probability:.0%})", item[1])

    def _event(self, text: str, frame: Optional[Source]) -> None:
        thumbnail = _jpeg(frame, _THUMBNAIL) if frame is not None else b""
        with self._lock:
            number = self.events[-1].number + 1 if self.events else 1
            self.events.append(Event(number, time.time(), text, thumbnail))


def _without_paths(name: str, said: object) -> str:
    """What happened, as the page may show it: without paths, which are nobody's business."""
    return f"{name}: {said}" if str(said) and "/" not in str(said) else name


def _jpeg(source: Source, longer: int) -> bytes:
    """`source` as JPEG, at most `longer` px on its longer side; b"" if it is no image any more (a file may be gone)."""
    try:
        image = open_image(source, "frame", at_least=longer)
    except ImageError:
        return b""
    image = image.copy()
    image.thumbnail((longer, longer), Image.Resampling.BILINEAR)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_QUALITY)
    return encoded.getvalue()
