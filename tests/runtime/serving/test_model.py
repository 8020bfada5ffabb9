"""What Triton's Python backend runs, with a stand-in for the module that exists only inside of it. The real one is in
tests/serving."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
import pytest

from runtime.artifacts.artifact import read_artifact
from runtime.errors import UserError
from runtime.networks.classifier import Classifier
from runtime.serving.config import CLASSES
from runtime.serving.model import METADATA, TritonPythonModel
from runtime.serving.repository import Wanted, models_of
from tests.runtime.conftest import DATA

CORGI, LIGHTHOUSE = ((DATA / f"{name}.jpg").read_bytes() for name in ("corgi", "lighthouse"))


class Tensor:
    def __init__(self, name: str, value: np.ndarray) -> None:
        self.name, self.value = name, value

    def as_numpy(self) -> np.ndarray:
        return self.value


class TritonError(NamedTuple):
    message: str
    code: int = 0


TritonError.INTERNAL, TritonError.INVALID_ARG = 1, 2  # type: ignore[attr-defined]


class Response:
    def __init__(self, output_tensors: Any = (), error: Optional[TritonError] = None) -> None:
        self.outputs, self.error = {tensor.name: tensor.value for tensor in output_tensors}, error


class Request:
    def __init__(self, inputs: Dict[str, np.ndarray], parameters: Any = None, wanted: Any = None) -> None:
        self.inputs, self.given = inputs, parameters or {}
        self.wanted = wanted or [*CLASSES, "prepared"]

    def parameters(self) -> str:
        return json.dumps(self.given)

    def requested_output_names(self) -> List[str]:
        return self.wanted


@pytest.fixture(autouse=True)
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Response, TritonError  # type: ignore[attr-defined]
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request.inputs[name])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)


def opened(small_artifacts: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    """The model `name` as the server opens it, from what would be written."""
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(small_artifacts))
    written = {each.name: each for each in models_of("lite0", "fp32", Wanted(device="cpu", backend="onnxruntime"))}[
        name
    ]
    for path in ("lite0.fp32.onnx", METADATA):
        content = written.version.get(path)
        if content is not None:
            (folder / "1").mkdir(exist_ok=True)
            (folder / "1" / path).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    found = re.findall(r'parameters { key: ("\w+") value { string_value: (".*") } }', written.config)
    parameters = {json.loads(key): {"string_value": json.loads(value)} for key, value in found}
    made = TritonPythonModel()
    made.initialize(
        {
            "model_config": json.dumps({"parameters": parameters}),
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return made


def images(*encoded: bytes, **parameters: Any) -> Request:
    return Request({"images": np.array([[each] for each in encoded], np.object_)}, parameters)


def test_rows_stand_by_themselves(
    small_artifacts: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = opened(small_artifacts, tmp_path, "lite0", monkeypatch)
    alone = Classifier(small_model, backend="onnxruntime")
    mixed, one, bad = served.execute([images(CORGI, b"", LIGHTHOUSE), images(CORGI, top=2), images(b"no", b"ne")])
    assert mixed.outputs["error"].tolist() == [[b""], [b"image: the file is empty."], [b""]]
    assert mixed.outputs["class"][1].tolist() == [-1] * 5
    for row, encoded in ((0, CORGI), (2, LIGHTHOUSE)):
        wanted = alone(encoded)
        assert mixed.outputs["class"][row].tolist() == [each.index for each in wanted]
        assert [label.decode() for label in mixed.outputs["label"][row]] == [each.label for each in wanted]
        assert mixed.outputs["probability"][row] == pytest.approx([each.probability for each in wanted], abs=1e-5)
    assert one.outputs["class"].shape == (1, 2)
    assert all(row[0].startswith(b"image: ") for row in bad.outputs["error"])
    assert json.loads(mixed.outputs["model"][0][0]) == {
        "variant": "lite0",
        "precision": "fp32",
        "backend": "onnxruntime",
    }


def test_one_request_that_is_wrong_fails_alone(
    small_artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = opened(small_artifacts, tmp_path, "lite0", monkeypatch)
    right, wrong = served.execute([images(CORGI), images(CORGI, top="all")])
    assert right.error is None
    assert "give a whole number above 0" in wrong.error.message

    def broken(batch: np.ndarray) -> np.ndarray:
        raise UserError("the GPU has fallen off the bus.")

    monkeypatch.setattr(served.role.classifier, "logits", broken)
    assert [each.error.message for each in served.execute([images(CORGI)] * 2)] == [
        "the GPU has fallen off the bus."
    ] * 2
    served.finalize()


def test_an_answer_that_is_nan_is_an_error_of_its_row(
    small_artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = opened(small_artifacts, tmp_path, "lite0", monkeypatch)
    network = served.role.classifier.logits

    def overflowing(batch: np.ndarray) -> np.ndarray:
        logits = network(batch).copy()
        logits[0, 3] = np.nan
        return logits

    monkeypatch.setattr(served.role.classifier, "logits", overflowing)
    (answer,) = served.execute([images(CORGI, CORGI)])
    assert b"NaN" in answer.outputs["error"][0][0] and answer.outputs["error"][1][0] == b""
    assert answer.outputs["class"][0].tolist() == [-1] * 5 and answer.outputs["class"][1][0] == 264
    assert np.isfinite(answer.outputs["probability"]).all()


def test_only_what_was_asked_for_is_answered(
    small_artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = opened(small_artifacts, tmp_path, "lite0", monkeypatch)
    (answer,) = served.execute([Request({"images": np.array([[CORGI]], np.object_)}, wanted=["class"])])
    assert list(answer.outputs) == ["class"]


def test_the_steps_around_a_network_give_what_the_whole_gives(
    small_artifacts: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {}
    for name in ("lite0_preprocess", "lite0_postprocess"):
        (tmp_path / name).mkdir()
        steps[name] = opened(small_artifacts, tmp_path / name, name, monkeypatch)
        assert read_artifact(tmp_path / name / "1" / METADATA).labels == read_artifact(small_model).labels
    alone = Classifier(small_model, backend="onnxruntime")
    (before,) = steps["lite0_preprocess"].execute([images(CORGI, b"no image")])
    logits = alone.logits(before.outputs["prepared"])
    (after,) = steps["lite0_postprocess"].execute(
        [Request({"logits": logits, "error": before.outputs["error"]}, {"top": 1})]
    )
    assert after.outputs["class"].tolist() == [[alone(CORGI)[0].index], [-1]]
    assert after.outputs["error"][1][0].startswith(b"image: ")
