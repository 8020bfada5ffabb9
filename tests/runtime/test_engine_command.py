"""python -m runtime.engine, and which backend "auto" takes: on a FAKE TensorRT and GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, List

import pytest

from runtime import engine
from runtime.artifacts.artifact import read_artifact
from runtime.backends import open_backend
from runtime.backends.backend import Engines
from runtime.backends.cuda import driver
from runtime.backends.tensorrt import compare, generations
from runtime.errors import UserError
from runtime.networks.classifier import Classifier
from tests.runtime.artifacts.changed_artifacts import linked
from tests.runtime.backends.test_tensorrt_build import install


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT 10.3 and no other, on a GPU."""
    module = install("10.3.0", monkeypatch)
    monkeypatch.setattr(generations, "installed", lambda name: name == "tensorrt")
    return module


@pytest.fixture
def artifacts_here(precisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path))
    linked(precisions, tmp_path)
    return tmp_path


def build(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["engine", "--variant", "lite0", *arguments])
    return engine.main()


@pytest.mark.smoke
def test_after_building_infer_takes_that_engine(
    trt: Any, artifacts_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(monkeypatch, "--precision", "int8", "--batch", "1,2,4", "--no-compare") == 0
    printed = capsys.readouterr().out
    assert "lite0.int8." in printed and "batch 1,2,4" in printed and "built in" in printed
    with Classifier() as classifier:  # neither variant nor precision named, as in python -m runtime.infer image.jpg
        assert classifier.artifact.precision == "int8" and classifier.backend.name == "tensorrt"
        assert "TensorRT 10.3.0" in capsys.readouterr().err
    assert build(monkeypatch, "--precision", "int8", "--batch", "1,2,4", "--no-compare") == 0
    assert "up to date" in capsys.readouterr().out
    assert build(monkeypatch, "--precision", "int8", "--batch", "1,1,4", "--no-compare") == 0
    assert "up to date" not in capsys.readouterr().out


def test_int8_is_compared_with_fp16_unless_told_not_to(
    trt: Any, artifacts_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "WARM", 1)
    monkeypatch.setattr(compare, "ROUNDS", 5)  # the fake runs real networks on the CPU
    build(monkeypatch, "--precision", "int8", "--batch", "1")
    assert "FP16" in capsys.readouterr().out


def test_auto_does_not_build_but_says_how(trt: Any, artifacts_here: Path) -> None:
    said: List[str] = []
    artifact = read_artifact(artifacts_here / "lite0" / "lite0.fp32.onnx")
    backend = open_backend(artifact, say=said.append)
    assert backend.name == "onnxruntime" and len(said) == 1
    assert "there is a GPU" in said[0] and "python -m runtime.engine --variant lite0" in said[0]


def test_auto_without_tensorrt_says_what_is_missing(
    trt: Any, artifacts_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "installed", lambda _: False)
    said: List[str] = []
    assert (
        open_backend(read_artifact(artifacts_here / "lite0" / "lite0.fp32.onnx"), say=said.append).name == "onnxruntime"
    )
    assert "neither tensorrt nor tensorrt_rtx is installed" in said[0]


def test_auto_without_a_gpu_says_nothing(artifacts_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_library", lambda: (None, "no driver: not installed"))
    said: List[str] = []
    artifact = read_artifact(artifacts_here / "lite0" / "lite0.fp32.onnx")
    assert open_backend(artifact, say=said.append).name == "onnxruntime" and not said
    with pytest.raises(UserError, match="tensorrt"):
        open_backend(artifact, "tensorrt")


def test_no_rebuild_and_engine_files(
    trt: Any, artifacts_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = read_artifact(artifacts_here / "lite0" / "lite0.fp16.onnx")
    with pytest.raises(UserError, match="--no-rebuild forbids"):
        open_backend(artifact, "tensorrt", engines=Engines(rebuild=False))
    build(monkeypatch, "--precision", "fp16")
    path = next(artifacts_here.glob("lite0/*.engine"))
    with Classifier(path) as classifier:
        assert classifier.backend.name == "tensorrt" and classifier.artifact.precision == "fp16"
    path.with_name(path.name + ".json").unlink()
    with pytest.raises(UserError, match="has no manifest.*--trust-engine"):
        Classifier(path)
    with Classifier(path, engines=Engines(trust=True)) as classifier:
        assert classifier.backend.name == "tensorrt"
