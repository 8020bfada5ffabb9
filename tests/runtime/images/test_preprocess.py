"""Preprocessing against Pillow and torchvision, and against what people's folders hold."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from runtime.errors import UserError
from runtime.images.decode import Decoding, ImageError, open_image
from runtime.images.preprocess import Preprocessing, preprocess, resize_crop

ROOT = Path(__file__).resolve().parents[3]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BASE = Preprocessing(224, 0.875, "bicubic", *IMAGENET)
VARIED = [
    BASE,
    BASE._replace(interpolation="bilinear"),
    BASE._replace(interpolation="lanczos"),
    BASE._replace(resolution=240, crop=0.882, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    BASE._replace(resolution=240, crop=240 / 255, interpolation="bilinear"),
    BASE._replace(crop=1.0),
    BASE._replace(resolution=65, crop=1.3),  # odd, and smaller than the crop: padded
]


def soft_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """Soft blobs with a little noise on them: what a filter does to it shows, and JPEG keeps it."""
    rng = np.random.RandomState(seed)
    blobs = Image.fromarray(rng.randint(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(blobs).astype(int) + rng.randint(-12, 13, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def plain(image: Image.Image, wanted: Preprocessing) -> np.ndarray:
    """The transform as it is written down: resize all of it, pad, cut. Float [3, H, W]."""
    side, short = wanted.resolution, int(wanted.resolution / wanted.crop + 1e-6)
    width, height = image.size
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    method = getattr(Image.Resampling, wanted.interpolation.upper())
    array = np.asarray(image.resize(size, method))
    missing = [max(0, side - length) for length in array.shape[:2]]
    array = np.pad(array, [(m // 2, m - m // 2) for m in missing] + [(0, 0)])
    top, left = (int(round((length - side) / 2.0)) for length in array.shape[:2])
    array = array[top : top + side, left : left + side]
    return ((array / 255 - wanted.mean) / wanted.std).transpose(2, 0, 1)


def apart(one: np.ndarray, other: np.ndarray, wanted: Preprocessing) -> float:
    """Largest difference of two tensors, in 1/255 of a pixel."""
    return float(np.abs((one - other) * np.array(wanted.std)[:, None, None]).max() * 255)


@pytest.mark.parametrize("wanted", VARIED)
def test_as_plain_pillow(wanted: Preprocessing) -> None:
    for height, width in ((375, 500), (500, 333), (256, 256), (30, 41), (900, 210), (1, 1)):
        image = soft_image(height, width)
        tensor = preprocess(image, wanted)
        assert tensor.shape == (3, wanted.resolution, wanted.resolution)
        assert tensor.dtype == np.float32 and tensor.flags["C_CONTIGUOUS"]
        assert apart(tensor, plain(image, wanted), wanted) < 0.001


# Rounded to whole 255ths, which Pillow 10 to 13 agree on: mean of each channel, and the pixels at (100, 60) and (7, 200).
GOLDEN = [
    ("corgi.jpg", "bicubic", [124.962, 112.243, 96.040], [68, 59, 46], [51, 25, 28]),
    ("corgi.jpg", "bilinear", [125.030, 112.309, 96.106], [78, 67, 54], [51, 25, 28]),
    ("lighthouse.jpg", "bicubic", [118.162, 113.241, 127.141], [226, 222, 219], [45, 65, 100]),
    ("lighthouse.jpg", "bilinear", [118.205, 113.282, 127.181], [226, 222, 219], [45, 65, 100]),
]


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "interpolation", "means", "one", "other"), GOLDEN)
def test_golden_values(name: str, interpolation: str, means: list[float], one: list[int], other: list[int]) -> None:
    wanted = BASE._replace(interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1))
    tensor = np.rint(preprocess(ROOT / "tests" / "data" / name, wanted) * 255)
    np.testing.assert_allclose(tensor.mean((1, 2)), means, atol=0.1)
    np.testing.assert_allclose(tensor[:, 100, 60], one, atol=1)
    np.testing.assert_allclose(tensor[:, 7, 200], other, atol=1)


@pytest.mark.parametrize("wanted", VARIED)
def test_as_torchvision(wanted: Preprocessing) -> None:
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    if "torchvision" not in sys.modules and not hasattr(torch.ops.torchvision, "nms"):
        # The index's torchvision has operators for another torch than the CPU's; nothing here runs them.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        test_as_torchvision.library = library  # type: ignore[attr-defined]  # they go when it goes
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.Resize(
                wanted.resize_to, transforms.InterpolationMode[wanted.interpolation.upper()], antialias=True
            ),
            transforms.CenterCrop(wanted.resolution),
            transforms.ToTensor(),
            transforms.Normalize(wanted.mean, wanted.std),
        ]
    )
    images = [soft_image(height, width) for height, width in ((375, 500), (500, 333), (40, 31), (900, 210))]
    folder = os.environ.get("EFFICIENTNET_TEST_DATA")
    if folder:
        files = sorted(Path(folder, "images", "evaluation").glob("*.jpg"))[:20]
        assert len(files) == 20
        images += [Image.open(file).convert("RGB") for file in files]
    for image in images:
        assert apart(preprocess(image, wanted), transform(image).numpy(), wanted) < 0.001


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(8, 1501), (1501, 8), (300, 6100), (6100, 300)])
def test_long_image(size: tuple[int, int], interpolation: str) -> None:
    """Only the middle is resampled; noise is the worst that can be."""
    wanted = BASE._replace(resolution=120, interpolation=interpolation)
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8))
    assert apart(preprocess(image, wanted), plain(image, wanted), wanted) < 1.001


def test_longest_image_in_little_memory() -> None:
    """All of 1 x 50000, resized to 256 x 12 800 000, would take 13 GB."""
    pytest.importorskip("resource")
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "import numpy as np\n"
        "from runtime.images.preprocess import Preprocessing, preprocess\n"
        "wanted = Preprocessing(224, 0.875, 'bicubic', (0, 0, 0), (1, 1, 1))\n"
        "for shape in ((1, 50000), (50000, 1)):\n"
        "    print(preprocess(np.full(shape, 51, np.uint8), wanted).mean())\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert [round(float(mean), 4) for mean in done.stdout.split()] == [0.2, 0.2], done.stderr


def test_resize_to() -> None:
    assert [BASE._replace(resolution=r, crop=c).resize_to for r, c in ((224, 0.875), (240, 0.882), (260, 0.89))] == [
        256,
        272,
        292,
    ]
    for short in range(224, 800):  # floored, but not by the rounding of a ratio
        assert BASE._replace(crop=224 / short).resize_to == short


def test_padding_is_black() -> None:
    corner = preprocess(np.full((50, 50, 3), 255, np.uint8), BASE._replace(crop=2.0))[:, 0, 0]
    np.testing.assert_allclose(corner, [-m / s for m, s in zip(*IMAGENET)], rtol=1e-6)


def test_unknown_interpolation() -> None:
    with pytest.raises(UserError, match="'area'.*bilinear, bicubic"):
        preprocess(soft_image(9, 9), BASE._replace(interpolation="area"))


# What comes in


# How an image is stored so that EXIF orientation n turns it upright again.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", sorted(STORED))
def test_orientation(orientation: int, kind: str) -> None:
    upright = soft_image(40, 64)
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, kind, exif=exif, **({"quality": 98, "subsampling": 0} if kind == "JPEG" else {}))
    for source in (data, Image.open(io.BytesIO(data))):
        image = open_image(open_image(source))  # what is upright stays upright
        assert image.size == upright.size
        assert np.abs(pixels(image) - pixels(upright)).mean() < 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_and_mpf_do_not_matter() -> None:
    image = soft_image(24, 32)
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x0128], exif[0x010F] = 1, 72.0, 2, "maker"
    intact, rng = exif.tobytes(), random.Random(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        for _ in range(200):
            damaged = bytearray(intact[: rng.randrange(7, len(intact) + 1)])
            for _ in range(3):
                damaged[rng.randrange(6, len(damaged))] = rng.randrange(256)
            assert open_image(encode(image, kind, exif=bytes(damaged))).mode == "RGB"
    pair = encode(image, "MPO", save_all=True, append_images=[image])
    index = pair.index(b"MPF\0") + 4
    for _ in range(200):
        damaged = bytearray(pair)
        for _ in range(3):
            damaged[rng.randrange(index, index + 80)] = rng.randrange(256)
        assert open_image(bytes(damaged)).size == image.size


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P", "RGBa"])
def test_colour_modes(mode: str) -> None:
    patches = Image.new("RGB", (40, 20), (200, 60, 40))
    patches.paste((30, 120, 180), (20, 0, 40, 20))
    if mode == "RGBa":
        other = patches.convert("RGBA").convert("RGBa")
    else:
        other = patches.convert(mode)
    image = open_image(other)
    assert image.mode == "RGB"
    # a palette of fixed colours is coarse, the others are not
    assert np.abs(pixels(image) - pixels(patches)).max() <= (51 if mode == "P" else 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "PA"])
def test_grey_modes(mode: str) -> None:
    half = Image.new("L", (10, 6), 255)
    half.paste(0, (0, 0, 5, 6))
    other = half.convert("LA").convert("La") if mode == "La" else half.convert("LA" if mode == "PA" else mode)
    image = open_image(other.convert("PA") if mode == "PA" else other)
    assert image.mode == "RGB" and (pixels(image) == pixels(half)[..., None]).all()


@pytest.mark.parametrize("transparency,shown", [(2, (255, 255, 255)), (bytes([0, 128, 51]), (206, 224, 244))])
def test_transparent_palette_without_a_warning(transparency: int | bytes, shown: tuple[int, int, int]) -> None:
    image = Image.new("P", (4, 4), 2)
    image.putpalette([0, 0, 0, 255, 255, 255, 9, 99, 199])
    data = encode(image, "PNG", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(data).getpixel((0, 0)) == shown  # on white
        mine = Image.open(io.BytesIO(data))
        open_image(mine)
    assert mine.info["transparency"] == transparency  # the caller's image stays as it was


@pytest.mark.parametrize("mode,dtype", [("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I", "<i4")])
def test_sixteen_bits_are_scaled(mode: str, dtype: str) -> None:
    values = np.arange(0, 65536, 64).reshape(32, 32)
    image = open_image(Image.frombytes(mode, (32, 32), values.astype(dtype).tobytes()))
    assert (pixels(image) == (values >> 8)[..., None]).all()


def test_sixteen_bit_files() -> None:
    values = np.arange(0, 65536, 64).astype(np.uint16).reshape(32, 32)
    for kind in ("PNG", "TIFF"):
        assert (pixels(open_image(encode(Image.fromarray(values), kind))) == (values >> 8)[..., None]).all()


def test_numbers_of_unknown_range_are_refused() -> None:
    for value in (-1, 65536):
        with pytest.raises(ImageError, match="16 bits"):
            open_image(Image.new("I", (2, 2), value))
    with pytest.raises(ImageError, match="floats"):
        open_image(encode(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_cmyk_jpeg() -> None:
    """Adobe stores the four inverted."""
    data = encode(Image.new("RGB", (32, 32), (200, 60, 40)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(pixels(open_image(data)) - (200, 60, 40)).max() < 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_of_several_frames(kind: str) -> None:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    image = open_image(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert image.mode == "RGB" and np.abs(pixels(image) - (250, 0, 0)).max() < 8


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    array = pixels(soft_image(30, 40)).astype(np.uint8)
    path = tmp_path / "Überraschung 写真 1.png"
    Image.fromarray(array).save(path)
    data = path.read_bytes()
    expected = preprocess(array, BASE)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with open(path, "rb") as file, Image.open(path) as image:
        sources: list[Any] = [path, str(path), data, bytearray(data), file, Pipe(data), image]
        sources += [np.dstack([array, np.full_like(array[..., 0], 255)]), np.asfortranarray(array), array[::-1][::-1]]
        for source in sources:
            np.testing.assert_array_equal(preprocess(source, BASE), expected)


def test_grey_arrays() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for array in (grey, grey[..., None]):
        assert (pixels(open_image(array)) == grey[..., None]).all()


# What is refused


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), bool),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_arrays_that_are_no_image(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"camera: .*\["):
        open_image(array, name="camera")


def test_paths_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in ((tmp_path / "none.jpg", "No such file"), (tmp_path, "directory"), ("a\0b", "null")):
        with pytest.raises(ImageError, match=reason):
            open_image(path)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    secret.chmod(0)
    if not os.access(secret, os.R_OK):  # root reads everything
        with pytest.raises(ImageError, match="secret.jpg.*Permission"):
            open_image(secret)


def png_header(width: int, height: int) -> bytes:
    """A grey PNG that ends where its pixels begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I4s", zlib.crc32(header), b"\0\0\1\0")
        + b"IDAT"
    )


