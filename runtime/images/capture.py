"""Cameras and video files, through OpenCV: imported here, when one is opened."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Iterator, NamedTuple, Optional, Union

from ..errors import UserError
from .live import Event, Frame, Pace, Stop

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds before a lost camera is tried again
_LEAVING = 2.0  # seconds that a read which does not return is waited for at the end

_FPS = 5  # cv2.CAP_PROP_FPS

Open = Callable[[], Any]  # a cv2.VideoCapture, opened or not


class NoCamera(UserError):
    """A camera or video that is asked for rightly and is not there."""

    status = 1


def is_pipeline(source: str) -> bool:
    """Whether `source` is a GStreamer pipeline."""
    return " ! " in source


def is_camera(source: str) -> bool:
    return is_pipeline(source) or source.isdigit() or source.startswith("/dev/")


def opener(source: str) -> Open:
    """How `source` (an index, a device, a GStreamer pipeline, a file) is opened. Raises UserError without OpenCV."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # or each try to open a lost camera writes lines on stderr
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"Cameras and video files need OpenCV, which can't be imported ({error}): pip install "
            "opencv-python-headless; on a Jetson, JetPack's own (python3-opencv), since only that one has GStreamer."
        ) from None
    if is_pipeline(source):
        if "GStreamer:                   YES" not in cv2.getBuildInformation():
            raise UserError(
                f"This OpenCV {cv2.__version__} was built without GStreamer, as those from pip are: use JetPack's or "
                "Debian's python3-opencv, or name the camera as /dev/video0."
            )
        return lambda: cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
    if source.isdigit():
        return lambda: cv2.VideoCapture(int(source))
    if source.startswith("/dev/"):  # /dev/v4l/by-id/... is a link, which stays the same when the number changes
        return lambda: cv2.VideoCapture(os.path.realpath(source), cv2.CAP_V4L2)
    return lambda: cv2.VideoCapture(source)


def opened(source: str, open_it: Open) -> Any:
    """An open capture. Raises NoCamera if there is none."""
    capture = open_it()
    if not capture.isOpened():
        capture.release()
        if is_camera(source):
            raise NoCamera(
                f"The camera {source} can't be opened: is it there, is another program using it, may this user read it?"
            )
        raise NoCamera(f"The video {source} can't be opened: it is damaged, or of a kind that this OpenCV can't read.")
    return capture


class Video:
    """The frames of a video file, all of them; with `rate` as many for each second of the video, evenly."""

    live = False
    dropped = 0

    def __init__(self, source: str, open_it: Open, stop: Stop, rate: Optional[float] = None) -> None:
        if not os.path.isfile(source):
            raise UserError(f"There is no file {source}.")
        self.source, self.stop, self.rate = source, stop, rate
        self.capture = opened(source, open_it)

    def __iter__(self) -> Iterator[Union[Frame, Event]]:
        fps = frames_a_second(self.capture)
        number, taken = 0, 0
        while not self.stop and self.capture.grab():
            number += 1
            if self.rate and (number - 1) / fps < taken / self.rate:
                continue
            ok, pixels = self.capture.retrieve()
            if not ok:
                yield Event("unreadable", {"frame": number, "error": "the frame can't be decoded"})
                continue
            taken += 1
            about = {"frame": number, "second": round((number - 1) / fps, 3)}
            yield Frame(about, pixels[..., ::-1], f"frame {number}", time.monotonic())  # BGR -> RGB
        if not number:
            raise NoCamera(f"The video {self.source} has no frame that can be read.")

    def close(self) -> None:
        """See runtime.images.live.Stream."""
        self.capture.release()


class _Kept(NamedTuple):
    number: int
    pixels: Any  # uint8 [H, W, 3], BGR
    came: float


