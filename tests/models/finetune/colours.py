"""Small collections of images that a network can learn in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
QUICK = ("--variant", "lite0", "--weights", "random", "--resolution", "32", "--threads", "1", "--batch", "8")


def picture(name: str, i: int) -> Image.Image:
    """One of class `name`, unlike every other one: noise around a colour."""
    random = np.random.default_rng([sum(name.encode()), i])
    coarse = np.clip(random.normal(COLOURS.get(name, (128, 128, 128)), 40, (8, 8, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)


def fill(folder: Path, each: int, names: tuple[str, ...] = tuple(COLOURS), start: int = 0) -> Path:
    """`each` images of every class in `names` into `folder`."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + each):
            picture(name, i).save(folder / name / f"{i}.png")
    return folder
