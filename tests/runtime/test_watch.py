"""The loop that a device runs: videos, folders, and a camera that comes and goes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest

from runtime.errors import UserError
from runtime.images import folder as folder_module
from runtime.images.capture import Camera, NoCamera, Video, is_camera, shown
from runtime.images.folder import Folder
from runtime.images.live import Event, Frame, Stop
from runtime.watch import main, watch
from tests.in_process import called
from tests.interruptible import interruptible
from tests.patience import LONG, until
from tests.runtime.fake_classifier import FakeClassifier

ROOT = Path(__file__).resolve().parents[2]
CORGI = ROOT / "tests" / "data" / "corgi.jpg"
LIGHTHOUSE = CORGI.with_name("lighthouse.jpg")


class FakeCapture:
    """What cv2.VideoCapture is to a camera: `script` says what each read gives, True a frame."""

    def __init__(self, script: Iterator[Any], there: bool = True) -> None:
        self.script, self.there = script, there

    def isOpened(self) -> bool:
        return self.there

    def read(self) -> Any:
        step = next(self.script, False)
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
        return bool(step), np.full((40, 40, 3), (0, 0, 255), np.uint8) if step else None  # red, as OpenCV has it

    def get(self, _: int) -> float:
        return 0.0

    def release(self) -> None:
        self.there = False


class Watched:
    """A watch in a thread of its own, and the lines it wrote."""

    def __init__(self, source: Any, stop: Stop, **options: Any) -> None:
        self.lines: List[Dict[str, Any]] = []
        self.stop, self.source = stop, source
        self.network = options.pop("network", FakeClassifier(1, 1))
        self.thread = threading.Thread(
            target=lambda: watch(self.network, source, stop, self.lines.append, **options), daemon=True
        )
        self.thread.start()

    def events(self) -> List[str]:
        return [line["event"] for line in self.lines if "event" in line]

    def files(self) -> List[str]:
        return [os.path.basename(line["file"]) for line in self.lines if "predictions" in line]

    def end(self) -> None:
        self.stop.pull("SIGTERM")
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        self.source.close()


def test_a_camera_unplugged_and_back() -> None:
    """Its frames, the two events, and frames again; the driver raises, or gives nothing, or can't be opened at first."""
    stop = Stop()
    plugged = threading.Event()
    captures = [
        FakeCapture(iter([True, True, False])),
        FakeCapture(iter([]), there=False),
        FakeCapture(iter([lambda: plugged.wait(LONG), *[True] * 3, RuntimeError("select() timeout")])),
    ]
    waiting = iter(captures)
    camera = Camera(
        "/dev/video7", lambda: next(waiting, FakeCapture(iter([]), there=False)), stop, keep=10, silent=LONG
    )
    watched = Watched(camera, stop)
    until(lambda: watched.events() == ["camera lost"])
    plugged.set()
    until(lambda: watched.events()[:3] == ["camera lost", "camera back", "camera lost"])
    watched.end()
    lost, back, again, stopped = (line for line in watched.lines if "event" in line)
    assert lost["camera"] == "/dev/video7" and lost["error"] == "it gives no more frames"
    assert back["seconds"] >= 0.5 and again["error"] == "select() timeout"
    assert stopped["reason"] == "SIGTERM" and stopped["classified"] == 6
    assert [line["frame"] for line in watched.lines if "frame" in line] == [1, 2, 3, 4, 5, 6]
    assert not any(capture.there for capture in captures)


def test_a_camera_that_is_quicker_than_the_network_loses_its_oldest_frames() -> None:
    stop, shown = Stop(), threading.Semaphore(0)

    class Slow(FakeClassifier):
        def logits(self, batch: np.ndarray) -> np.ndarray:
            taken.set()
            assert shown.acquire(timeout=LONG)
            return super().logits(batch)

    taken, all_read, end = threading.Event(), threading.Event(), threading.Event()
    steps = [True, lambda: taken.wait(LONG), *[True] * 48, lambda: all_read.set() or end.wait(LONG)]
    fifty = FakeCapture(iter(steps))
    watched = Watched(Camera("0", lambda: fifty, stop, keep=1, silent=LONG), stop, network=Slow(1, 1), count=2)
    assert all_read.wait(LONG)
    for _ in range(2):
        shown.release()
    watched.thread.join(LONG)
    end.set()
    _, second = (line for line in watched.lines if "frame" in line)
    assert second["frame"] == 50 and second["dropped"] == 48  # all but the first and the last
    assert watched.lines[-1]["reason"] == "count"
    watched.end()


