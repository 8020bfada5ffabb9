"""An artifact that takes pixels is calibrated as the one that takes floats: the front stays float, and outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import calibration.stage
from calibration.budget import Budget
from calibration.collect.images import read_folder
from calibration.layer_graph import LayerGraph, logits_of, open_session
from calibration.stage import PRECISIONS, Request, calibrate, read_network
from export.fp16 import to_fp16
from export.pixels import with_pixels, without_pixels
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact
from tests.benchmarks import compare_int8
from tests.benchmarks.quantisers import METHODS
from tests.calibration.small_network import CLASSES, PREPROCESSING, SIDE, small_model, write_artifact, write_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), 16)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """FP32 artifacts by input, each with its FP16 beside it."""
    found, folder, models = (
        {},
        tmp_path_factory.mktemp("artifacts"),
        {"fp16": to_fp16(small_model()), "fp32": small_model()},
    )
    for precision, model in models.items():
        found["float32"] = write_artifact(folder / "float32", model, precision)
        found["uint8"] = write_artifact(folder / "uint8", with_pixels(model, PREPROCESSING), precision, input="uint8")
    return found


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_what_is_quantised_is_the_same_bit_for_bit(
    target: str, artifacts: dict[str, Artifact], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []
    monkeypatch.setattr(calibration.stage, "measure_speed", lambda *given: timed.append(given[:2]) or [])
    scores = {}
    for name, artifact in artifacts.items():
        images = read_folder(photos, artifact.preprocessing, CLASSES)
        result = calibrate(Request(artifact, images, budget=Budget(sqnr=20), target=target), tmp_path / name, 1)
        scores[name] = result.scores
    assert scores["uint8"] == scores["float32"] and [score.name for score in scores["uint8"]][1] == "FP16"
    assert all(model.graph.input[0].name == "images" for models in timed for model in models)  # both timed alike
    for precision in PRECISIONS:
        floats, pixels = (
            read_artifact(artifact_path("small", precision, tmp_path / name)) for name in ("float32", "uint8")
        )
        assert pixels.preprocessing == artifacts["uint8"].preprocessing != floats.preprocessing == PREPROCESSING
        graph = onnx.load(pixels.path)
        assert [node.op_type for node in graph.graph.node[:4]] == ["Cast", "Transpose", "Mul", "Add"]
        assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert {initial.data_type for initial in graph.graph.initializer[-2:]} == {
            onnx.TensorProto.FLOAT
        }  # in FP16 too
        assert without_pixels(graph).graph == onnx.load(floats.path).graph
        squares = np.stack([np.asarray(Image.open(path).resize((SIDE, SIDE))) for path in sorted(photos.glob("*.png"))])
        images = (squares.transpose(0, 3, 1, 2) * np.float32(2 / 255) - np.float32(1)).astype(np.float32)
        expected = logits_of(open_session(onnx.load(floats.path), 1, integer=False), [images])
        np.testing.assert_array_equal(logits_of(open_session(graph, 1, integer=False), [squares]), expected)
        assert json.loads(pixels.metadata["calibration"])["target"] == target


def test_network_without_its_front_is_the_one_of_floats(artifacts: dict[str, Artifact]) -> None:
    floats, pixels = (read_network(artifacts[name]) for name in ("float32", "uint8"))
    assert isinstance(pixels, LayerGraph) and pixels.input == "images" and pixels.layers == floats.layers
    assert pixels.to_model().graph == floats.to_model().graph


def test_other_tools_get_the_network_of_floats(artifacts: dict[str, Artifact], photos: Path) -> None:
    only, rows = ["ort-per-channel"], {}
    methods = [method for method in METHODS if method.name in only]
    for name, artifact in artifacts.items():
        folder = artifact.path.parents[1]
        rows[name] = compare_int8.compare("small", photos, photos, folder, only, 8, methods, threads=1)[0][1]
        assert not rows[name].reason
    assert (rows["uint8"].sqnr, rows["uint8"].share) == (rows["float32"].sqnr, rows["float32"].share)
