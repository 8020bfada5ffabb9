"""Finds the same image under two names, by thumbnails.

Scaled, recompressed and slightly brightened copies are found; crops, rotations and mirror images are not. A difference
hash was tried first: of smooth images (sky) it misses most copies, as the signs of small differences are noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

# On 300 images, copies (JPEG 40 to 85, half size, 0.7 times and JPEG 70) are at most 2.4 apart, different ones at least 21.
LEVELS = 4.0  # mean difference of thumbnails of copies, of 255, at most
_SIDE = 16  # px of the thumbnail
_ROUGH = 6.0  # root of the mean square difference of 8 x 8 grey patches, up to which thumbnails are compared
_BLOCK = 512  # images that are compared with the others at once


class Look(NamedTuple):
    """What is kept of an image to recognise it by."""

    pixels: bytes  # sha256: equal for equal pixels
    thumbnail: np.ndarray  # uint8 [16, 16, 3]


def look(image: Image.Image) -> Look:
    """Of an RGB image."""
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
    return Look(digest, np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX)))


def groups(looks: Sequence[Look]) -> list[int]:
    """For each image the index of the first one that it is a copy of, of a copy of, and so on: its own if of none."""
    first: dict[bytes, int] = {}
    parent = [first.setdefault(each.pixels, i) for i, each in enumerate(looks)]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    unique = np.array(sorted(first.values()))
    thumbnails = (
        np.stack([looks[i].thumbnail for i in unique]) if len(unique) else np.empty((0, _SIDE, _SIDE, 3), np.uint8)
    )
    for a, b in _alike(thumbnails):
        low, high = sorted((root(int(unique[a])), root(int(unique[b]))))
        parent[high] = low
    return [root(i) for i in range(len(looks))]


def _alike(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows of uint8 [n, 16, 16, 3] that are at most LEVELS apart.

    A pair so close has means that close, so only neighbours in brightness are compared: by a product of matrices of 8 x 8
    grey patches first, 100,000 images in a minute.
    """
    count, half = len(thumbnails), _SIDE // 2
    grey = thumbnails.reshape(count, half, 2, half, 2, 3).mean((2, 4, 5), dtype=np.float32).reshape(count, half * half)
    order = np.argsort(grey.mean(1), kind="stable")
    grey = grey[order]
    means, squares = grey.mean(1), (grey * grey).sum(1)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        end = int(np.searchsorted(means, means[stop - 1] + LEVELS, "right"))
        apart = squares[start:stop, None] + squares[None, start:end] - 2 * grey[start:stop] @ grey[start:end].T
        for a, b in zip(*np.nonzero(apart < _ROUGH * _ROUGH * half * half)):
            if a < b:
                i, j = int(order[start + a]), int(order[start + b])
                if np.abs(thumbnails[i].astype(np.int16) - thumbnails[j]).mean() < LEVELS:
                    yield i, j
