"""Cameras and video files, through OpenCV, which is imported only when one is opened."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Iterator, NamedTuple, Optional, Union

from ..errors import UserError
from ..invocation import install
from .live import Event, Frame, Pace, Stop

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds before a lost camera is tried again
_LEAVING = 2.0  # seconds at the end to wait for a read that does not return

_TIME, _FPS, _COUNT, _PTS = 0, 5, 7, 71  # cv2.CAP_PROP_POS_MSEC, _FPS, _FRAME_COUNT, _PTS (0 where OpenCV has none)
_PAUSE = 0.5, 10  # seconds, and times the longest pause so far, beyond which time stamps show a gap
_PATIENCE = 500  # frames in a row that can't be read before a video counts as ended
_CLOSE = 0.5  # seconds before the end that its header claims, at which a video is complete: headers are rounded
_URL = re.compile(r"(rtsps?|rtmps?|https?|udp|rtp|tcp|srt)://", re.IGNORECASE)

Open = Callable[[], Any]  # a cv2.VideoCapture, opened or not


class NoCamera(UserError):
    """A camera or video that can't be opened or read."""

    status = 1


def is_pipeline(source: str) -> bool:
    """Whether `source` is a GStreamer pipeline."""
    return " ! " in source


def is_camera(source: str) -> bool:
    return is_pipeline(source) or source.isdigit() or source.startswith("/dev/") or is_url(source)


def is_url(source: str) -> bool:
    """Whether `source` is a camera in a network."""
    return bool(_URL.match(source))


def shown(source: str) -> str:
    """`source` as lines and errors name it: without the password of a URL."""
    return re.sub(r"(?<=://)[^/@]*@", "", source) if is_url(source) else source


def opener(source: str) -> Open:
    """A function that opens `source` (index, device, URL, GStreamer pipeline or file). Raises UserError without OpenCV."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # or each try to open a lost camera writes lines on stderr
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # and FFmpeg several for each damaged frame
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"Cameras and video files need OpenCV, which can't be imported ({error}): "
            f"{install('opencv-python-headless')}; on a Jetson JetPack's own (python3-opencv), the only one with GStreamer."
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
    """What `open_it` opens. Raises NoCamera if that fails."""
    capture = open_it()
    if not capture.isOpened():
        capture.release()
        if is_camera(source):
            raise NoCamera(
                f"The camera {shown(source)} can't be opened: is it there, is another program using it, may this user read it?"
            )
        raise NoCamera(f"The video {source} can't be opened: it is damaged, or of a kind that this OpenCV can't read.")
    return capture


class Reel:
    """The frames of a video in their order, over damaged places. OpenCV fails to grab there, and often goes on behind them."""

    def __init__(self, capture: Any) -> None:
        self.capture = capture
        fps, count = float(capture.get(_FPS)), float(capture.get(_COUNT))
        self.fps = fps if 0 < fps < 1000 else 25.0  # a guess where the video doesn't say
        self.claimed = int(count) if 0 < count < 1e9 else 0  # frames, by the video's header
        self.number, self.second = 0, 0.0  # of the frame that is grabbed, from 1, and its own time stamp
        self.missing = 0  # frames so far that can't be read
        self.jumped = False  # whether the time stamps jump before this frame
        self._start, self._longest = 0.0, 0.0  # seconds at which the file's own time stamps begin; the longest pause

    def grab(self, stop: Stop) -> Optional[int]:
        """Goes on to the next frame: how many are missing before it; None at the end, or when it is time to stop."""
        lost = 0
        while not self._grabbed():
            lost += 1
            left = (
                self.claimed - self.number - self.missing
            )  # by their number; a time stamp tells whether that is right
            if stop or lost > _PATIENCE or self.claimed and lost > left:
                behind, close = self.claimed / self.fps - self.second - 1 / self.fps, max(_CLOSE, 1 / self.fps)
                complete = behind <= close or abs(behind - self._start) <= close  # a header may count from 0 to the end
                self.missing += 0 if complete or stop else max(left, 0)
                return None
        self.missing += lost
        stamp, before = float(self.capture.get(_TIME)) / 1000, self.second
        if not self.number:
            self._start = float(self.capture.get(_PTS)) / self.fps
        if self.number:  # some readers have no time stamps, or begin anew
            self.second = stamp if stamp > self.second else self.second + 1 / self.fps
        else:
            self.second = max(stamp, 0.0)
        self.number += 1
        pause = 0.0 if lost or self.number == 1 else self.second - before
        self.jumped = self.number > 10 and pause > max(_PAUSE[0], _PAUSE[1] * self._longest)
        self._longest = max(self._longest, pause)
        return lost

    def retrieve(self) -> Any:
        """The pixels of the frame that is grabbed, uint8 [H, W, 3] in RGB; None if they can't be decoded."""
        try:
            ok, pixels = self.capture.retrieve()
        except Exception:  # cv2.error
            return None
        return pixels[..., ::-1] if ok and pixels is not None else None  # BGR -> RGB

    def _grabbed(self) -> bool:
        try:
            return bool(self.capture.grab())
        except Exception:  # cv2.error
            return False


