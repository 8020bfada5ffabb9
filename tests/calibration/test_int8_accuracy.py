"""INT8 on real weights and real images: Lite0, calibrated on a few, judged on others."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest

from calibration.budget import Budget
from calibration.collect.images import CalibrationImages, read_built_in, read_folder
from calibration.layer_graph import logits_of, open_session, sqnr, top1_agreement
from calibration.quantise.placement import TARGETS, quantised_graph
from calibration.quantise.prepare import prepare
from calibration.search.sensitivity import simulate
from calibration.stage import Request, calibrate, read_network
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """Lite0 with real weights."""
    exported = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not exported:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to calibrate (make test sets it)")
    return read_artifact(artifact_path("lite0", "fp32", Path(exported)))


@pytest.fixture(scope="module")
def lite0(artifact: Artifact) -> tuple[Artifact, Path]:
    """The same, and the folder of labelled images."""
    data = os.environ.get("EFFICIENTNET_TEST_DATA")
    if not data:
        pytest.skip("EFFICIENTNET_TEST_DATA is not set: no labelled images")
    return artifact, Path(data) / "images"


def in_int8(artifact: Artifact, calibration: CalibrationImages, judging: CalibrationImages) -> tuple[float, float]:
    """(top-1 agreement with FP32, SQNR of the logits in dB) of every layer in INT8, with the ranges of the first pass:
    what the search starts from."""
    network = read_network(artifact)
    prepared = prepare(network, TARGETS["tensorrt"], calibration.batches)
    expected = logits_of(open_session(network.to_model()), judging.batches())
    graph = quantised_graph(network, prepared.layers, prepared.identities, ())
    logits = simulate(graph, judging.batches())
    return top1_agreement(expected, logits), sqnr(expected, logits)


def test_lite0_in_int8_answers_as_in_fp32_on_photographs_it_has_not_seen(artifact: Artifact) -> None:
    """Crops of scikit-image's samples: ranges from one half of the photographs, judged on the other."""
    pytest.importorskip("skimage", reason="scikit-image is not installed: no photographs")
    images = read_built_in(artifact.preprocessing)
    photographs = [name.rsplit(" ", 1)[0] for name in images.names]
    odd = np.array([sorted(set(photographs)).index(photograph) % 2 == 1 for photograph in photographs])
    agreement, decibels = in_int8(artifact, rows(images, ~odd), rows(images, odd))
    assert agreement >= 0.8 and decibels >= 14, (agreement, decibels)  # 87.5 % and 16.3 dB when this was written


def rows(images: CalibrationImages, chosen: np.ndarray) -> CalibrationImages:
    picked = copy.copy(images)
    picked.pixels = images.pixels[chosen]
    picked.names = [name for name, wanted in zip(images.names, chosen) if wanted]
    return picked


def some(artifact: Artifact, folder: Path, count: int) -> CalibrationImages:
    images = read_folder(folder, artifact.preprocessing, artifact.classes)
    images.pixels = images.pixels[:count]
    images.labels = None if images.labels is None else images.labels[:count]
    return images


@pytest.mark.long
def test_ranges_and_rounding_keep_lite0s_classes(lite0: tuple[Artifact, Path]) -> None:
    """Every layer in INT8, with the ranges of the first pass: what the search starts from."""
    artifact, folder = lite0
    calibration, judging = some(artifact, folder / "calibration", 48), some(artifact, folder / "evaluation", 100)
    network = read_network(artifact)
    prepared = prepare(network, TARGETS["tensorrt"], calibration.batches)
    expected = logits_of(open_session(network.to_model()), judging.batches())
    graph = quantised_graph(network, prepared.layers, prepared.identities, ())
    logits = simulate(graph, judging.batches())
    assert top1_agreement(expected, logits) >= 0.95 and sqnr(expected, logits) >= 20
    assert np.mean(logits.argmax(1) == judging.labels) >= np.mean(expected.argmax(1) == judging.labels) - 0.03


@pytest.mark.long
def test_lite0_keeps_its_classes(lite0: tuple[Artifact, Path], tmp_path: Path) -> None:
    artifact, folder = lite0
    calibration, judging = some(artifact, folder / "calibration", 96), some(artifact, folder / "evaluation", 200)
    calibration.labels = None
    result = calibrate(Request(artifact, calibration, judging, Budget(sqnr=22, allowance=0.05)), tmp_path)
    scores = {score.name: score for score in result.scores}
    ours, plain = scores["INT8, calibrated"], scores["INT8, min-max"]
    assert ours.agreement >= 97 and ours.sqnr >= 22 and result.best.share >= 0.97
    assert ours.sqnr > plain.sqnr + 4
    assert scores["FP32"].top1 is not None and ours.top1 is not None and scores["FP32"].top1 - ours.top1 <= 1.5
