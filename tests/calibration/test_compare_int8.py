"""The comparison with other tools' INT8: every method a row, none of them silent, and the figures mean what they say."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from calibration.layer_graph import logits_of, open_session
from models.dead_leaves import dead_leaves
from runtime.artifacts.artifact import artifact_path
from runtime.errors import UserError
from runtime.images.preprocess import preprocess
from tests.benchmarks import compare_int8 as compare
from tests.benchmarks.compare_int8 import NAMES, macs_in_int8
from tests.benchmarks.quantisers import METHODS, TOOLS, CalibrationPictures, Method
from tests.calibration.small_network import CLASSES, PREPROCESSING, SIDE, small_model, write_artifact

PICTURES = 8
# Multiply-adds by hand, positions x outputs x inputs of one output: 32 px, halved by the stem.
POSITIONS = 16 * 16
HEAD = POSITIONS * 32 * 8
BLOCK = POSITIONS * (32 * 8 + 32 * 9 + 8 * 32) + 32 * 4 + 4 * 32
ALL = POSITIONS * 8 * 27 + 2 * BLOCK + HEAD + CLASSES * 32
ONNXRUNTIME = [method.name for method in METHODS if method.tool == "onnxruntime"]
LEGAL = [method for method in METHODS if "TensorRT-legal" in method.about and method.tool == "onnxruntime"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    write_artifact(folder, small_model())
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose labels are the classes that FP32 gives them."""
    folder, names = tmp_path_factory.mktemp("images"), [f"{i}.png" for i in range(PICTURES)]
    for name, picture in zip(names, dead_leaves(PICTURES, SIDE)):
        Image.fromarray((255 * picture.transpose(1, 2, 0)).astype(np.uint8)).save(folder / name)
    batch = np.stack([preprocess(folder / name, PREPROCESSING) for name in names])
    classes = logits_of(open_session(small_model(), 1), [batch]).argmax(1).tolist()
    assert len(set(classes)) > 1
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *zip(names, classes)])
    return folder


@pytest.fixture
def quantised(artifacts: Path, batch: np.ndarray, tmp_path: Path) -> Callable[..., onnx.ModelProto]:
    """The small network as onnxruntime's quantiser leaves it."""
    batch.tofile(tmp_path / "pictures")

    def quantise(**options: object) -> onnx.ModelProto:
        reader = CalibrationPictures(tmp_path / "pictures", batch.shape, "images")
        source = artifact_path("small", "fp32", artifacts)
        TOOLS["onnxruntime"].quantise(source, tmp_path / "int8.onnx", reader, options)
        return onnx.load(tmp_path / "int8.onnx")

    return quantise


def test_a_row_for_every_method(artifacts, images, tmp_path):
    """As a user runs it. What isn't installed says so; the rest has figures, and FP32's agree with itself."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.benchmarks.compare_int8",
            "--variant",
            "small",
            "--calib",
            images,
            "--data",
            images,
            "--artifacts",
            artifacts,
            "--threads",
            "1",
            "--json",
            tmp_path / "rows.json",
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert "judging ort-default" in done.stderr and "judging" not in done.stdout
    facts = json.loads((tmp_path / "rows.json").read_text())
    rows = {row["name"]: row for row in facts["rows"]}
    assert tuple(rows) == NAMES and (facts["calibration_pictures"], facts["judged_pictures"]) == (PICTURES, PICTURES)
    assert [line.split()[0] for line in done.stdout.splitlines()[1 : 1 + len(NAMES)]] == list(NAMES)
    assert (rows["fp32"]["same_class"], rows["fp32"]["top1"], rows["fp32"]["share"]) == (100, 100, 0)
    for name in ONNXRUNTIME:
        row = rows[name]
        assert not row["reason"] and row["share"] == 100 and row["seconds"] > 0
        assert row["top1"] == row["same_class"]  # the labels are FP32's classes
        assert 3 < row["sqnr"] < 100
        assert 20 < row["peak_mb"] < 4000
    ours = rows["ours"]
    assert not ours["reason"] and ours["share"] > 80 and ours["seconds"] > 0 and ours["peak_mb"] > 20
    assert (
        ours["sqnr"] > rows["ort-trt-minmax"]["sqnr"] and ours["sqnr"] > 28
    )  # the goal; a small network is easy for all
    assert [path.name for path in artifacts.rglob("*.*")] == ["small.fp32.onnx"]  # the user's own is left alone


def test_share_of_macs(quantised, network):
    assert network.macs == ALL
    assert macs_in_int8(small_model(), network) == 0
    assert macs_in_int8(quantised(), network) == 1
    assert macs_in_int8(quantised(nodes_to_exclude=["head"]), network) == pytest.approx(1 - HEAD / ALL)
    renamed = quantised()
    next(node for node in renamed.graph.node if node.name == "stem").name = "other"
    with pytest.raises(ValueError, match="stem"):
        macs_in_int8(renamed, network)


@pytest.mark.parametrize("method", LEGAL, ids=lambda method: method.name)
def test_what_is_called_legal_is(quantised, method):
    """int8 with zero point 0, one scale an output channel of weights, none on biases."""
    model = quantised(**method.options)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantisers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zero_points = [constants[node.input[2]] for node in quantisers]
    assert zero_points and all(point.dtype == np.int8 and not point.any() for point in zero_points)
    scales = {node.output[0]: constants[node.input[1]] for node in quantisers}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert scales[node.input[0]].size == 1 and scales[node.input[1]].size > 1
            assert node.input[2] in constants and constants[node.input[2]].dtype == np.float32


def test_a_tool_that_fails_or_is_absent_is_a_row(artifacts, images, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "modelopt" else find_spec(name))
    methods = (
        Method("broken", "onnxruntime", "asks for what there isn't", {"no_such_option": 1}),
        Method("absent", "modelopt", "isn't there"),
        Method("works", "onnxruntime", "as it comes"),
    )
    names = ["broken", "absent", "works"]
    rows, _ = compare.compare("small", images, images, artifacts, names, 4, methods, threads=1)
    assert [row.name for row in rows] == ["fp32", *names]
    assert rows[1].reason.startswith("failed: ") and "no_such_option" in rows[1].reason
    assert rows[2].reason.startswith("not installed: pip install ") and "nvidia-modelopt" in rows[2].reason
    assert rows[3].agreement is not None and not rows[3].reason
    lines = compare.table(rows, {"variant": "small", "calibration_pictures": 4, "judged_pictures": 4, "versions": {}})
    assert rows[1].reason in lines[2] and rows[2].reason in lines[3]


def test_no_top1_without_labels_and_no_more_pictures_than_asked(artifacts, images, tmp_path):
    for picture in images.glob("*.png"):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    rows, facts = compare.compare("small", images, tmp_path, artifacts, [], limit=3, threads=1)
    assert rows[0].top1 is None and rows[0].agreement == 100
    assert (facts["calibration_pictures"], facts["judged_pictures"]) == (3, 3)


def test_without_an_artifact(images, tmp_path):
    with pytest.raises(UserError, match="make export VARIANT=b0"):
        compare.compare("b0", images, images, tmp_path)