class Video:
    """The frames of a video file, all of them; with `rate` so many for each second of the video, by its time stamps.

    Frames that can't be read are told of as "gap", and counted in `missing`. A jump of the time stamps is a "gap" too, where a
    camera paused or a network lost what it sent: how many frames that is, nobody knows.
    """

    live = False
    dropped = 0

    def __init__(self, source: str, open_it: Open, stop: Stop, rate: Optional[float] = None) -> None:
        if not os.path.isfile(source):
            raise UserError(f"There is no file {source}.")
        self.source, self.stop, self.rate = source, stop, rate
        self.reel = Reel(opened(source, open_it))

    @property
    def missing(self) -> int:
        return self.reel.missing

    def __iter__(self) -> Iterator[Union[Frame, Event]]:
        reel, slot = self.reel, -1
        while not self.stop:
            before = {"frame": reel.number, "second": round(reel.second, 3)}
            missing = reel.missing
            more = reel.grab(self.stop)
            if reel.missing > missing:
                yield Event("gap", {**before, "missing": reel.missing - missing})
            elif reel.jumped:
                yield Event("gap", {**before, "until": round(reel.second, 3)})
            if more is None:
                break
            if self.rate:
                now = int(reel.second * self.rate + 1e-6)
                if now == slot:
                    continue
            pixels = reel.retrieve()
            about = {"frame": reel.number, "second": round(reel.second, 3)}
            if pixels is None:
                reel.missing += 1
                yield Event("unreadable", {"frame": reel.number, "error": "the frame can't be decoded"})
                continue
            if self.rate:
                slot = now
            yield Frame(about, pixels, f"frame {reel.number}", time.monotonic())
        if not reel.number and not self.stop:
            raise NoCamera(f"The video {self.source} has no frame that can be read.")

    def close(self) -> None:
        """See runtime.images.live.Stream."""
        self.reel.capture.release()


class _Kept(NamedTuple):
    number: int
    pixels: Any  # uint8 [H, W, 3], RGB
    came: float


class Camera:
    """The newest frames of a camera. A thread reads all frames and keeps the last `keep`; older ones are dropped.

    A camera that fails is opened again, after pauses of 0.5 s to 10 s; events say when it was lost and when it is back. It also
    counts as lost when its driver does not return for `silent` seconds, but then only the driver can recover. `ends`: the source
    is a video, played at its own speed to try things out without a camera.
    """

    live = True
    missing = 0

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
                yield Frame({"frame": thing.number}, thing.pixels, name, thing.came)
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
        """The next frame or event, after a short wait; None if there is none yet, or the camera has ended."""
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
        with self._change:  # perhaps a newer frame by now; there is one, since each removal comes with an addition
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
        """Reads until a read fails. Returns the reason."""
        if not capture.isOpened():
            return "it can't be opened"
        if self.ends:
            return self._play(Reel(capture))
        while not self._closed:
            try:
                ok, pixels = capture.read()
            except Exception as error:  # cv2.error
                return str(error).strip() or type(error).__name__
            if not ok or pixels is None:
                return "it gives no more frames"
            with self._change:
                self._put(pixels[..., ::-1])  # BGR -> RGB
        return "closed"

    def _play(self, reel: Reel) -> str:
        """A video at its own speed, by the time stamps of its frames."""
        began = time.monotonic()
        while reel.grab(self._closed) is not None:
            pixels = reel.retrieve()
            self.missing = reel.missing
            if self._closed.pause(began + reel.second - time.monotonic()):
                break
            if pixels is not None:
                with self._change:
                    self._put(pixels)
        self.missing = reel.missing
        return "it gives no more frames"

    def _put(self, pixels: Any) -> None:
        now = time.monotonic()
        if self._lost is not None:
            away = round(now - self._lost, 1)
            self._waiting.append(Event("camera back", {"camera": shown(self.source), "seconds": away}))
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
        self._waiting.append(Event("camera lost", {"camera": shown(self.source), "error": reason}))
        self._change.notify_all()
