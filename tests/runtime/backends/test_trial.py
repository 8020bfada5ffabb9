"""The trial of backends on a processor: what it decides, what it says, and when it is made again. Times are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime import backends
from runtime.artifacts.artifact import read_artifact, sealed
from runtime.backends import open_backend, trial
from runtime.backends.cuda.driver import Gpus
from runtime.errors import UserError
from tests.runtime.artifacts.changed_artifacts import unsealed

VNNI = {"avx512_vnni"}


class Fake:
    """A backend that takes as long as the table says."""

    def __init__(self, name: str, precision: str) -> None:
        self.name, self.precision, self.description = name, precision, name

    def close(self) -> None:
        pass


class World:
    """A processor: milliseconds by backend and precision; what was opened, tried and said."""

    def __init__(self, home: Path) -> None:
        self.home, self.ms = home, {}  # type: Path, Dict[str, float]
        self.tried, self.said = [], []  # type: List[str], List[str]

    def opener(self, name: str) -> Any:
        def open_it(asked: Any) -> Fake:
            if f"{name} {asked.artifact.precision}" not in self.ms:
                raise UserError(f"{name} can't load it.")
            return Fake(name, asked.artifact.precision)

        return open_it

    def milliseconds(self, backend: Any, artifact: Any) -> float:
        self.tried.append(f"{backend.name} {backend.precision}")
        return self.ms[self.tried[-1]]

    def open(self, precision: str) -> str:
        self.tried.clear()
        self.said.clear()
        return open_backend(read_artifact(self.home / f"lite0.{precision}.onnx"), say=self.said.append).name


@pytest.fixture
def world(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    graph, metadata = unsealed(small_model)
    fp32, sha256 = sealed(graph, "fp32", metadata)
    (tmp_path / "lite0.fp32.onnx").write_bytes(fp32)
    for precision in ("fp16", "int8"):
        content = sealed(graph, precision, {**metadata, "fp32_sha256": sha256})[0]
        (tmp_path / f"lite0.{precision}.onnx").write_bytes(content)
    made = World(tmp_path)
    monkeypatch.setattr(backends, "gpus", lambda: Gpus([], "no driver"))
    monkeypatch.setattr(backends, "saturates", lambda: False)
    monkeypatch.setattr(backends, "_onnxruntime", made.opener("onnxruntime"))
    monkeypatch.setattr(backends, "_OPENERS", {name: made.opener(name) for name in ("onnxruntime", "openvino")})
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(trial, "_milliseconds", made.milliseconds)
    monkeypatch.setattr(trial, "_busy", lambda: False)
    monkeypatch.setattr(trial, "vector_flags", lambda: VNNI)
    return made


def with_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object() if name == "openvino" else None)


def test_fp16_runs_where_it_is_fastest_and_that_is_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with_openvino(monkeypatch)
    world.ms = {"onnxruntime fp16": 5.0, "openvino fp16": 3.5, "onnxruntime fp32": 3.4}
    assert world.open("fp16") == "openvino"
    assert world.said == ["in OpenVINO, which took 3.5 ms an image in a trial on this processor; onnxruntime took 5.0."]
    assert sorted(world.tried) == ["onnxruntime fp16", "onnxruntime fp32", "openvino fp16"]
    assert world.open("fp16") == "openvino" and world.tried == [] and len(world.said) == 1
    monkeypatch.setattr(trial, "_site", lambda: {"openvino": "another"})
    world.ms["openvino fp16"] = 4.9  # less than a tenth faster: onnxruntime starts sooner
    assert world.open("fp16") == "onnxruntime" and len(world.tried) == 3
    assert world.said == [
        "in a trial on this processor lite0.fp16.onnx took 5.0 ms an image in onnxruntime, and lite0.fp32.onnx 3.4: take "
        "--precision fp32."
    ]


def test_int8_that_is_slower_than_fp32_is_said_with_what_was_measured(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ms = {"onnxruntime int8": 33.7, "onnxruntime fp32": 3.0}
    assert world.open("int8") == "onnxruntime"
    assert len(world.said) == 1 and "lite0.int8.onnx took 33.7 ms an image in onnxruntime" in world.said[0]
    assert "lite0.fp32.onnx 3.0: take --precision fp32, or " in world.said[0] and "install openvino" in world.said[0]
    with_openvino(monkeypatch)
    monkeypatch.setattr(trial, "vector_flags", lambda: {"avx_vnni"})  # not obvious there
    world.ms.update({"openvino int8": 2.0})
    assert (world.open("int8"), world.said) == ("openvino", [])
    file = world.home / "lite0.int8.trial.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "milliseconds": []}))  # damaged: tried again
    world.ms["openvino int8"] = 4.0
    assert world.open("int8") == "openvino" and "int8.onnx took 4.0 ms an image in OpenVINO" in world.said[0]


def test_no_trial_where_it_is_obvious(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with_openvino(monkeypatch)
    world.ms = {"openvino int8": 2.0, "onnxruntime fp32": 3.0}
    assert (world.open("int8"), world.open("fp32")) == ("openvino", "onnxruntime")
    assert world.tried == [] and not list(world.home.glob("*.trial.json"))


def test_what_fails_is_left_out_and_a_busy_machine_is_not_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_openvino(monkeypatch)
    monkeypatch.setattr(trial, "_busy", lambda: True)
    world.ms = {"onnxruntime fp16": 5.0, "onnxruntime fp32": 5.0}
    assert world.open("fp16") == "onnxruntime" and not list(world.home.glob("*.trial.json"))
    assert world.open("fp16") == "onnxruntime" and len(world.tried) == 2
    monkeypatch.setattr(trial, "_busy", lambda: False)
    world.open("fp16")
    assert json.loads((world.home / "lite0.fp16.trial.json").read_text())["milliseconds"] == {
        "onnxruntime": 5.0,
        "fp32": 5.0,
    }
    (world.home / "lite0.fp16.trial.json").unlink()
    (world.home / "lite0.fp16.trial.json").mkdir()  # can't be written: tried again
    assert world.open("fp16") == "onnxruntime" and len(world.tried) == 2