class Camera:
    """The newest frames of a camera. A thread reads them as they come and keeps the last `keep`; older ones are dropped.

    A camera that fails is opened anew, with pauses of 0.5 s to 10 s: events say when it was lost and is back. One whose
    driver does not return for `silent` seconds is called lost as well, but only its driver can end that. `ends`: a video
    played at its own speed, for trying things out without a camera; it may end.
    """

    live = True

    def __init__(
        self,
        source: str,
        open_it: Open,
        stop: Stop,
        rate: Optional[float] = None,
        keep: int = 1,
        silent: float = 10.0,
        ends: bool = False,
    ) -> None:
        self.source, self.open_it, self.stop, self.pace = source, open_it, stop, Pace(rate, stop)
        self.silent, self.ends, self.dropped = silent, ends, 0
        self._waiting: Deque[Union[_Kept, Event]] = deque()  # in the order in which they came
        self._keep = keep
        self._change = threading.Condition()
        self._closed, self._ended = Stop(), False
        self._lost: Optional[float] = None  # since when
        self._number = 0
        self._last = time.monotonic()
        self._failure: Optional[BaseException] = None
        capture = opened(source, open_it)
        self._thread = threading.Thread(target=self._live, args=(capture,), name=f"camera {source}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Union[Frame, Event]]:
        while not self.stop:
            thing = self._next()
            if isinstance(thing, _Kept):
                name = f"frame {thing.number}"
                yield Frame({"frame": thing.number}, thing.pixels[..., ::-1], name, thing.came)  # BGR -> RGB
            elif thing is not None:
                yield thing
            elif self._ended:
                if self._failure is not None:
                    raise self._failure
                return

    def close(self) -> None:
        """See runtime.images.live.Stream."""
        self._closed.pull("closed")
        self._thread.join(_LEAVING)

    def _next(self) -> Union[_Kept, Event, None]:
        """What is next, waited for a moment; None: nothing yet, or never again."""
        with self._change:
            if not self._waiting and not self._ended:
                self._change.wait(Stop.LOOK)
            if self._lost is None and not self._ended and time.monotonic() - self._last > self.silent:
                self._lose(f"no frame for {self.silent:g} s")
            if not self._waiting:
                return None
            if isinstance(self._waiting[0], Event):
                return self._waiting.popleft()
        if not self.pace.wait():
            return None
        with self._change:  # perhaps a newer one by now: none is taken out without another being put in
            return self._waiting.popleft()

    # The thread that reads

    def _live(self, capture: Any) -> None:
        try:
            pause = _FIRST_PAUSE
            while not self._closed:
                reason = self._read(capture)
                with contextlib.suppress(Exception):
                    capture.release()
                if self.ends or self._closed:
                    break
                with self._change:
                    if self._lost is None:
                        self._lose(reason)
                        pause = _FIRST_PAUSE
                if self._closed.pause(pause):
                    break
                pause = min(2 * pause, _LONGEST_PAUSE)
                capture = self.open_it()
        except BaseException as error:  # ours, or OpenCV's on opening
            self._failure = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _read(self, capture: Any) -> str:
        """Reads until that fails: why."""
        if not capture.isOpened():
            return "it can't be opened"
        gap = 1 / frames_a_second(capture) if self.ends else 0.0
        due = time.monotonic()
        while not self._closed:
            try:
                ok, pixels = capture.read()
            except Exception as error:  # cv2.error
                return str(error).strip() or type(error).__name__
            if not ok or pixels is None:
                return "it gives no more frames"
            with self._change:
                self._put(pixels)
            if gap:
                due += gap
                self._closed.pause(due - time.monotonic())
        return "closed"

    def _put(self, pixels: Any) -> None:
        now = time.monotonic()
        if self._lost is not None:
            away = round(now - self._lost, 1)
            self._waiting.append(Event("camera back", {"camera": self.source, "seconds": away}))
            self._lost = None
        self._number, self._last = self._number + 1, now
        frames = [place for place, thing in enumerate(self._waiting) if isinstance(thing, _Kept)]
        if len(frames) == self._keep:
            del self._waiting[frames[0]]
            self.dropped += 1
        self._waiting.append(_Kept(self._number, pixels, now))
        self._change.notify_all()

    def _lose(self, reason: str) -> None:
        self._lost = time.monotonic()
        self._waiting.append(Event("camera lost", {"camera": self.source, "error": reason}))
        self._change.notify_all()


def frames_a_second(capture: Any) -> float:
    """What the video says; 25 where it says nothing."""
    fps = float(capture.get(_FPS))
    return fps if 0 < fps < 1000 else 25.0
