"""JPEGs decoded at a fraction of their size, against the plain way; and the formats that are read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
from PIL import Image

from runtime.images import formats
from runtime.images.decode import Decoding, ImageError, margins_of, open_image
from runtime.images.preprocess import Preprocessing, preprocess, resize_crop

DATA = Path(__file__).resolve().parents[2] / "data"
EXACT = Decoding(exact=True)
SMALL = Preprocessing(56, 0.875, "bicubic", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # 64 px, tensors of 0..255


def lighthouse(size: Tuple[int, int]) -> Image.Image:
    """A real one: its edges show a shift of a fraction of a pixel."""
    with Image.open(DATA / "lighthouse.jpg") as image:
        return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def off(data: bytes, recipe: Preprocessing = SMALL) -> float:
    """Root mean square of what the fraction changes, in 1/255."""
    return float(np.sqrt(np.mean((preprocess(data, recipe) - preprocess(data, recipe, decoding=EXACT)) ** 2)))


@pytest.mark.parametrize(
    "size,at_least,expected",
    [
        ((1280, 1280), 64, (160, 160)),
        ((1280, 1500), 65, (320, 375)),  # 1/8 would leave less than 2.5 times
        ((1279, 2000), 64, (320, 500)),
        ((1290, 1281), 64, (162, 161)),
        ((400, 321), 64, (200, 161)),
        ((320, 4000), 64, (160, 2000)),
        ((500, 319), 64, (500, 319)),
        ((500, 375), 256, (500, 375)),
    ],
)
def test_fraction(size: Tuple[int, int], at_least: int, expected: Tuple[int, int]) -> None:
    data = encode(lighthouse(size))
    assert open_image(data, at_least=at_least).size == expected
    assert open_image(data).size == open_image(data, decoding=EXACT, at_least=at_least).size == size


def test_ordinary_images_and_exact_ones_are_as_pillow_decodes_them() -> None:
    for size, at_least, decoding in (((500, 375), 256, Decoding()), ((999, 777), 64, EXACT)):
        data = encode(lighthouse(size))
        image = open_image(data, decoding=decoding, at_least=at_least)
        assert margins_of(image) is None
        assert (np.asarray(image) == np.asarray(Image.open(io.BytesIO(data)))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fraction_of_a_turned_image(orientation: int) -> None:
    """An eighth of 1283 x 1297 is 160.375 x 162.125, of which decoding makes 161 x 163: half a pixel too much shows."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(lighthouse((1283, 1297)), quality=95, exif=exif)
    assert sorted(open_image(data, at_least=64).size) == [161, 163]
    assert off(data) < 2.5


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"interpolation": "bilinear"},
        {"interpolation": "lanczos"},
        {"crop": 1.0, "resolution": 64},
        {"crop": 2.0, "resolution": 113},  # padded
        {"crop": 0.5, "resolution": 29},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1035, 1049), (520, 2047), (2047, 520)])
def test_fraction_is_close_to_the_plain_way(size: Tuple[int, int], change: Any) -> None:
    recipe = SMALL._replace(**change)
    data = encode(lighthouse(size), quality=95)
    assert min(open_image(data, at_least=recipe.resize_to).size) < min(size)
    assert off(data, recipe) < 2.5


@pytest.mark.parametrize(
    "mode,kind,options",
    [
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 0}),
        ("RGB", "MPO", {"save_all": True, "append_images": [Image.new("RGB", (700, 660))]}),
    ],
    ids=["grey", "cmyk", "progressive", "444", "mpo"],
)
def test_fraction_of_every_kind_of_jpeg(mode: str, kind: str, options: Any) -> None:
    data = encode(lighthouse((700, 660)).convert(mode), kind, quality=95, **options)
    image = open_image(data, at_least=64)
    assert image.mode == "RGB" and image.size == (175, 165)
    assert off(data) < 2.5


def test_images_of_others_stay_as_they_are() -> None:
    with Image.open(io.BytesIO(encode(lighthouse((640, 600))))) as mine:
        assert open_image(mine, at_least=64).size == mine.size == (640, 600)
    assert open_image(encode(lighthouse((640, 600)), "PNG"), at_least=64).size == (640, 600)


def test_what_is_made_of_a_fraction_is_an_ordinary_image() -> None:
    image = open_image(encode(lighthouse((1283, 1297))), at_least=64)
    assert margins_of(image) == (0, 0, 0.625, 0.875)
    assert margins_of(open_image(image)) == margins_of(image)  # opened, not changed
    for made in (image.crop((0, 0, 100, 100)), image.copy(), image.rotate(90)):
        assert margins_of(made) is None
    assert resize_crop(image, SMALL).size == (56, 56)


# Formats


def test_formats_that_are_read() -> None:
    image = lighthouse((40, 30))
    for row in (row for row in formats.FORMATS if row.name != "HEIC"):  # test_kinds has that
        if formats.supported(row):
            assert open_image(encode(image, row.name.upper()), name=row.name).size == (40, 30)
        else:
            assert row.name == "AVIF", "only old Pillows lack one"


@pytest.mark.parametrize("kind", ["JPEG2000", "ICO", "TGA", "PDF", "EPS", "PCX", "SGI", "DDS", "ICNS"])
def test_formats_that_are_not_read(kind: str) -> None:
    with pytest.raises(ImageError, match="scan: (not an image|a file in .* format, which is not read: convert it)"):
        open_image(encode(lighthouse((64, 64)), kind), name="scan")


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(lighthouse((40, 30)), "PNG"))
    assert open_image(path).size == (40, 30)
    path.write_bytes(b"%PDF-1.7 with a JPEG in it " + encode(lighthouse((40, 30))))
    with pytest.raises(ImageError, match="photo.jpg: a file in PDF format"):
        open_image(path)


def test_a_pillow_without_a_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(lighthouse((40, 30)), "WEBP")
    monkeypatch.setattr("PIL.WebPImagePlugin.SUPPORTED", False)
    with pytest.raises(ImageError, match="WebP format, which this Pillow cannot read: convert it to JPEG"):
        open_image(data)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_only_the_first_frame_is_decoded(kind: str) -> None:
    """What follows it may be anything."""
    frames = [lighthouse((64, 48)), lighthouse((48, 64)).resize((64, 48))]
    data = bytearray(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    data[-200:-20] = bytes(180)
    assert np.abs(np.asarray(open_image(bytes(data))).astype(int) - np.asarray(frames[0])).mean() < 30
