"""BMP files whose channels have other bits than those that Pillow knows: 4 bits each, or 10, or an unusual order."""

from __future__ import annotations

import struct
from typing import Callable, Optional

import numpy as np
from PIL import Image

_BITFIELDS = (3, 6)  # BI_BITFIELDS and BI_ALPHABITFIELDS of BITMAPINFOHEADER: a mask for each channel


def by_masks(content: bytes, check_size: Callable[[int, int], None]) -> Optional[Image.Image]:
    """The RGB or RGBA image of a BMP that names a mask for each channel; None for another BMP.

    `check_size(width, height)` raises for a size that is not accepted. Raises EOFError for a truncated file."""
    if len(content) < 70:
        return None
    start, header, width, height, _, bits, compression = struct.unpack("<IIiiHHI", content[10:34])
    if compression not in _BITFIELDS or bits not in (16, 32) or width <= 0 or height == 0:
        return None
    masks = struct.unpack("<4I", content[54:70])[: 4 if header >= 56 or compression == 6 else 3]
    check_size(width, abs(height))
    stride = (width * bits // 8 + 3) // 4 * 4
    if len(content) < start + stride * abs(height):
        raise EOFError("rows are missing")
    rows = np.frombuffer(content, np.uint8, stride * abs(height), start).reshape(abs(height), stride)
    values = rows[:, : width * bits // 8].copy().view("<u2" if bits == 16 else "<u4").astype(np.uint64)
    pixels = np.stack([_scaled(values, mask) for mask in (masks if masks[-1] else masks[:3])], -1)
    return Image.fromarray(np.ascontiguousarray(pixels if height < 0 else pixels[::-1]))  # stored from the bottom up


def _scaled(values: np.ndarray, mask: int) -> np.ndarray:
    """The bits below `mask` as 0..255."""
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    return (((values & np.uint64(mask)) >> np.uint64(shift)) * np.uint64(255) // np.uint64(most)).astype(np.uint8)
