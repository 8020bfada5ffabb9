"""From an image, whatever it comes as, to the tensor that the network gets.

Calibration, evaluation, the benchmark and the runtime all call `preprocess`, so that they can't disagree.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError
from .decode import DECODING, Decoding, Margins, Source, margins_of, open_image

# No "nearest": one source pixel off is not within 1/255, and no EfficientNet wants it.
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
INTERPOLATIONS = tuple(_FILTERS)
_WIDEST_FILTER = 3  # radius of Lanczos in source px, where it enlarges


# "float32": RGB normalised here, [N, 3, H, W]. "uint8": pixels as they are, [N, H, W, 3], which the graph normalises.
INPUTS = ("float32", "uint8")


class Preprocessing(NamedTuple):
    """What a checkpoint wants done to an image; travels in the artifact's metadata."""

    resolution: int  # side of the network's square input, px
    crop: float  # resolution / length that the shorter side is resized to, e.g. 0.875 = 224/256
    interpolation: str  # "bilinear" | "bicubic" | "lanczos"
    mean: tuple[float, float, float]  # of RGB scaled to 0..1
    std: tuple[float, float, float]
    input: str = "float32"  # one of INPUTS: what the network takes

    def empty(self, count: int) -> np.ndarray:
        """Room for a batch: float32 [count, 3, resolution, resolution] or uint8 [count, resolution, resolution, 3]."""
        side = self.resolution
        return np.empty((count, side, side, 3) if self.input == "uint8" else (count, 3, side, side), self.input)

    @property
    def resize_to(self) -> int:
        """Length in px that the shorter side is resized to: floored as timm does, but 240 / (240/255) is 255."""
        return math.floor(self.resolution / self.crop + 1e-6)


def preprocess(
    source: Source,
    preprocessing: Preprocessing,
    name: str | None = None,
    decoding: Decoding = DECODING,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Image to what the network takes of it, RGB, contiguous: open_image, resize_crop, normalize. float32 [3,
    resolution, resolution], or uint8 [resolution, resolution, 3] where `preprocessing.input` says so; written into `out`
    (a row of `preprocessing.empty(n)`) if that is given.

    Raises ImageError as `open_image` does, and UserError for an interpolation that isn't known.
    """
    image = open_image(source, name, decoding, preprocessing.resize_to)
    return normalize(resize_crop(image, preprocessing), preprocessing, out)


def resize_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The network's square of an RGB image: what torchvision's Resize and CenterCrop give on a PIL image.

    The shorter side becomes `resize_to`, the middle is cut out, and what is missing (crop above 1) is black.
    """
    if preprocessing.interpolation not in _FILTERS:
        raise UserError(f"Interpolation {preprocessing.interpolation!r} is not one of {', '.join(_FILTERS)}.")
    method, side = _FILTERS[preprocessing.interpolation], preprocessing.resolution
    margins = margins_of(image)
    if margins is not None:
        return _resize_reduced(image, margins, preprocessing.resize_to, side, method)
    width, height = (int(preprocessing.resize_to * length / min(image.size)) for length in image.size)
    # Resampling only what the crop keeps is quicker, but not the same: Pillow holds the box in float32, which turns
    # one pixel in a thousand by 1/255 and one in a million by 2/255. So only for what would be a giant otherwise.
    if max(width, height) > 16 * side:
        image = _resize_middle(image, (width, height), side, method)
    else:
        image = image.resize((width, height), method)
    left, top = (_crop_offset(length, side) for length in image.size)
    return image.crop((left, top, left + side, top + side))  # black where outside


def normalize(image: Image.Image, preprocessing: Preprocessing, out: np.ndarray | None = None) -> np.ndarray:
    """RGB image to (pixel/255 - mean) / std, float32 [3, H, W]; where the graph does that itself, to its pixels, uint8
    [H, W, 3]. Contiguous, and into `out` if that is given."""
    if preprocessing.input == "uint8":
        if out is None:
            return np.array(image)  # asarray would be read-only
        out[...] = np.asarray(image)
        return out
    scale, offset = scale_and_offset(preprocessing)
    pixels = np.asarray(image).transpose(2, 0, 1)  # HWC -> CHW, a view
    # 0.08 ms at 224 px; a table of 256 values per channel (np.take) 0.14 to 0.33
    tensor = np.empty(pixels.shape, np.float32) if out is None else out
    np.multiply(pixels, scale[:, None, None], out=tensor, dtype=np.float32)
    tensor += offset[:, None, None]
    return tensor


def scale_and_offset(preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """float32 [3] each: pixel * scale + offset is (pixel/255 - mean) / std. Graphs of uint8 input carry just these."""
    std = np.array(preprocessing.std)
    return (1 / (255 * std)).astype(np.float32), (-np.array(preprocessing.mean) / std).astype(np.float32)


def _crop_offset(length: int, side: int) -> int:
    """Where torchvision's CenterCrop starts; negative where it pads."""
    return round((length - side) / 2.0) if length >= side else -((side - length) // 2)


def _resize_middle(image: Image.Image, size: tuple[int, int], side: int, method: Image.Resampling) -> Image.Image:
    """`image.resize(size)`, of whose longer side only the middle `side` pixels are made."""
    axis = 0 if size[0] > size[1] else 1
    scale = image.size[axis] / size[axis]  # source px per px
    start = _crop_offset(size[axis], side) * scale
    stop = start + side * scale
    if scale < 1:
        # In float32 a box around source pixel 25000 may be half an enlarged pixel off: count from nearer. But shrink
        # the uncut image, because from Pillow 13 on the sizes decide which of the two passes comes first.
        low, high = math.floor(start) - _WIDEST_FILTER - 1, math.ceil(stop) + _WIDEST_FILTER + 1
        low, high = max(0, low), min(image.size[axis], high)
        image = image.crop((low, 0, high, image.height) if axis == 0 else (0, low, image.width, high))
        start, stop = start - low, stop - low
    if axis == 0:
        return image.resize((side, size[1]), method, box=(start, 0, stop, image.height))
    return image.resize((size[0], side), method, box=(0, start, image.width, stop))


def _resize_reduced(
    image: Image.Image, margins: Margins, resize_to: int, side: int, method: Image.Resampling
) -> Image.Image:
    """`resize_crop` of an image decoded at a fraction, straight to what the crop keeps of it."""
    lengths = [image.size[i] - margins[i] - margins[i + 2] for i in (0, 1)]  # the image's own, by the fraction
    sizes = [int(resize_to * length / min(lengths)) for length in lengths]
    offsets = [_crop_offset(size, side) for size in sizes]
    starts = [max(0, offset) for offset in offsets]
    stops = [min(size, offset + side) for size, offset in zip(sizes, offsets)]
    scales = [length / size for length, size in zip(lengths, sizes)]  # source px per px
    left, top, right, bottom = (margins[i] + edges[i] * scales[i] for edges in (starts, stops) for i in (0, 1))
    image = image.resize((stops[0] - starts[0], stops[1] - starts[1]), method, box=(left, top, right, bottom))
    x, y = (offset - start for offset, start in zip(offsets, starts))
    return image.crop((x, y, x + side, y + side))  # black where outside
