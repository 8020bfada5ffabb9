"""Every image of Pillow's own tests, damaged ones among them, is decoded as Pillow decodes it, or refused with a sentence. They
come with Pillow's source: `make test-images` fetches it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from PIL import Image, ImageOps

from runtime.errors import UserError
from runtime.images.decode import DECODING, open_image
from runtime.images.find import SUFFIXES

REFUSED = {"10ct_32bit_128.tiff"}  # floats, whose range nobody knows
OTHERWISE = {"rgb32bf-abgr.bmp"}  # its alpha is 0 everywhere, so it is not taken for one
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # which Pillow's convert() cuts off at 255


def test_every_image_is_as_pillow_decodes_it(recwarn: pytest.WarningsRecorder) -> None:
    if not os.environ.get("PILLOW_TEST_IMAGES"):
        pytest.skip("PILLOW_TEST_IMAGES is not set (make test-images sets it)")
    folder = Path(os.environ["PILLOW_TEST_IMAGES"])
    same, wrong = 0, []  # type: int, List[str]
    for path in sorted(folder.rglob("*")):
        if not path.name.lower().endswith(SUFFIXES):
            continue
        theirs = _by_pillow(path)
        try:
            ours: Optional[np.ndarray] = np.asarray(open_image(str(path), decoding=DECODING._replace(exact=True)))
        except UserError:
            ours = None
        if theirs is None or path.name in OTHERWISE | REFUSED:
            continue
        if ours is None or not np.array_equal(ours, theirs):
            wrong.append(path.name)
        same += 1
    assert not wrong and same >= 650


def _by_pillow(path: Path) -> Optional[np.ndarray]:
    """Its pixels on white; None where Pillow has none, or cuts them off."""
    try:
        with Image.open(path) as image:
            if image.mode in DEEP or image.width * image.height > DECODING.max_pixels:
                return None
            image.load()
            whole = ImageOps.exif_transpose(image).convert("RGBA")
    except Exception:
        return None
    shown = Image.new("RGBA", whole.size, "white")
    shown.paste(whole, mask=whole)
    return np.asarray(shown.convert("RGB"))
