"""Each script of examples/, run as its docstring says."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.artifacts.artifact import sealed
from tests.runtime.artifacts.onnx_bytes import tiny_onnx

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CORGI, LIGHTHOUSE = ROOT / "tests" / "data" / "corgi.jpg", ROOT / "tests" / "data" / "lighthouse.jpg"
CORGI_CLASS, LIGHTHOUSE_CLASS = "Cardigan, Cardigan Welsh corgi", "beacon, lighthouse, beacon light, pharos"


@pytest.fixture(scope="session")
def lite0() -> Path:
    """The folder of the exported lite0."""
    folder = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to run (make test sets it)")
    return Path(folder).resolve() / "lite0"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(CORGI, folder)
    shutil.copy(LIGHTHOUSE, folder)
    return folder


def example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'"{path.stem}"' not in text] == []


def test_a_folder_is_classified_and_a_broken_file_named(lite0: Path, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"not a JPEG")
    done = example("classify_folder", lite0 / "lite0.fp32.onnx", photos)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [(Path(row["file"]).name, row["class"]) for row in rows] == [
        ("corgi.jpg", CORGI_CLASS),
        ("lighthouse.jpg", LIGHTHOUSE_CLASS),
    ]
    assert "broken.jpg" in done.stderr and "Traceback" not in done.stderr


def test_the_copy_is_nearest(photos: Path, tmp_path: Path) -> None:
    facts = {
        "variant": "b0-embedding",
        "head": "embedding",
        "outputs": json.dumps([{"name": "logits", "channels": 24, "stride": 0}]),
        "resolution": "16",
        "crop": "1.0",
        "interpolation": "bilinear",
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.25, 0.25, 0.25]",
        "weights": "made for a test",
        "weights_sha256": "0" * 64,
    }
    model = tmp_path / "b0-embedding.fp32.onnx"
    model.write_bytes(sealed(tiny_onnx(16, 24), "fp32", facts)[0])
    done = example("search_images", model, photos, LIGHTHOUSE)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split() == ["1.000", str(photos / "lighthouse.jpg")]
    assert float(second.split()[0]) < 0.99


def test_frames_of_a_video(lite0: Path, tmp_path: Path) -> None:
    """The right classes: so the channels are in the right order."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: no video file can be made or read")
    path = tmp_path / "two.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    if not writer.isOpened():
        pytest.skip("this OpenCV can't write a video")
    for photograph in (CORGI, LIGHTHOUSE):
        for _ in range(3):
            writer.write(cv2.resize(cv2.imread(str(photograph)), (320, 240)))
    writer.release()
    done = example("camera_loop", lite0 / "lite0.fp32.onnx", path)
    assert done.returncode == 0, done.stderr
    assert [line.split("  ", 1)[1] for line in done.stdout.strip().splitlines()] == [CORGI_CLASS, LIGHTHOUSE_CLASS]
    missing = example("camera_loop", lite0 / "lite0.fp32.onnx", tmp_path / "none.avi")
    assert missing.returncode == 1 and "cannot open" in missing.stderr


def test_a_precision_is_compared_with_fp32(lite0: Path, photos: Path) -> None:
    """lite0 in FP16 stands in for INT8: what differs from FP32 is told."""
    files = lite0 / "lite0.fp16.onnx", lite0 / "lite0.fp32.onnx"
    done = example("evaluate_int8", *files, photos)
    assert done.returncode == 0, done.stderr
    told = {line[:18].strip(): line[18:] for line in done.stdout.splitlines()}
    assert (told["images"], told["top-1 agreement"]) == ("2", "100.0 %") and "top-1" not in told
    assert 20 < float(told["logit SQNR"].split()[0]) < 100
    (photos / "labels.csv").write_text("file,label\ncorgi.jpg,264\nlighthouse.jpg,264\n")
    assert "top-1             50.0 %" in example("evaluate_int8", *files, photos).stdout


def test_over_http(lite0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    from fastapi.testclient import TestClient

    monkeypatch.setenv("MODEL", str(lite0 / "lite0.fp32.onnx"))
    spec = importlib.util.spec_from_file_location("serve_fastapi", EXAMPLES / "serve_fastapi.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    client = TestClient(module.app)
    answer = client.post("/classify", params={"top": 2}, content=CORGI.read_bytes())
    assert answer.status_code == 200
    best, other = answer.json()
    assert best["label"] == CORGI_CLASS and best["probability"] > other["probability"]
    refused = client.post("/classify", content=b"not an image")
    assert refused.status_code == 422 and refused.json()["detail"]
    monkeypatch.setattr(module, "LIMIT", 1000)
    assert client.post("/classify", content=CORGI.read_bytes()).status_code == 413
