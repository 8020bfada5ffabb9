"""Pixels of every kind that images come with, to RGB of 8 bits on an opaque ground."""

from __future__ import annotations

from typing import Optional

import numpy as np
from PIL import Image

from ..errors import ImageError

BACKGROUND = (
    255,
    255,
    255,
)  # what transparent pixels show: most such images were drawn for white paper or a white page
_USUAL = (8, 10, 12)  # bits that cameras and microscopes store in samples of 16 without saying so


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """`image` in mode RGB; itself if it is. Raises ImageError for pixels whose range nobody can know."""
    key = image.info.get("transparency")
    if image.mode == "F":
        raise ImageError(f"{name}: the pixels are floats of unknown range: save the image with 8 or 16 bits.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _deep_grey(image, name)
    if image.mode in ("La", "RGBa"):  # premultiplied, and no way to RGB but this
        image = image.convert(image.mode.upper())
    if key is None and not image.mode.endswith("A"):
        return image if image.mode == "RGB" else image.convert("RGB")
    whole = image.convert("RGBA")
    alpha, colours = whole.getchannel("A"), whole.convert("RGB")
    if alpha.getextrema() == (255, 255) or (alpha.getextrema() == (0, 0) and _has_no_alpha(image)):
        return colours
    return Image.composite(colours, Image.new("RGB", image.size, BACKGROUND), alpha)


def _has_no_alpha(image: Image.Image) -> bool:
    """Whether a fourth byte that is 0 everywhere is just unused: in a BMP, and in a TIFF that does not say what it is."""
    if image.format == "TIFF":
        from .tiff import states_alpha

        return not states_alpha(image)
    return image.format == "BMP"


def _deep_grey(image: Image.Image, name: str) -> Image.Image:
    """Grey of more than 8 bits: its upper 8. convert() would cut off at 255.

    Samples that all stay below 4096 and whose depth the file does not state are taken for 12 bits (or 10, or 8) stored in
    16: they would be black otherwise.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"{name}: the pixels go beyond 16 bits: save the image with 8 or 16 bits.")
    bits, white_is_zero = None, False
    if image.format == "TIFF":
        from .tiff import meaning

        bits, white_is_zero = meaning(image)
    elif image.format == "PPM":
        bits = 16  # Pillow stretches the samples to that, by the maximum in the header
    grey = to_eight_bits(values, bits)
    if white_is_zero:
        grey = 255 - grey
    if isinstance(image.info.get("transparency"), int):
        grey[values == image.info["transparency"]] = BACKGROUND[0]
    return Image.fromarray(grey).convert("RGB")


def to_eight_bits(values: np.ndarray, bits: Optional[int] = None) -> np.ndarray:
    """The upper 8 of `bits` bits, uint8; None: of 16, or of fewer that all `values` fit into and that are usual."""
    if bits is None:
        bits = next((bits for bits in _USUAL if int(values.max()) < 1 << bits), 16)
    return np.minimum(values >> (bits - 8), 255).astype(np.uint8)


def from_array(array: np.ndarray, name: str) -> Image.Image:
    """An image of uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] in the order RGB(A). Raises ImageError for other arrays."""
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        raise ImageError(
            f"{name}: an array of {array.dtype} {list(array.shape)} is not an image: "
            "it takes uint8 (0..255) [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], channels in the order RGB."
        )
    if array.size == 0:
        raise ImageError(f"{name}: the array {list(array.shape)} has no pixels.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))
