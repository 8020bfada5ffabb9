"""Two networks of one variant live side by side, and none is overwritten unasked."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from unittest import mock

import pytest
import torch

from export.bundle import bundle
from models.network import EfficientNet
from models.variants import VARIANTS
from runtime.artifacts.artifact import latest, read_artifact
from runtime.errors import UserError
from tests.models.tiny import TINY

SMALL = ("--variant", "b0", "--weights", "random", "--resolution", "64")


@pytest.fixture
def artifacts(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """b0 with random weights, and an INT8 file and a report that were made from it. What is exported next is tiny."""
    monkeypatch.setitem(VARIANTS, "b0", TINY)
    shutil.copytree(small, tmp_path / "artifacts")
    for name in ("b0.int8.onnx", "b0.calibration.html"):
        (tmp_path / "artifacts" / "b0" / name).write_bytes(b"made from b0")
    return tmp_path / "artifacts"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "birds.pth"
    torch.save(EfficientNet(TINY, 5).state_dict(), path)
    return path


def test_other_weights_need_a_name_and_live_under_it(
    artifacts: Path, checkpoint: Path, tmp_path: Path, run_export, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    for name in ("b0", "birds"):  # each on its way to a device
        with tarfile.open(bundle(name, "fp16", artifacts)) as packed:
            networks = [each for each in packed.getnames() if each.endswith(".onnx")]
        assert networks == [f"{name}-fp16/artifacts/{name}/{name}.fp16.onnx"]
    done = run_export("--variant", "birds", "--artifacts", artifacts)
    assert done.status == 2 and "birds was exported from birds.pth" in done.err and "WEIGHTS=" in done.err
    # What follows is let go once it is known to be allowed: a trace takes seconds.
    monkeypatch.setattr("export.to_onnx.trace", mock.Mock(side_effect=UserError("allowed")))
    tensors, again = torch.load(checkpoint), tmp_path / "again.pth.tar"
    torch.save({"epoch": 9, "state_dict": tensors}, again)  # the same weights in another file
    done = run_export(*given[:2], "--weights", again, *given[4:], "--name", "birds")
    assert "error: allowed" in done.err
    tensors["classifier.bias"][0] += 1
    torch.save(tensors, again)
    done = run_export(*given[:2], "--weights", again, *given[4:], "--name", "birds")
    assert done.status == 2 and "holds another network: birds.pth" in done.err
    # by its name alone, as make embed VARIANT=birds has it
    done = run_export("--variant", "birds", "--head", "embedding", "--weights", checkpoint, "--artifacts", artifacts)
    assert "birds-embedding: tracing" in done.err and "error: allowed" in done.err


def test_other_settings_export_again_and_move_aside_what_was_made_before(artifacts: Path, run_export) -> None:
    done = run_export(*SMALL[:4], "--resolution", "96", "--artifacts", artifacts)
    assert done.status == 0, done.err
    assert "b0.fp32.onnx will be replaced" in done.err.partition("b0: tracing")[0]
    assert "moved        b0.calibration.html, b0.int8.onnx to " in done.out
    assert read_artifact(artifacts / "b0" / "b0.fp32.onnx").preprocessing.resolution == 96
    (aside,) = (artifacts / "b0").glob("replaced-*")
    assert (aside / "b0.int8.onnx").read_bytes() == b"made from b0"


@pytest.mark.parametrize("name", ["b1", "EfficientNet_B1", "../birds", "birds-embedding", "B0"])
def test_what_is_no_name(artifacts: Path, run_export, name: str) -> None:
    done = run_export(*SMALL, "--name", name, "--artifacts", artifacts)
    assert done.status == 2 and f"NAME={name}" in done.err