def test_colours_are_in_the_networks_order() -> None:
    stop = Stop()
    camera = Camera("0", lambda: FakeCapture(iter([True])), stop)
    frame = next(thing for thing in camera if isinstance(thing, Frame))
    assert tuple(frame.image[0, 0]) == (255, 0, 0)  # red, in RGB
    camera.close()


def test_a_camera_that_hangs_is_called_lost_and_does_not_keep_the_loop_from_stopping() -> None:
    stop, never = Stop(), threading.Event()
    camera = Camera("0", lambda: FakeCapture(iter([True, lambda: never.wait(3 * LONG)])), stop, silent=0.3)
    watched = Watched(camera, stop)
    # On a busy machine it may be called lost, and back, before the first frame as well.
    until(lambda: any("frame" in line for line in watched.lines) and watched.events()[-1:] == ["camera lost"])
    assert "no frame for 0.3 s" in watched.lines[-1]["error"]
    watched.stop.pull("SIGTERM")
    watched.thread.join(LONG)
    assert not watched.thread.is_alive()
    never.set()
    camera.close()


def test_no_camera_at_the_start_is_an_error() -> None:
    with pytest.raises(NoCamera, match="The camera /dev/video7 can't be opened"):
        Camera("/dev/video7", lambda: FakeCapture(iter([]), there=False), Stop())
    assert (
        is_camera("0") and is_camera("/dev/v4l/by-id/usb") and is_camera("v4l2src ! appsink") and not is_camera("a.mp4")
    )


def test_files_that_appear_in_a_folder(tmp_path: Path) -> None:
    """Each once: what was there is left out, rewritten ones are new images."""
    there = tmp_path / "old.jpg"
    shutil.copy(str(CORGI), str(there))
    stop = Stop()
    watched = Watched(Folder(str(tmp_path), stop, settle=0.4), stop)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".upload.jpg").write_bytes(CORGI.read_bytes())
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "a" / "b").mkdir(parents=True)
    content = LIGHTHOUSE.read_bytes()
    (tmp_path / "twice.jpg").write_bytes(content)
    shutil.copy(str(CORGI), str(tmp_path / "a" / "b" / "deep name.JPG"))
    until(lambda: sorted(watched.files()) == ["deep name.JPG", "twice.jpg"])
    os.rename(str(tmp_path / ".upload.jpg"), str(tmp_path / "renamed.jpg"))
    until(lambda: "renamed.jpg" in watched.files())
    (tmp_path / "bad.jpg").write_bytes(content[:3000])
    until(lambda: watched.events() == ["unreadable"])
    assert "truncated" in watched.lines[-1]["error"] and watched.lines[-1]["file"].endswith("bad.jpg")
    (tmp_path / "bad.jpg").write_bytes(content)
    until(lambda: "bad.jpg" in watched.files())
    (tmp_path / "twice.jpg").unlink()
    time.sleep(0.5)
    shutil.copy(str(CORGI), str(tmp_path / "twice.jpg"))
    until(lambda: watched.files().count("twice.jpg") == 2)
    watched.end()
    assert sorted(watched.files()) == ["bad.jpg", "deep name.JPG", "renamed.jpg", "twice.jpg", "twice.jpg"]
    assert watched.events() == ["unreadable", "stopped"]