@pytest.mark.parametrize(
    "content,reason",
    [
        (b"", "empty"),
        (b"a letter to somebody\n" * 20, "not an image"),
        (b"\0" * 500, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript.*not read"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + b"\0" * 400, "damaged|AVIF.*convert it to JPEG"),
        (b"\xff\xd8\xff\xe0", "truncated"),
        (png_header(20000, 10000), "20000 x 10000 pixels are more than the 89478485"),
        (png_header(0, 10), "damaged|no pixels"),
        (png_header(10, 10), "truncated"),
    ],
    ids=["empty", "text", "zeros", "eps", "avif", "start", "bomb", "flat", "header"],
)
def test_files_that_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "some image.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="some image.jpg: .*(" + reason + ")"):
        open_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM"])
def test_truncated_anywhere(kind: str) -> None:
    data = encode(soft_image(60, 80), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(ImageError, match=f"{kind}: .*(truncated|damaged)"):
            open_image(data[: int(len(data) * share)], name=kind)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_of_any_kind_is_an_image_error() -> None:
    rng = random.Random(0)
    image = soft_image(20, 30)
    for data in (encode(image, k) for k in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "TIFF")):
        for _ in range(60):
            damaged = bytearray(data[: rng.randrange(8, len(data) + 1)])
            for _ in range(rng.choice((1, 4))):
                damaged[rng.randrange(min(len(damaged), 300))] = rng.randrange(256)
            with contextlib.suppress(ImageError):
                assert open_image(bytes(damaged), decoding=Decoding(max_pixels=1_000_000)).mode == "RGB"


def test_size_limit() -> None:
    image = soft_image(10, 20)
    for source in (image, np.asarray(image), encode(image, "PNG")):
        assert open_image(source, decoding=Decoding(max_pixels=200)).size == (20, 10)
        with pytest.raises(ImageError, match="20 x 10 pixels are more than the 199"):
            open_image(source, decoding=Decoding(max_pixels=199))
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))


def test_limit_is_ours_and_pillow_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below our limit Pillow neither warns nor refuses, and no global of its is what keeps it from that."""
    large, small = encode(soft_image(30, 40), "PNG"), encode(soft_image(9, 12), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)  # 1200 pixels are an error, 250 a warning
    before = (list(warnings.filters), ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(large).size == (40, 30)
        assert open_image(small).size == (12, 9)
    assert (list(warnings.filters), ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK) == before
    assert Image.MAX_IMAGE_PIXELS == 150


def test_interrupt_gets_through() -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_image(Interrupted(b"x"))


def test_sources_that_are_none() -> None:
    for source, reason in ((None, "NoneType"), (7, "int"), (io.StringIO("x"), "binary mode")):
        with pytest.raises(ImageError, match=reason):
            open_image(source)  # type: ignore[arg-type]


def test_image_of_the_square() -> None:
    assert resize_crop(soft_image(50, 70), BASE).size == (224, 224)


def test_import_brings_only_pillow_and_numpy() -> None:
    program = (
        "import sys, runtime.images.preprocess\n"
        "heavy = {'torch', 'onnx', 'PIL.ImageOps', 'PIL.ImageCms', 'PIL.TiffImagePlugin'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
