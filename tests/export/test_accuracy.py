"""Real weights on real images. How accurate each export is: tests/test_accuracy.py."""

from __future__ import annotations

import numpy as np

from models.pretrained import load_pretrained
from models.variants import VARIANTS
from models.weights import find_weights
from runtime.images.preprocess import preprocess


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
