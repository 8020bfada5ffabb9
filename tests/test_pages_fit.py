"""The HTML reports in a real browser, at a laptop's and a phone's width: nothing is cut off, nothing scrolls sideways."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibration.budget import Budget
from calibration.collect.images import read_folder
from calibration.stage import Request, calibrate
from models.finetune.report import write_report
from models.finetune.train import Answers, Progress
from runtime.backends.tensorrt.layers import Cost, from_log
from runtime.backends.tensorrt.layers_page import layers_page
from runtime.images.preprocess import Preprocessing
from runtime.sweep.page import page as sweep_page
from tests.calibration.small_network import CLASSES, PREPROCESSING, small_model, write_artifact, write_images
from tests.runtime.backends.test_layers import LOG, MACS
from tests.runtime.sweep.sweep_rows import failed, report, row, summary

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="chromium and chromedriver are not installed")
WIDTHS = (1200, 390)
# Boxes that are narrower than what is in them, and text of charts that lies beyond them.
CUT = """
const wide = [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1);
const cut = [...document.querySelectorAll("svg text")].filter(e => {
  const own = e.getBoundingClientRect(), all = e.ownerSVGElement.getBoundingClientRect();
  return own.width && (own.left < all.left - 1 || own.right > all.right + 1);
});
return [document.documentElement.scrollWidth > innerWidth, wide.map(e => e.ariaLabel), cut.map(e => e.textContent)];
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def sweep(folder: Path) -> Path:
    stages = {
        name: summary(1) for name in ("decode", "resize", "normalise", "copy in", "compute", "copy out", "softmax")
    }
    known = {"agreement": 99.1, "peak_mb": 312.0, "joules_per_image": 0.123, "stages": stages}
    backend = "OpenVINO 2026.4.1, CPU"
    rows = [row(name, "int8", 141.2, 95.8, backend=backend, **known) for name in ("b0", "timm:mobilenetv3_large_100")]
    written = report([*rows, failed("b7", "int8", "no memory")], machine={"kernel": "6.1.0-" + "long-" * 12})
    path = folder / "sweep.html"
    path.write_text(sweep_page(written, []), encoding="utf-8")
    return path


def kernels(folder: Path) -> Path:
    layers = from_log(LOG, MACS)
    path = folder / "kernels.html"
    path.write_text(layers_page("b0", layers, {"int8": Cost.of(layers)}, "INT8 moves less."), encoding="utf-8")
    return path


def calibration(folder: Path) -> Path:
    images = read_folder(write_images(folder / "photos", 16), PREPROCESSING, CLASSES)
    artifact = write_artifact(folder / "artifacts", small_model())
    calibrate(Request(artifact, images, budget=Budget(agreement=0.999, sqnr=38)), folder / "artifacts", 1)
    return folder / "artifacts" / "small" / "small.calibration.html"


def finetune(folder: Path) -> Path:
    classes = [f"{kind} of a longer name" for kind in ("chain saw", "church", "springer", "horn", "truck", "tench")]
    truth = np.repeat(np.arange(6), 10)
    top = np.where(np.arange(60) % 9 == 0, (truth + 1) % 6, truth)
    images = [SimpleNamespace(name=f"val/{classes[label]}/{i:08d}.JPEG", label=label) for i, label in enumerate(truth)]
    data = SimpleNamespace(classes=classes, val=images, train=images, given=True, skipped=[], notes=[], origin="photos")
    data.squares, data.counts = np.zeros((60, 32, 32, 3), np.uint8), lambda: [10] * 6
    progress = Progress()
    for epoch in range(4):
        figures = {"loss": 1.2 - epoch / 10, "val_loss": 0.5, "top1": 88.0 + epoch, "balanced": 88.0 + epoch}
        progress.rows.append({"epoch": float(epoch), **figures})
    answers = Answers(top, np.full(60, 0.9, np.float32), np.full(60, 0.05, np.float32), 0.4)
    recipe = SimpleNamespace(preprocessing=Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3), padding="same")
    settings = SimpleNamespace(facts=lambda: {"epochs": 3})
    made: Any = (data, settings, progress, answers, "lite0, weights", recipe, 60.0)
    return write_report(folder / "lite0.safetensors", *made)


@pytest.mark.parametrize("make", [sweep, kernels, calibration, finetune])
def test_nothing_is_cut(make: Any, browser: Any, tmp_path: Path) -> None:
    path = make(tmp_path)
    for width in WIDTHS:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        assert browser.execute_script(CUT) == [False, [], []], f"at {width} px"