def test_a_file_is_taken_when_it_has_not_changed_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in six pieces, each 0.3 s after the one before, where 0.4 s are a while."""
    now, content = [0.0], LIGHTHOUSE.read_bytes()
    monkeypatch.setattr(folder_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pieces = [content[start : start + len(content) // 6 + 1] for start in range(0, len(content), len(content) // 6 + 1)]

    class Written(Stop):
        """Between two looks time goes by, and a piece comes."""

        def pause(self, seconds: float) -> bool:
            now[0] += 0.3 if seconds > 0 else 0  # the source's pace is no pause
            if pieces:
                with open(str(tmp_path / "slow.jpg"), "ab") as file:
                    file.write(pieces.pop(0))
            return bool(self)

    frame = next(iter(Folder(str(tmp_path), Written(), settle=0.4)))
    assert isinstance(frame, Frame) and frame.name.endswith("slow.jpg")
    assert not pieces and (tmp_path / "slow.jpg").read_bytes() == content
    assert frame.came == pytest.approx(8 * 0.3)  # seen whole after six pieces, unchanged after another 0.3 s, and 0.6 s


def test_thousands_of_files_that_are_there_already(tmp_path: Path) -> None:
    """In the order in which they were written, each once."""
    shutil.copy(str(CORGI), str(tmp_path / "0000.jpg"))  # the checkout may be on another disk, or another user's
    for i in range(1, 1999):
        os.link(str(tmp_path / "0000.jpg"), str(tmp_path / f"{i:04}.jpg"))
    os.utime(str(tmp_path / "0000.jpg"), (1e9, 1e9))  # of all of them
    (tmp_path / "last.jpg").write_bytes(CORGI.read_bytes())
    stop = Stop()
    folder = Folder(str(tmp_path), stop, settle=0.2, existing=True)
    names = []
    for thing in folder:
        assert isinstance(thing, Frame)
        names.append(os.path.basename(thing.name))
        if len(names) == 2000:
            stop.pull("test")
    assert names == [*(f"{i:04}.jpg" for i in range(1999)), "last.jpg"]


def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(str(CORGI), str(tmp_path / "in" / "a.jpg"))
    stop = Stop()
    watched = Watched(Folder(str(tmp_path / "in"), stop, settle=0.1, existing=True), stop)
    until(lambda: watched.files() == ["a.jpg"])
    os.rename(str(tmp_path / "in"), str(tmp_path / "out"))
    until(lambda: watched.events() == ["folder lost"])
    os.rename(str(tmp_path / "out"), str(tmp_path / "in"))
    until(lambda: watched.events() == ["folder lost", "folder back"])
    shutil.copy(str(CORGI), str(tmp_path / "in" / "b.jpg"))
    until(lambda: watched.files() == ["a.jpg", "b.jpg"])  # a.jpg only once
    watched.end()
    with pytest.raises(UserError, match="There is no folder"):
        Folder(str(tmp_path / "gone"), stop)


def test_what_is_written(tmp_path: Path) -> None:
    """--top, --min-probability, --on-change."""
    things: List[Any] = [
        Frame({"frame": i}, np.full((40, 40, 3), value, np.uint8), f"frame {i}", time.monotonic())
        for i, value in enumerate([255, 250, 0, 0, 255])
    ]
    things.insert(2, Event("camera lost", {"camera": "0"}))

    class Listed:
        live, dropped = True, 3
        missing = 0

        def __iter__(self) -> Iterator[Any]:
            return iter(things)

        def close(self) -> None: ...

    def lines(**options: Any) -> List[Dict[str, Any]]:
        written: List[Dict[str, Any]] = []
        assert watch(FakeClassifier(), Listed(), Stop(), written.append, **options) == "end"
        return written

    every = lines()
    assert [line.get("frame", line.get("event")) for line in every] == [0, 1, "camera lost", 2, 3, 4, "stopped"]
    assert list(every[0]) == ["time", "frame", "predictions", "ms", "dropped"] and every[0]["dropped"] == 3
    assert list(every[0]["ms"]) == ["decode", "resize", "normalise", "network", "total", "age"]
    assert [found["label"] for found in every[0]["predictions"]] == ["bright", "dark"]
    assert [line["frame"] for line in lines(on_change=True) if "frame" in line] == [0, 2, 4]
    assert all(len(line["predictions"]) == 1 for line in lines(top=1) if "frame" in line)
    few = [line["predictions"] for line in lines(min_probability=0.6) if "frame" in line]
    assert [[each["label"] for each in found] for found in few] == [
        ["bright"],
        ["bright"],
        ["dark"],
        ["dark"],
        ["bright"],
    ]
    assert [line["predictions"] for line in lines(min_probability=0.9) if "frame" in line] == [[]] * 5


def command(here: Path, artifacts: Path, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "EFFICIENTNET_ARTIFACTS": str(artifacts),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "universal_newlines": True}
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.watch", *map(str, arguments)],
        cwd=str(here),
        env=environment,
        **pipes,
        **options,
    )


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.smoke
def test_signals_end_it_after_the_image(tmp_path: Path, small_artifacts: Path, number: int, status: int) -> None:
    (tmp_path / "in").mkdir()
    process = command(tmp_path, small_artifacts, "in", "--top", "1", preexec_fn=interruptible)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "started"
    shutil.copy(str(CORGI), str(tmp_path / "in" / "a.jpg"))
    line = json.loads(process.stdout.readline())
    assert line["file"] == os.path.join("in", "a.jpg") and line["predictions"][0]["index"] == 264
    process.send_signal(number)
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == status and "Traceback" not in err
    assert json.loads(out)["event"] == "stopped" and json.loads(out)["reason"] == signal.Signals(number).name


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 s of the corgi, then 1 s of the lighthouse, 10 frames a second."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: no video file can be made or read")
    path = tmp_path_factory.mktemp("video") / "two.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    if not writer.isOpened():
        pytest.skip("this OpenCV can't write a video")
    for photograph, count in ((CORGI, 20), (LIGHTHOUSE, 10)):
        picture = cv2.resize(cv2.imread(str(photograph)), (320, 240))
        for _ in range(count):
            writer.write(picture)
    writer.release()
    return path


def test_a_video_file(tmp_path: Path, small_artifacts: Path, video: Path) -> None:
    """Every frame, in order, with the right class: so the colours are right too."""
    done = called(main, video, "--top", "1", EFFICIENTNET_ARTIFACTS=str(small_artifacts))
    assert (done.status, done.err) == (0, "")
    started, *lines, stopped = map(json.loads, done.out.splitlines())
    assert started["event"] == "started" and started["variant"] == "lite0"
    assert [line["frame"] for line in lines] == list(range(1, 31))
    assert [line["predictions"][0]["index"] for line in lines] == [264] * 20 + [437] * 10
    assert lines[-1]["second"] == 2.9 and stopped["classified"] == 30 and stopped["dropped"] == 0


def test_a_videos_rate_is_that_of_the_video(video: Path) -> None:
    from runtime.images.capture import opener

    stop = Stop()
    frames = list(Video(str(video), opener(str(video)), stop, rate=2))
    assert [frame.about["second"] for frame in frames if isinstance(frame, Frame)] == [0, 0.5, 1, 1.5, 2, 2.5]


def test_a_video_played_as_a_camera_keeps_its_own_pace(video: Path) -> None:
    """Whatever the network takes: here it is at the first frame that it sees until the last has been shown."""
    from runtime.images.capture import opener

    class Slow(FakeClassifier):
        def logits(self, batch: np.ndarray) -> np.ndarray:
            until(lambda: live.dropped >= 28)
            return super().logits(batch)

    stop, began = Stop(), time.monotonic()
    live = Camera(str(video), opener(str(video)), stop, silent=LONG, ends=True)
    watched = Watched(live, stop, network=Slow(1, 1))
    watched.thread.join(LONG)
    *_, last, stopped = watched.lines
    assert stopped["reason"] == "end" and stopped["classified"] + stopped["dropped"] == 30
    assert stopped["classified"] <= 2 and last["frame"] == 30
    assert time.monotonic() - began >= 2.9  # the 30th frame's time, of ten a second
    watched.end()


def test_sentences(tmp_path: Path, small_artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, says in (
        (("nowhere.mp4",), "There is no nowhere.mp4: give a folder"),
        ((".", "--rate", "0"), "--rate: '0' is not a number above 0"),
        ((".", "--min-probability", "70"), "'70' is not a number from 0 to 1"),
        ((".", "--variant", "b9"), "make export VARIANT=b9"),
    ):
        done = called(main, *arguments, EFFICIENTNET_ARTIFACTS=str(small_artifacts))
        assert (done.status, done.out) == (2, "") and says in done.err


def test_without_opencv(small_artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = called(main, "0", EFFICIENTNET_ARTIFACTS=str(small_artifacts))
    assert done.status == 2 and "pip install opencv-python-headless" in done.err


class FakeVideo:
    """What cv2.VideoCapture is to a file: `stamps` has the time of each frame in seconds, None where it can't be grabbed."""

    def __init__(self, stamps: List[Any], claimed: int, fps: float = 10.0, begins: float = 0) -> None:
        self.begins = begins  # the file's own time stamp of its first frame; OpenCV counts from 0
        self.stamps, self.claimed, self.fps, self.now = iter(stamps), claimed, fps, 0.0

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        now = next(self.stamps, None)
        self.now = now or 0.0
        return now is not None

    def retrieve(self) -> Any:
        return True, np.zeros((40, 40, 3), np.uint8)

    def get(self, what: int) -> float:
        return {0: 1000 * self.now, 5: self.fps, 7: float(self.claimed), 71: self.begins * self.fps}[what]

    def release(self) -> None:
        pass


