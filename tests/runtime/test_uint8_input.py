"""Artifacts whose network takes the camera's own pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from runtime.preprocess import Preprocessing, normalize, preprocess, scale_and_offset

FLOAT = Preprocessing(224, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = FLOAT._replace(input="uint8")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8))


def test_normalize_leaves_pixels_as_they_are(picture: Image.Image) -> None:
    pixels = normalize(picture, PIXELS)
    assert pixels.dtype == np.uint8 and pixels.shape == (300, 400, 3)
    assert pixels.flags["C_CONTIGUOUS"] and pixels.flags["WRITEABLE"]
    np.testing.assert_array_equal(pixels, np.asarray(picture))


def test_scale_and_offset_are_the_whole_difference(picture: Image.Image) -> None:
    scale, offset = scale_and_offset(PIXELS)
    by_hand = preprocess(picture, PIXELS).transpose(2, 0, 1) * scale[:, None, None] + offset[:, None, None]
    np.testing.assert_array_equal(by_hand, preprocess(picture, FLOAT))


@pytest.mark.parametrize("recipe", [FLOAT, PIXELS])
def test_into_a_row_of_a_batch(picture: Image.Image, recipe: Preprocessing) -> None:
    batch = recipe.empty(3)
    batch.fill(7)
    row = preprocess(picture, recipe, out=batch[1])
    assert np.shares_memory(row, batch)
    np.testing.assert_array_equal(batch[1], preprocess(picture, recipe))
    assert (batch[[0, 2]] == 7).all()
