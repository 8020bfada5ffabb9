"""Two networks of one variant live side by side, and none is overwritten unasked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from models.network import EfficientNet
from models.variants import VARIANTS
from runtime.artifacts.artifact import latest, read_artifact

SMALL = ("--variant", "b0", "--weights", "random", "--resolution", "64")


@pytest.fixture
def artifacts(small: Path, tmp_path: Path) -> Path:
    """b0 with random weights, and an INT8 file and a report that were made from it."""
    shutil.copytree(small, tmp_path / "artifacts")
    for name in ("b0.int8.onnx", "b0.calibration.html"):
        (tmp_path / "artifacts" / "b0" / name).write_bytes(b"made from b0")
    return tmp_path / "artifacts"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "birds.pth"
    torch.save(EfficientNet(VARIANTS["b0"], 5).state_dict(), path)
    return path


def test_other_weights_need_a_name_and_live_under_it(artifacts: Path, checkpoint: Path, run_export) -> None:
    given = ("--variant", "b0", "--weights", checkpoint, "--resolution", "64", "--artifacts", artifacts)
    before = (artifacts / "b0" / "b0.fp32.onnx").read_bytes()
    done = run_export(*given)
    assert done.status == 2 and "holds another network: random weights" in done.err and "NAME=" in done.err
    done = run_export(*given, "--name", "birds")
    assert done.status == 0, done.err
    assert (artifacts / "b0" / "b0.fp32.onnx").read_bytes() == before
    birds = read_artifact(artifacts / "birds" / "birds.fp16.onnx")
    assert (birds.variant, birds.more["network"], birds.classes) == ("birds", "b0", 5)
    assert latest(artifacts) == ["birds"]
    done = run_export("--variant", "birds", "--artifacts", artifacts)
    assert done.status == 2 and "VARIANT=b0 NAME=birds" in done.err


def test_the_same_weights_in_another_file_are_the_same_network(
    artifacts: Path, checkpoint: Path, tmp_path: Path, run_export
) -> None:
    """Only what was made from it is put aside; weights that differ in one number are another network."""
    tensors = torch.load(checkpoint)
    again = tmp_path / "again.pth.tar"
    torch.save({"epoch": 9, "state_dict": tensors}, again)
    given = ("--variant", "b0", "--resolution", "64", "--artifacts", artifacts, "--name", "birds", "--weights")
    for path in (checkpoint, again):
        done = run_export(*given, path)
        assert done.status == 0, done.err
    tensors["classifier.bias"][0] += 1
    torch.save(tensors, again)
    done = run_export(*given, again)
    assert done.status == 2 and "holds another network" in done.err


def test_other_settings_export_again_and_move_aside_what_was_made_before(artifacts: Path, run_export) -> None:
    done = run_export(*SMALL[:4], "--resolution", "96", "--artifacts", artifacts)
    assert done.status == 0, done.err
    assert "moved        b0.calibration.html, b0.int8.onnx to " in done.out
    assert read_artifact(artifacts / "b0" / "b0.fp32.onnx").preprocessing.resolution == 96
    (aside,) = (artifacts / "b0").glob("replaced-*")
    assert (aside / "b0.int8.onnx").read_bytes() == b"made from b0"


@pytest.mark.parametrize("name", ["b1", "EfficientNet_B1", "../birds", "birds-embedding", "B0"])
def test_what_is_no_name(artifacts: Path, run_export, name: str) -> None:
    done = run_export(*SMALL, "--name", name, "--artifacts", artifacts)
    assert done.status == 2 and f"NAME={name}" in done.err
