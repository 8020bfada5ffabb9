"""The page in a real browser: chromium, where it is installed (apt-get install chromium chromium-driver)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest

from tests.patience import until
from tests.runtime.serve.running import ROOT, Running, serving

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("aiohttp", reason="the server's libraries are not installed (the extra named serve)")
cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="chromium and chromedriver are not installed")
CORGI = ROOT / "tests" / "data" / "corgi.jpg"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corgi and a lighthouse by turns, that move; long enough for all tests here."""
    path = tmp_path_factory.mktemp("video") / "moving.avi"
    written = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    images = [
        cv2.resize(cv2.imread(str(CORGI.with_name(name))), (360, 270)) for name in ("corgi.jpg", "lighthouse.jpg")
    ]
    for turn in range(200):
        for step in range(10):
            written.write(np.ascontiguousarray(images[turn % 2][step : step + 240, step : step + 320]))
    written.release()
    return path


@pytest.fixture(scope="module")
def server(small_artifacts: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(small_artifacts, tmp_path_factory.mktemp("page") / "log", video, "--rate", "4") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Callable[..., Any]]:
    """Opens the page at a size; afterwards nothing may have been refused by its policy or have failed in its script."""

    def opened(width: int, height: int, scheme: str = "light") -> Any:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(f"http://127.0.0.1:{server.port}/")
        until(lambda: browser.execute_script("return document.querySelectorAll('#classes .class').length") == 5)
        return browser

    yield opened
    assert [
        line for line in browser.get_log("browser") if line["level"] == "SEVERE" and line["source"] != "network"
    ] == []


def text(browser: Any, selector: str) -> str:
    return str(browser.execute_script(f"return document.querySelector({json.dumps(selector)}).textContent"))


def test_it_shows_the_frames_of_a_moving_video_and_their_classes(page: Callable[..., Any]) -> None:
    browser = page(1200, 900)
    first = browser.execute_script("return document.getElementById('frame').src")
    until(lambda: browser.execute_script("return document.getElementById('frame').src") != first)
    assert browser.execute_script("return document.getElementById('frame').naturalWidth") == 320
    for word in ("corgi", "lighthouse"):
        until(lambda word=word: word in text(browser, "#classes .class"))
        until(lambda word=word: word in text(browser, "#events"))
    assert "lite0, fp32, on onnxruntime" in text(browser, "#model")


def test_pause_by_keyboard_holds_the_frame_and_goes_on(page: Callable[..., Any]) -> None:
    browser = page(1200, 900)
    press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'p', bubbles: true}))"
    browser.execute_script(press.replace("document", "document.body"))
    assert text(browser, "#pause") == "Go on"
    state = browser.execute_script("return window.seen = document.getElementById('numbers').textContent")
    asked = server_frames(browser)
    until(lambda: server_frames(browser) > asked + 2)
    assert browser.execute_script("return document.getElementById('numbers').textContent") == state
    browser.execute_script(press.replace("document", "document.body"))
    until(lambda: browser.execute_script("return document.getElementById('numbers').textContent") != state)


def server_frames(browser: Any) -> int:
    """The number of the newest frame, asked for behind the page's back."""
    return int(browser.execute_async_script("fetch('live').then(a => a.json()).then(s => arguments[0](s.frame))"))


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)), files = new DataTransfer();
files.items.add(new File([bytes], arguments[1]));
document.getElementById('view').dispatchEvent(new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}));
"""


def test_an_image_that_is_dropped_gets_its_class_and_a_file_that_is_none_its_sentence(page: Callable[..., Any]) -> None:
    import base64

    browser = page(1200, 900)
    browser.execute_script(DROP, base64.b64encode(CORGI.read_bytes()).decode(), "dog.jpg")
    until(lambda: "Cardigan, Cardigan Welsh corgi" in text(browser, "#ownclasses"))
    browser.execute_script(DROP, base64.b64encode(b"no image").decode(), "notes.txt")
    until(lambda: "not an image in a format that is read" in text(browser, "#ownclasses"))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1200, 900), (3840, 2160)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_and_the_scheme_is_followed(
    page: Callable[..., Any], width: int, height: int, scheme: str
) -> None:
    browser = page(width, height, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, ground.strip("rgb()").split(",")))
    assert (brightness < 200) is (scheme == "dark")


def test_everything_can_be_reached_by_keyboard(page: Callable[..., Any]) -> None:
    browser = page(1200, 900)
    reachable = "return [...document.querySelectorAll('button, input')].filter(e => e.tabIndex >= 0).map(e => e.id)"
    assert browser.execute_script(reachable) == ["pause", "file", "camera"]