def played(video: FakeVideo, **options: Any) -> List[Dict[str, Any]]:
    stop, lines = Stop(), []  # type: Stop, List[Dict[str, Any]]
    watch(FakeClassifier(1, 1), Video(str(CORGI), lambda: video, stop, **options), stop, lines.append)  # type: ignore[arg-type]
    return lines


def test_damaged_frames_of_a_video_are_skipped_and_reported() -> None:
    tenths = [i / 10 for i in range(60)]
    stamps: List[Any] = [*tenths[:20], *[None] * 7, *tenths[27:50], *[None] * 600]
    lines = played(FakeVideo(stamps, 60))
    gap, end, stopped = (line for line in lines if "event" in line)
    assert {key: gap[key] for key in ("event", "frame", "second", "missing")} == {
        "event": "gap",
        "frame": 20,
        "second": 1.9,
        "missing": 7,
    }
    assert (end["event"], end["second"], end["missing"]) == ("gap", 4.9, 10)
    assert (stopped["reason"], stopped["classified"], stopped["missing"]) == ("end", 43, 17)
    assert [line["second"] for line in lines if "predictions" in line] == [*tenths[:20], *tenths[27:50]]


def test_a_whole_video_has_no_gap_whatever_its_header_claims() -> None:
    """A header may only estimate how many frames there are, by a rate that varies."""
    stamps = [*[i / 2 for i in range(8)], *[4 + i / 20 for i in range(20)]]  # 4 s at 2 frames a second, 1 s at 20
    for claimed, fps in ((28, 5.6), (50, 10.0), (0, 0.0), (20, 4.0)):
        lines = played(FakeVideo([*stamps], claimed, fps))
        assert [line["event"] for line in lines if "event" in line] == ["stopped"]
        assert (lines[-1]["classified"], lines[-1]["missing"]) == (28, 0)
        assert [line["second"] for line in lines[:-1]] == [round(stamp, 3) for stamp in stamps]


