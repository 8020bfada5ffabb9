"""INT8 on real weights and real images: Lite0, calibrated on a few, judged on others."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from calibration.budget import Budget
from calibration.collect.images import CalibrationImages, read_folder
from calibration.layer_graph import logits_of, open_session, sqnr, top1_agreement
from calibration.quantise.prepare import prepare
from calibration.search.sensitivity import simulate
from calibration.stage import Request, calibrate, read_network
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact


@pytest.fixture(scope="module")
def lite0() -> tuple[Artifact, Path]:
    """Lite0 with real weights, and the folder of images."""
    exported, data = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS"), os.environ.get("EFFICIENTNET_TEST_DATA")
    if not exported or not data:
        pytest.skip(
            "EFFICIENTNET_TEST_ARTIFACTS and EFFICIENTNET_TEST_DATA are not both set: no real network and images"
        )
    return read_artifact(artifact_path("lite0", "fp32", Path(exported))), Path(data) / "images"


def some(artifact: Artifact, folder: Path, count: int) -> CalibrationImages:
    images = read_folder(folder, artifact.preprocessing, artifact.classes)
    images.pixels = images.pixels[:count]
    images.labels = None if images.labels is None else images.labels[:count]
    return images


def test_ranges_and_rounding_keep_lite0s_classes(lite0: tuple[Artifact, Path]) -> None:
    """Every layer in INT8, with the ranges of the first pass: what the search starts from."""
    artifact, folder = lite0
    calibration, judging = some(artifact, folder / "calibration", 48), some(artifact, folder / "evaluation", 100)
    network = read_network(artifact)
    prepared = prepare(network, calibration.batches)
    expected = logits_of(open_session(network.to_model()), judging.batches())
    logits = simulate(prepared.graph(), judging.batches())
    assert top1_agreement(expected, logits) >= 0.95 and sqnr(expected, logits) >= 20
    assert np.mean(logits.argmax(1) == judging.labels) >= np.mean(expected.argmax(1) == judging.labels) - 0.03


@pytest.mark.long
def test_lite0_keeps_its_classes(lite0: tuple[Artifact, Path], tmp_path: Path) -> None:
    artifact, folder = lite0
    calibration, judging = some(artifact, folder / "calibration", 96), some(artifact, folder / "evaluation", 200)
    calibration.labels = None
    result = calibrate(Request(artifact, calibration, judging, Budget(sqnr=22)), tmp_path)
    scores = {score.name: score for score in result.scores}
    ours, plain = scores["INT8, calibrated"], scores["INT8, min-max"]
    assert ours.agreement >= 97 and ours.sqnr >= 22 and result.best.share >= 0.97
    assert ours.sqnr > plain.sqnr + 4
    assert scores["FP32"].top1 is not None and ours.top1 is not None and scores["FP32"].top1 - ours.top1 <= 1.5
