"""`make export INPUT=uint8`: the same network behind a front that normalises pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from export.parity import ParityError, gate_pixels
from export.pixels import with_pixels, without_pixels
from export.stage import Request, up_to_date
from export.stage import export as export_stage
from models.weights import Weights
from runtime.artifacts.artifact import read_artifact
from runtime.images.preprocess import normalize
from tests.models.tiny import TINY

FLOATS = Request(TINY, Weights(None, "random weights"), {"resolution": 64})
REQUEST = replace(FLOATS, input="uint8")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floats")
    export_stage(FLOATS, folder)
    return folder


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `small` is here, but for its input."""
    folder = tmp_path_factory.mktemp("pixels")
    exported = export_stage(REQUEST, folder)
    assert any("bit for bit the same" in line for line in exported.lines)
    return folder


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> np.ndarray:
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, dict(feed))[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pixels_give_the_bits_that_normalised_pictures_give(small: Path, pixels: Path, precision: str) -> None:
    ours, theirs = (read_artifact(folder / "b0" / f"b0.{precision}.onnx") for folder in (pixels, small))
    assert ours.preprocessing == theirs.preprocessing._replace(input="uint8")
    squares = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    squares[0], squares[1] = 0, 255
    images = np.stack([normalize(Image.fromarray(square), theirs.preprocessing) for square in squares])
    model = onnx.load(ours.path)
    bare = without_pixels(onnx.load(ours.path))  # two exports of random weights may differ in the last bit
    assert [node.op_type for node in bare.graph.node] == [node.op_type for node in onnx.load(theirs.path).graph.node]
    for count in (1, 5):
        got = run(model, {"pixels": squares[:count]})
        np.testing.assert_array_equal(got, run(bare, {"images": images[:count]}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_is_what_tensorrt_takes(pixels: Path, precision: str) -> None:
    """Its uint8 may only be a network's input, and only go into a Cast to float."""
    model = onnx.load(pixels / "b0" / f"b0.{precision}.onnx")
    onnx.checker.check_model(model, full_check=True)
    (images,), front = model.graph.input, list(model.graph.node[:5])
    shape = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
    assert (images.name, images.type.tensor_type.elem_type, shape) == (
        "pixels",
        onnx.TensorProto.UINT8,
        ["N", 64, 64, 3],
    )
    assert [node.op_type for node in front] == [
        "Cast",
        "Transpose",
        "Mul",
        "Add",
        "Conv" if precision == "fp32" else "Cast",
    ]
    assert front[0].attribute[0].i == onnx.TensorProto.FLOAT  # normalised in float32, whatever follows
    assert [node.name for node in model.graph.node if "pixels" in node.input] == [front[0].name]
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 17} and model.ir_version <= 8


def test_taking_the_front_off_gives_what_was_there(small: Path) -> None:
    model, recipe = onnx.load(small / "b0" / "b0.fp32.onnx"), read_artifact(small / "b0" / "b0.fp32.onnx").preprocessing
    assert without_pixels(with_pixels(model, recipe)).SerializeToString() == model.SerializeToString()
    assert without_pixels(model) is model


def test_the_input_is_part_of_what_is_up_to_date(small: Path, pixels: Path) -> None:
    assert up_to_date(REQUEST, pixels) and up_to_date(FLOATS, small)
    assert not up_to_date(FLOATS, pixels) and not up_to_date(REQUEST, small)


def test_a_front_that_normalises_otherwise_does_not_pass(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = onnx.load(small / "b0" / "b0.fp16.onnx"), read_artifact(small / "b0" / "b0.fp16.onnx").preprocessing
    network: Any = None  # FP16 is held against the graph alone
    assert gate_pixels(network, {"fp16": model}, {"fp16": with_pixels(model, recipe)}, recipe) == 0
    for wrong in (recipe._replace(mean=recipe.mean[::-1]), recipe._replace(std=(0.229, 0.224, 0.2251))):
        with pytest.raises(ParityError, match=r"uint8 input: .*the fp16 graph does not compute.*Nothing was written"):
            gate_pixels(network, {"fp16": model}, {"fp16": with_pixels(model, wrong)}, recipe)
