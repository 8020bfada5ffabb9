"""Which recipe fits a checkpoint that says nothing of itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from export.__main__ import main
from export.recipes import Tried, try_recipes, verdict
from export.stage import Request
from models.checkpoints import HALF, IMAGENET
from models.variants import VARIANTS
from models.weights import find_weights

SAME = {"padding": "same", "eps": 1e-3, "mean": IMAGENET[0], "std": IMAGENET[1]}
SYMMETRIC = {"padding": "symmetric", "eps": 1e-5, "mean": HALF[0], "std": HALF[1]}


def test_the_one_that_fits_is_named_as_it_is_typed():
    lines = verdict([Tried(SAME, 90.0, 85.0, 94.0, 200), Tried(SYMMETRIC, 60.0, 53.0, 66.0, 200)])
    assert lines[-1].endswith("make export ... PADDING=same EPS=0.001 MEAN=0.485,0.456,0.406 STD=0.229,0.224,0.225")


def test_too_few_images_are_said():
    lines = verdict([Tried(SAME, 90.0, 60.0, 98.0, 12), Tried(SYMMETRIC, 80.0, 50.0, 94.0, 12)])
    assert lines[-1].startswith("12 images do not tell the first two apart")


@pytest.mark.parametrize(
    "arguments", [["--try-recipes"], ["--data", "photos"], ["--try-recipes", "--data", "photos", "--weights", "random"]]
)
def test_wrong_use(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--variant", "b0", *arguments])
    assert ended.value.code == 2 and "--try-recipes" in capsys.readouterr().err


@pytest.mark.long
def test_a_nameless_checkpoint_of_timms_tf_models_is_recognised(tmp_path):
    data = os.environ.get("EFFICIENTNET_TEST_DATA")
    if not data:
        pytest.skip("EFFICIENTNET_TEST_DATA is not set: no real checkpoint and no labelled images")
    shutil.copy(Path(data) / "weights" / "tf_efficientnet_b0.distilled_head.safetensors", tmp_path / "x.safetensors")
    weights = find_weights(VARIANTS["b0"], str(tmp_path / "x.safetensors"))
    best = try_recipes(Request(VARIANTS["b0"], weights), Path(data) / "images" / "calibration")[0]
    assert best.settings == SAME
