"""INT8 on real weights and the photographs that are always there. On labelled ones: tests/test_accuracy.py."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest

from calibration.collect.images import CalibrationImages, read_built_in
from calibration.layer_graph import logits_of, open_session, sqnr, top1_agreement
from calibration.quantise.prepare import prepare
from calibration.search.sensitivity import simulate
from calibration.stage import read_network
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """Lite0 with real weights."""
    exported = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not exported:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to calibrate (make test sets it)")
    return read_artifact(artifact_path("lite0", "fp32", Path(exported)))


def in_int8(artifact: Artifact, calibration: CalibrationImages, judging: CalibrationImages) -> tuple[float, float]:
    """(top-1 agreement with FP32, SQNR of the logits in dB) of every layer in INT8, with the ranges of the first pass:
    what the search starts from."""
    network = read_network(artifact)
    prepared = prepare(network, calibration.batches, 1)
    expected = logits_of(open_session(network.to_model(), 1), judging.batches())
    logits = simulate(prepared.graph(), judging.batches(), 1)
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
