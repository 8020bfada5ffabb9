"""INT8 on real weights and real photographs: Lite0, calibrated on a few, judged on others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from calibration.images import read_folder
from calibration.sensitivity import Budget
from calibration.stage import calibrate
from runtime.artifact import artifact_path, read_artifact


def test_lite0_keeps_its_classes(tmp_path: Path) -> None:
    exported, data = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS"), os.environ.get("EFFICIENTNET_TEST_DATA")
    if not exported or not data:
        pytest.skip(
            "EFFICIENTNET_TEST_ARTIFACTS and EFFICIENTNET_TEST_DATA are not both set: no real network and photographs"
        )
    artifact = read_artifact(artifact_path("lite0", "fp32", Path(exported)))
    pre, classes = artifact.preprocessing, artifact.classes
    photographs = read_folder(Path(data) / "images" / "calibration", pre, classes)
    photographs.pixels, photographs.labels = photographs.pixels[:96], None
    judging = read_folder(Path(data) / "images" / "evaluation", pre, classes)
    judging.pixels, judging.labels = judging.pixels[:200], judging.labels[:200]  # type: ignore[index]
    result = calibrate(artifact, photographs, judging, Budget(sqnr=22, allowance=0.05), "tensorrt", tmp_path)
    scores = {score.name: score for score in result.scores}
    ours, plain = scores["INT8, calibrated"], scores["INT8, min-max"]
    assert ours.same_class >= 97 and ours.sqnr >= 22 and result.best.share >= 0.97
    assert ours.sqnr > plain.sqnr + 4
    assert scores["FP32"].top1 is not None and ours.top1 is not None and scores["FP32"].top1 - ours.top1 <= 1.5
