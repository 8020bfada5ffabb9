"""Artifacts whose network takes the camera's own pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Set

import numpy as np
import pytest
from PIL import Image

from runtime.artifacts.third_party import shape_of
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing, normalize, preprocess, scale_and_offset
from runtime.measure.cold import cold_start
from runtime.measure.latency import STAGES, TOTAL, one_pass
from runtime.networks.classifier import Classifier

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


def test_answers_are_those_of_normalised_images(
    small_model: Path, pixel_model: Path, photographs: Dict[Path, Set[int]]
) -> None:
    with Classifier(small_model, backend="onnxruntime") as floats, Classifier(
        pixel_model, backend="onnxruntime"
    ) as pixels:
        batch = pixels.preprocess(list(photographs))
        assert batch.dtype == np.uint8 and batch.shape == (len(photographs), 224, 224, 3)
        np.testing.assert_array_equal(pixels.logits(batch), floats.logits(floats.preprocess(list(photographs))))
        assert pixels(list(photographs)) == floats(list(photographs))
        assert pixels(next(iter(photographs))) == floats(next(iter(photographs)))


def test_openvino_takes_it(small_model: Path, pixel_model: Path, photographs: Dict[Path, Set[int]]) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    with Classifier(small_model, backend="openvino") as floats, Classifier(pixel_model, backend="openvino") as pixels:
        expected = floats.logits(floats.preprocess(list(photographs)))
        np.testing.assert_allclose(pixels.logits(pixels.preprocess(list(photographs))), expected, rtol=1e-3, atol=1e-3)


def test_another_batch_is_refused_in_words(small_model: Path, pixel_model: Path) -> None:
    with Classifier(small_model, backend="onnxruntime") as floats, Classifier(
        pixel_model, backend="onnxruntime"
    ) as pixels:
        squares, images = pixels.preprocess([]), floats.preprocess([])
        for batch in (images, images.astype(np.uint8), squares.astype(np.int16), np.zeros((224, 224, 3), np.uint8)):
            with pytest.raises(
                UserError, match=r"takes a batch of uint8 \[N, 224, 224, 3\], not .*Classifier.preprocess"
            ):
                pixels.logits(batch)
        for batch in (squares, images.astype(np.float64), np.zeros((2, 3, 240, 240), np.float32)):
            with pytest.raises(UserError, match=r"takes a batch of float32 \[N, 3, 224, 224\], not"):
                floats.logits(batch)


def test_it_is_timed_as_any_other(pixel_model: Path) -> None:
    picture = (Path(__file__).resolve().parents[2] / "data" / "corgi.jpg").read_bytes()
    with Classifier(pixel_model, backend="onnxruntime", threads=1) as pixels:
        spent = one_pass(pixels, [picture] * 3)
    assert {*spent} < {*STAGES, TOTAL} and spent["normalise"] > 0
    assert cold_start(pixel_model, "onnxruntime", 2, 1, runs=1).start_ms > 0


def test_a_foreign_network_that_takes_pixels_is_refused(pixel_model: Path) -> None:
    """Nothing says how it wants them."""
    with pytest.raises(UserError, match=r"takes tensor\(uint8\).*only classifiers from tensor\(float\)"):
        shape_of(pixel_model)
