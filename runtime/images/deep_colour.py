"""Colours of 16 bits a channel, of which Pillow keeps the upper 8. Where only the lower 12 are used, that would be black."""

from __future__ import annotations

import sys
from typing import Any, List, Tuple

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

# Pillow's names for 16 bits with the low byte first, the high byte first, or as this machine has it: what gives the other byte
_OTHER = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}


def is_deep(image: ImageFile) -> bool:
    """Whether an image that is not loaded yet is RGB of 16 bits a channel."""
    return image.mode == "RGB" and bool(image.tile) and all(_raw_mode(tile[3])[-3:] in _OTHER for tile in image.tile)


def swap_bytes(image: ImageFile) -> None:
    """Has an image that is not loaded yet decoded to the lower 8 bits of each sample."""
    tiles: List[Any] = []
    for tile in image.tile:
        arguments: Any = tile[3]
        raw_mode = _raw_mode(arguments)
        other = raw_mode[:-3] + _OTHER[raw_mode[-3:]]
        changed = other if isinstance(arguments, str) else (other, *arguments[1:])
        # a tuple in Pillow 10, a NamedTuple later
        tiles.append(tile._replace(args=changed) if hasattr(tile, "_replace") else (*tile[:3], changed))
    image.tile = tiles


def key_factor(image: ImageFile) -> int:
    """By what Pillow multiplies the grey of a PNG of 2 or 4 bits that is not loaded yet, and not its transparent value."""
    return {"L;2": 85, "L;4": 17}.get(_raw_mode(image.tile[0][3]), 1) if image.tile else 1


def without_key(upper: Image.Image, lower: Image.Image, shown: Tuple[int, int, int]) -> Image.Image:
    """An RGB image of 16 bits a channel whose pixels of its one transparent colour are `shown`: all 16 bits tell which."""
    colours = np.array(upper)
    colours[(combined(upper, lower) == np.array(upper.info["transparency"])).all(axis=2)] = shown
    image = Image.fromarray(colours)
    image.info = {name: value for name, value in upper.info.items() if name != "transparency"}
    return image


def combined(upper: Image.Image, lower: Image.Image) -> np.ndarray:
    """uint16 [H, W, 3] of the two halves."""
    return np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)


def _raw_mode(arguments: object) -> str:
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""