def test_a_file_whose_time_stamps_begin_late_is_whole() -> None:
    """As a piece of a recording: its header gives the time at its end, 14 s, for 4 s of frames."""
    stamps = [i / 10 for i in range(40)]
    assert played(FakeVideo([*stamps], 140, begins=10.0))[-1]["missing"] == 0
    assert played(FakeVideo([*stamps], 140))[-1]["missing"] == 100
    assert played(FakeVideo(stamps[:20], 140, begins=10.0))[-1]["missing"] == 120


def test_a_jump_of_the_time_stamps_is_a_gap() -> None:
    """What a network lost leaves no frame that can't be read."""
    tenths = [i / 10 for i in range(60)]
    lines = played(FakeVideo([*tenths[:20], *tenths[45:]], 60))
    (gap,) = (line for line in lines if line.get("event") == "gap")
    assert (gap["frame"], gap["second"], gap["until"], "missing" in gap) == (20, 1.9, 4.5, False)
    assert (lines[-1]["classified"], lines[-1]["missing"]) == (35, 0)


def test_rate_goes_by_the_time_stamps() -> None:
    stamps = [*[i / 5 for i in range(10)], *[2 + i / 30 for i in range(60)]]  # 5 frames a second, then 30
    lines = played(FakeVideo(stamps, 70, 17.5), rate=1.0)
    assert [(line["frame"], line["second"]) for line in lines[:-1]] == [(1, 0.0), (6, 1.0), (11, 2.0), (41, 3.0)]


def test_a_video_without_time_stamps_is_counted_by_its_rate() -> None:
    lines = played(FakeVideo([0.0] * 5, 5, 10.0))
    assert [line["second"] for line in lines[:-1]] == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_camera_in_the_network() -> None:
    pytest.importorskip("cv2")
    from runtime.images.capture import opener

    jpeg = CORGI.read_bytes()

    class Stream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(400):
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    time.sleep(0.02)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, stop = f"http://user:secret@127.0.0.1:{server.server_port}/camera.mjpg", Stop()
    assert is_camera(url) and "secret" not in shown(url)
    watched = Watched(Camera(url, opener(url), stop, silent=LONG), stop, count=3)
    watched.thread.join(LONG)
    watched.end()
    server.shutdown()
    assert [line["event"] for line in watched.lines if "event" in line] == ["stopped"]
    assert watched.lines[-1]["classified"] == 3 and "secret" not in json.dumps(watched.lines)
