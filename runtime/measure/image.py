"""The image that is timed: encoded, in memory, the same work in every repetition."""

from __future__ import annotations

import io
import os
from typing import Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from ..errors import UserError
from ..images.decode import open_image
from ..images.find import find_images

MADE_UP_SIZE = (640, 480)  # px, a small camera's frame


def made_up(size: Sequence[int] = MADE_UP_SIZE) -> bytes:
    """A JPEG file of about an image's detail, always the same: blobs of every size and a little grain."""
    random, (width, height) = np.random.default_rng(0), size
    pixels = random.normal(128, 6, (height, width, 3))
    for cells, strength in ((4, 50), (16, 25), (64, 12)):
        blobs = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        enlarged = blobs.resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(enlarged, np.float64) - 128) * strength / 128
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def image_of(folder: Optional[str]) -> Tuple[str, bytes]:
    """(name, content) of the one image that is timed: of those in `folder` the one of median file size, else the made-up
    one. One, over and over: the spread over images of different sizes would hide the machine's.

    Raises UserError for a folder without images, ImageError if the one can't be used.
    """
    if folder is None:
        return f"made up, {MADE_UP_SIZE[0]} x {MADE_UP_SIZE[1]}", made_up()
    files = [path for _, path in find_images([folder]) if isinstance(path, str)]
    if not files:
        raise UserError("Images to be timed are read from files, not from standard input.")
    try:
        path = sorted(files, key=os.path.getsize)[(len(files) - 1) // 2]
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}.") from None
    open_image(content, path)
    return path, content
