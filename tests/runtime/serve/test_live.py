"""The loop behind the page: what it keeps of a source, and that viewers cost it nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Iterator, List

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("prometheus_client", reason="the server's libraries are not installed (the extra named serve)")

from runtime.images.live import Event, Frame, Stop
from runtime.serve import metrics
from runtime.serve.live import SHOWN, Live
from runtime.serve.models import Reloading
from tests.patience import until
from tests.runtime.fake_classifier import FakeClassifier
from tests.runtime.serve.running import ROOT


class Source:
    """Gives what it is told to, one after the other."""

    live, dropped = True, 3

    def __init__(self, *items: Any) -> None:
        self.items, self.closed = items, False

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self.closed = True


def frame(number: int, brightness: int, side: int = 64) -> Frame:
    pixels = np.full((side, 2 * side, 3), brightness, np.uint8)
    return Frame({"frame": number}, pixels, f"frame {number}", 0.0)


def run(*items: Any) -> Live:
    """A loop that has seen all of `items`."""
    fake: Any = FakeClassifier()
    fake.artifact.path = Path("none.onnx")
    live = Live(Source(*items), Reloading(lambda: fake), Stop())
    live.start()
    until(lambda: live.ended)
    return live


def test_the_newest_frame_its_classes_and_times_are_shown() -> None:
    state = run(frame(1, 10), frame(2, 240)).state()
    assert state["frame"] == 2 and state["about"] == {"frame": 2} and state["dropped"] == 3
    assert [each["label"] for each in state["predictions"]] == ["bright", "dark"]
    assert list(state["ms"]) == ["decode", "resize", "normalise", "wait", "network"]
    assert sum(each["frames"] for each in state["minute"]) == 2
    assert state["ended"] == "the source has ended"


def test_a_frame_is_shown_no_larger_than_a_screen_needs_and_encoded_once() -> None:
    live = run(frame(1, 200, side=2000))
    content = live.jpeg()
    assert Image.open(io.BytesIO(content)).size == (SHOWN, SHOWN // 2)
    assert live.jpeg() is content


def test_a_change_of_class_is_an_event_with_a_thumbnail_and_a_flicker_is_none() -> None:
    dark, bright = [frame(number, 10) for number in range(3)], [frame(number, 240) for number in range(3)]
    live = run(*dark, bright[0], *dark, *bright)
    texts = [event.text.partition(" ")[0] for event in live.events]
    assert texts == ["dark", "bright"]
    assert all(Image.open(io.BytesIO(event.thumbnail)).format == "JPEG" for event in live.events)
    assert [event["thumbnail"] for event in live.state()["events"]] == [True, True]


def test_what_happens_to_the_camera_is_an_event_without_paths() -> None:
    lost = Event("camera lost", {"camera": "/dev/video0", "error": "it gives no more frames"})
    live = run(lost, Event("folder lost", {"folder": "/home/me", "error": "/home/me: no"}), frame(1, 9))
    texts: List[str] = [event.text for event in live.events]
    assert texts[:2] == ["camera lost: it gives no more frames", "folder lost"]


def test_a_frame_that_is_no_image_is_counted_and_the_next_is_classified() -> None:
    bad = Frame({"file": "/home/me/x.jpg"}, b"no image", "/home/me/x.jpg", 0.0)
    live = run(bad, frame(2, 240), frame(3, 240)._replace(name="/home/me/y.jpg", about={"file": "/home/me/y.jpg"}))
    assert live.failed == 1 and live.number == 2
    assert live.events[0].text.startswith("x.jpg: not an image") and live.state()["about"] == {"file": "y.jpg"}
    assert "/home" not in str(live.state())


def test_a_source_that_breaks_is_said_and_the_server_lives() -> None:
    state = run(frame(1, 9), OSError("the cable is out")).state()
    assert state["ended"] == "OSError: the cable is out" and state["frame"] == 1
    gone = run(FileNotFoundError(2, "No such file", "/home/me/video.avi")).state()["ended"]
    assert gone == "an error that the server's log names"


def test_temperature_and_power_are_told_where_the_machine_reports_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"thermal/thermal_zone0": {"type": "cpu-thermal", "temp": "48500"}}
    files["hwmon/hwmon0"] = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1300"}
    for folder, contents in files.items():
        (tmp_path / "sys/class" / folder).mkdir(parents=True)
        for name, content in contents.items():
            (tmp_path / "sys/class" / folder / name).write_text(content)
    monkeypatch.setattr(metrics, "_PERIOD", 0.1)
    told = metrics.Metrics()
    sensors = metrics.Sensors(told, tmp_path)
    until(lambda: sensors.temperatures and sensors.watts is not None)
    sensors.stop.pull("seen")
    assert sensors.state() == {"temperatures": {"cpu-thermal": 48.5}, "watts": 6.5}
    text = told.text().decode()
    assert 'efficientnet_temperature_celsius{zone="cpu-thermal"} 48.5' in text and "efficientnet_power_watts{" in text


def test_the_dashboard_asks_for_what_there_is() -> None:
    asked = set(re.findall(r"efficientnet_\w+", (ROOT / "docs" / "grafana.json").read_text()))
    told = metrics.Metrics().text().decode()
    assert asked and all(f"# TYPE {name.replace('_bucket', '')} " in told for name in asked)


def test_events_and_timings_are_bounded() -> None:
    live = run(*(Event("camera lost", {}) for _ in range(500)))
    assert len(live.events) == 24 and live.events[-1].number == 500
