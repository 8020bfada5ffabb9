"""Small odd but real kinds of images, and the right pixels of each."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.images.decode import ImageError, open_image

ROOT = Path(__file__).resolve().parents[3]
RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))  # black to white, [64, 256]
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 128)], -1)
MIDDLE = 0x80


def tiff(samples: bytes, bits: int, photometric: int, order: str = "<", **extra: int) -> bytes:
    """A file of one uncompressed strip of 256 x 64; extra: MOST=4095 for MaxSampleValue."""
    tags = {256: 256, 257: 64, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 64, 279: len(samples)}
    tags.update({281: extra["MOST"]} if extra else {})
    entries = b"".join(
        struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", tags[tag]) for tag in sorted(tags)
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(samples))
    return head + samples + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def packed_12_bits(values: np.ndarray) -> bytes:
    one, other = values.ravel()[0::2].astype(int), values.ravel()[1::2].astype(int)
    return np.stack([one >> 4, (one & 15) << 4 | other >> 8, other & 255], -1).astype(np.uint8).tobytes()


def encode(array: np.ndarray, kind: str, mode: str = "", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data, "it")).astype(int)


TWELVE = RAMP.astype(np.uint16) << 4 | RAMP >> 4  # 0..4095
SIXTEEN = RAMP.astype(np.uint16) * 257


@pytest.mark.parametrize(
    "data",
    [
        tiff(packed_12_bits(TWELVE), 12, 1),
        tiff(TWELVE.astype("<u2").tobytes(), 16, 1),
        tiff(TWELVE.astype(">u2").tobytes(), 16, 1, ">"),
        tiff((4095 - TWELVE).astype("<u2").tobytes(), 16, 0),
        tiff(TWELVE.astype("<u2").tobytes(), 16, 1, MOST=4095),
        tiff((SIXTEEN >> 2).astype("<u2").tobytes(), 16, 1, MOST=16383),
        tiff((TWELVE >> 2).astype("<u2").tobytes(), 16, 1),
        tiff(RAMP.astype("<u2").tobytes(), 16, 1),
        tiff(SIXTEEN.astype("<u2").tobytes(), 16, 1),
        tiff(SIXTEEN.astype(">u2").tobytes(), 16, 1, ">"),
        tiff((65535 - SIXTEEN).astype("<u2").tobytes(), 16, 0),
        tiff((255 - RAMP).tobytes(), 8, 0),
        tiff(SIXTEEN.astype("<u4").tobytes(), 32, 1),
        encode(TWELVE, "PNG"),
        encode(SIXTEEN, "PNG"),
        b"P5 256 64 4095\n" + TWELVE.astype(">u2").tobytes(),
        b"P5 256 64 65535\n" + SIXTEEN.astype(">u2").tobytes(),
    ],
    ids=str.split(
        "12 12in16 12in16big 12in16white 12in16stated 14in16stated 10in16 8in16 16 16big 16white 8white 32 png12 png16 pgm12 "
        "pgm16"
    ),
)
def test_grey_of_any_depth_is_black_to_white(data: bytes) -> None:
    assert np.abs(pixels(data) - RAMP[..., None]).max() <= 1


def test_a_dark_image_of_16_bits_stays_dark() -> None:
    """A quarter of full scale is no 14 bits, and where the file states the depth nothing is guessed."""
    assert np.abs(pixels(tiff((SIXTEEN // 4).astype("<u2").tobytes(), 16, 1)) - RAMP[..., None] // 4).max() <= 1
    stated = pixels(tiff((SIXTEEN // 16).astype("<u2").tobytes(), 16, 1, MOST=65535))
    assert np.abs(stated - RAMP[..., None] // 16).max() <= 1


def colours_in_16_bits(values: np.ndarray, kind: str) -> bytes:
    """uint16 [64, 256, 3] as a PNG, or an uncompressed TIFF of either byte order: Pillow writes neither."""
    if kind == "PNG":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        chunks = (
            (b"IHDR", struct.pack(">IIBBBBB", 256, 64, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
        parts = [
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    samples = values.astype(kind + "u2").tobytes()
    tags = {256: 256, 257: 64, 259: 1, 262: 2, 273: 8, 277: 3, 278: 64, 279: len(samples)}
    entries = [struct.pack(kind + "HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.insert(2, struct.pack(kind + "HHII", 258, 3, 3, 8 + len(samples) + 2 + 12 * 9 + 4))
    head = (b"II*\0" if kind == "<" else b"MM\0*") + struct.pack(kind + "I", 8 + len(samples))
    return (
        head
        + samples
        + struct.pack(kind + "H", 9)
        + b"".join(entries)
        + bytes(4)
        + struct.pack(kind + "3H", 16, 16, 16)
    )


@pytest.mark.parametrize("kind", ["PNG", "<", ">"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colours_of_10_12_and_16_bits_in_16(kind: str, bits: int) -> None:
    values = (COLOURS.astype(np.uint16) * 257) >> (16 - bits)
    assert np.abs(pixels(colours_in_16_bits(values, kind)) - COLOURS).max() <= 1


@pytest.mark.parametrize("order", "<>")
def test_planes_of_16_bits(order: str) -> None:
    """Pillow takes them for planes of 8 bits, which is noise."""
    planes = [
        (COLOURS[..., i].astype(order + "u2") * np.array(257, order + "u2")).astype(order + "u2").tobytes()
        for i in range(3)
    ]
    starts, size, behind = [8, 8 + len(planes[0]), 8 + 2 * len(planes[0])], len(planes[0]), 8 + 3 * len(planes[0])
    tags = {
        256: [256],
        257: [64],
        258: [16] * 3,
        259: [1],
        262: [2],
        273: starts,
        277: [3],
        278: [64],
        279: [size] * 3,
        284: [2],
    }
    entries, more, end = b"", b"", behind + 2 + 12 * len(tags) + 4
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        where = packed if len(values) == 1 else struct.pack(order + "I", end + len(more))
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + where
        more += packed if len(values) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", behind)
    data = head + b"".join(planes) + struct.pack(order + "H", len(tags)) + entries + bytes(4) + more
    np.testing.assert_array_equal(pixels(data), COLOURS)


def test_a_fourth_byte_that_is_not_said_to_be_alpha() -> None:
    """Unused, it is 0 in every pixel, and the image was white."""
    four = np.dstack([COLOURS, np.zeros_like(RAMP)])
    fields = struct.pack("<IiiHHIIiiII", 108, 256, -64, 1, 32, 3, 0, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    bmp = b"BM" + struct.pack("<IHHI", 122 + four.size, 0, 0, 122) + fields + masks + four[..., [2, 1, 0, 3]].tobytes()
    np.testing.assert_array_equal(pixels(bmp), COLOURS)
    whole = io.BytesIO()
    Image.fromarray(four).save(whole, "TIFF")
    stated = whole.getvalue()
    assert pixels(stated).min() == 255  # it says that it is alpha
    tag = struct.pack("<HH", 338, 3)
    assert stated.count(tag) == 1
    unstated = stated.replace(tag, struct.pack("<HH", 65000, 3))
    np.testing.assert_array_equal(pixels(unstated), COLOURS)


def test_the_transparent_colour_is_compared_in_all_its_bits() -> None:
    values = (COLOURS.astype(np.uint16) * 257).astype(np.uint16)
    plain = colours_in_16_bits(values, "PNG")
    for key, transparent in (((0, 65535, 128 * 257), True), ((1, 65535, 128 * 257), False)):
        chunk = b"tRNS" + struct.pack(">HHH", *key)
        data = plain[:33] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[33:]
        assert (pixels(data)[:, 0] == 255).all() == transparent
        np.testing.assert_array_equal(pixels(data)[:, 1:], COLOURS[:, 1:])
    grey = (RAMP >> 4)[:, ::16]  # of 4 bits: 0 to 15
    rows = b"".join(b"\0" + (row[0::2] << 4 | row[1::2]).astype(np.uint8).tobytes() for row in grey)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 16, 64, 4, 0, 0, 0, 0)),
        (b"tRNS", b"\0\3"),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(each)) + name + each + struct.pack(">I", zlib.crc32(name + each)) for name, each in chunks
    )
    assert pixels(data)[0, :, 0].tolist() == [255 if value == 3 else 17 * value for value in range(16)]


def without(jpeg: bytes, marker: int) -> bytes:
    """The JPEG less its segments of that kind."""
    kept, at = bytearray(jpeg[:2]), 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        kept += b"" if jpeg[at + 1] == marker else jpeg[at:end]
        at = end
    return bytes(kept) + jpeg[at:]


JPEG = encode(COLOURS, "JPEG", quality=95)


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:-2],
        b"\r\n" + JPEG,
        b"\xef\xbb\xbf" + encode(COLOURS, "PNG"),
        without(JPEG, 0xE0),
        encode(COLOURS, "JPEG", "CMYK", quality=95),
        encode(COLOURS, "TIFF", "CMYK"),
        encode(COLOURS, "TIFF", compression="jpeg", quality=95),
    ],
    ids=["no end", "newline first", "BOM first", "no JFIF", "CMYK", "CMYK TIFF", "JPEG in TIFF"],
)
def test_colours_are_those_that_were_saved(data: bytes) -> None:
    assert np.abs(pixels(data) - COLOURS).mean() < 2


@pytest.mark.parametrize("missing", [20, 200])
def test_a_jpeg_that_lacks_more_than_its_end_is_truncated(missing: int) -> None:
    with pytest.raises(ImageError, match="it: the file is truncated"):
        open_image(JPEG[:-missing], "it")


def rgba(alpha: int) -> np.ndarray:
    return np.dstack([COLOURS, np.full_like(RAMP, alpha)])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_white(kind: str) -> None:
    """Whatever colour is hidden below."""
    options: Any = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert (pixels(encode(rgba(0), kind, **options)) == 255).all()
    half = pixels(encode(rgba(MIDDLE), kind, **options))
    assert np.abs(half - (COLOURS * 128.0 + 255 * 127.0) / 255).max() <= 1
    np.testing.assert_array_equal(pixels(encode(rgba(255), kind, **options)), COLOURS)


def test_transparency_in_other_forms_is_white_too() -> None:
    grey_alpha = np.dstack([RAMP, np.where(RAMP < 128, 0, 255).astype(np.uint8)])
    expected = np.where(RAMP < 128, 255, RAMP)[..., None]
    assert (pixels(encode(grey_alpha, "PNG")) == expected).all()
    assert (np.asarray(open_image(rgba(0))) == 255).all()  # an array
    assert (np.asarray(open_image(Image.fromarray(rgba(0)))) == 255).all()
    assert (np.asarray(open_image(Image.fromarray(rgba(255)).convert("RGBa"))) == COLOURS).all()
    for array, key in ((RAMP, 7), (COLOURS, (7, 248, 128)), (SIXTEEN, 7 * 257)):
        found = pixels(encode(array, "PNG", transparency=key))
        assert (found[:, 7] == 255).all() and abs(int(found[0, 8, 0]) - 8) <= 1


def test_indexed_colours_with_and_without_transparency() -> None:
    image = Image.fromarray(COLOURS).quantize(64)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        stream = io.BytesIO()
        image.save(stream, kind)
        np.testing.assert_array_equal(pixels(stream.getvalue()), np.asarray(image.convert("RGB")))
    at = image.getpixel((100, 30))
    for kind in ("PNG", "GIF"):
        stream = io.BytesIO()
        image.save(stream, kind, transparency=at)
        assert (pixels(stream.getvalue())[30, 100] == 255).all()


def higher(data: bytes, rows: int) -> bytes:
    """The TIFF with `rows` claimed, in one strip."""
    changed = bytearray(data)
    (at,) = struct.unpack("<I", data[4:8])
    for entry in range(at + 2, at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0], 12):
        tag, kind = struct.unpack("<HH", data[entry : entry + 4])
        if tag in (257, 278):
            changed[entry + 8 : entry + 12] = struct.pack("<HH", rows, 0) if kind == 3 else struct.pack("<I", rows)
    return bytes(changed)


@pytest.mark.parametrize(
    "compression", ["group3", "group4", "jpeg", "tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"]
)
def test_rows_that_are_missing_from_a_tiff_show_no_memory(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Pillow before 13 shows there what lay in memory. Refused, or, where libtiff fills the rows, the same each time."""
    try:
        data = encode(
            np.zeros((16, 512), bool if "group" in compression else np.uint8), "TIFF", compression=compression
        )
    except (OSError, RuntimeError) as error:
        pytest.skip(f"this Pillow can't write it: {error}")
    assert not np.asarray(open_image(data)).any()
    answers = set()
    for value in (0, 90, 255):
        junk = [np.full(size, value, np.uint8) for size in (60_000, 520_000, 3_000_000) for _ in range(8)]
        del junk
        try:
            answers.add(np.asarray(open_image(higher(data, 1024), "it")).tobytes())
        except ImageError as error:
            assert "it: the file is " in str(error)
            answers.add(b"refused")
    assert len(answers) == 1
    assert capfd.readouterr().err == ""  # nothing of libtiff's


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_rows_that_end_within_a_byte_are_whole(compression: str) -> None:
    """Faxes have any width; what fills up the last byte of a row is no row that is missing."""
    fax = RAMP[:, :251] > 127
    data = encode(fax, "TIFF", compression=compression)
    np.testing.assert_array_equal(pixels(data)[..., 0], fax * 255)
    if compression != "tiff_ccitt":  # which reports it
        with pytest.raises(ImageError, match="rows are missing|damaged"):
            pixels(higher(data, 1024))


def test_signed_16_bits_are_15() -> None:
    samples = (SIXTEEN >> 1).astype("<i2").tobytes()
    data = tiff(samples, 16, 1).replace(struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 339, 4, 1, 2))
    assert np.abs(pixels(data) - RAMP[..., None]).max() <= 1


def test_pages_of_a_tiff_and_the_first_is_taken() -> None:
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))])
    assert (pixels(stream.getvalue()) == RAMP[..., None]).all()


def bmp(bits: int, masks: tuple[int, ...], values: np.ndarray) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 108, 256, -64, 1, bits, 3, values.nbytes, 0, 0, 0, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 122 + values.nbytes, 0, 0, 122)
        + head
        + struct.pack("<4I", *masks)
        + bytes(52)
        + values.tobytes()
    )


def test_a_bmp_with_masks_of_any_kind() -> None:
    four, ten = (RAMP >> 4).astype(np.uint16), RAMP.astype(np.uint32) << 2 | RAMP >> 6
    found = pixels(bmp(16, (0xF00, 0xF0, 0xF, 0xF000), (0xF000 | four << 8 | four << 4 | four).astype("<u2")))
    assert np.abs(found - (RAMP >> 4)[..., None] * 17).max() == 0
    deep = ten << 20 | (1023 - ten) << 10 | ten
    found = pixels(bmp(32, (1023 << 20, 1023 << 10, 1023, 0), deep.astype("<u4")))
    assert np.abs(found - np.stack([RAMP, 255 - RAMP.astype(int), RAMP], -1)).max() <= 1
    assert (pixels(bmp(16, (0xF00, 0xF0, 0xF, 0xF000), (four << 8).astype("<u2"))) == 255).all()  # transparent
    with pytest.raises(ImageError, match="it: the file is truncated"):
        open_image(bmp(16, (0xF00, 0xF0, 0xF, 0xF000), np.zeros((64, 256), "<u2"))[:-9], "it")


UNREAD = {
    "12-bit JPEG": JPEG.replace(JPEG[JPEG.index(b"\xff\xc0") :][:5], JPEG[JPEG.index(b"\xff\xc0") :][:4] + b"\x0c"),
    "BMP of 48 bits": bmp(48, (0xF00, 0xF0, 0xF, 0xF000), np.zeros((64, 256), "<u2")),
    "TIFF of 64-bit floats": tiff(np.zeros((64, 256)).tobytes(), 64, 1),
    "TIFF compressed with JPEG 2000": tiff(b"", 8, 1).replace(
        struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 4, 1, 34712)
    ),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_good_files_of_an_unread_kind_are_not_called_damaged(kind: str) -> None:
    with pytest.raises(ImageError, match="^it: .*not read.*: convert it to JPEG") as told:
        open_image(UNREAD[kind], "it")
    assert "damaged" not in str(told.value) and "truncated" not in str(told.value)


def exif(*entries: tuple[int, int, int, int]) -> bytes:
    """A good JPEG with these entries (tag, kind, count, value) in its EXIF."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    payload = b"Exif\0\0II*\0\x08\0\0\0" + body
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + JPEG[2:]


BROKEN_EXIF = {
    "no end": exif((0x010F, 2, 4718592, 5000), (0x8769, 4, 1, 60000)),
    "a turn that does not exist": exif((0x0112, 3, 1, 99)),
    "a turn of the wrong type": exif((0x0112, 2, 4, 0x41414141)),
    "more entries than there are": exif((0x0112, 3, 1, 1)).replace(b"\x08\0\0\0\x01\0", b"\x08\0\0\0\xff\xff"),
}


@pytest.mark.parametrize("kind", BROKEN_EXIF)
def test_a_good_image_with_broken_exif_is_itself(kind: str) -> None:
    assert np.abs(pixels(BROKEN_EXIF[kind]) - COLOURS).mean() < 2


@pytest.mark.parametrize("kind", [3, 4])
def test_the_turn_is_read_as_short_or_long(kind: int) -> None:
    found = pixels(exif((0x0112, kind, 1, 6)))
    assert found.shape == (256, 64, 3) and np.abs(found - np.rot90(COLOURS, -1)).mean() < 2


def test_commands_show_no_warnings_of_pillow(tmp_path: Path) -> None:
    (tmp_path / "it.jpg").write_bytes(BROKEN_EXIF["no end"])
    code = "from runtime.command import run\nfrom runtime.images.decode import open_image\n"
    code += f"run(lambda: open_image({str(tmp_path / 'it.jpg')!r}) and 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    many = tiff(b"", 8, 2).replace(struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 277, 4, 1, 65535))
    (tmp_path / "it.jpg").write_bytes(many)  # of which Pillow's log says something too
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, timeout=300)
    assert done.returncode and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_heic_of_a_phone() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(COLOURS)).save(stream, quality=95)
    found = pixels(stream.getvalue())
    assert found.shape == COLOURS.shape and np.abs(found - COLOURS).mean() < 6
    assert open_image(stream.getvalue(), at_least=8).size == (256, 64)  # not the thumbnail


def test_heic_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(ImageError, match="it: an image in HEIC format: .* -m pip install pillow-heif"):
        open_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "it")


FORMS = ["PNG P", "PNG 1", "PNG LA", "JPEG CMYK", "JPEG L", "WEBP RGB", "TIFF L", "TIFF RGB", "GIF L", "BMP RGB"]


def test_two_hundred_files_are_as_pillow_decodes_them() -> None:
    """All images that installed packages bring, and those of scikit-image once more in other formats and modes."""
    skimage = Path(pytest.importorskip("skimage").__file__).parent
    packages = [
        skimage,
        *(skimage.parent / name for name in ("imageio", "matplotlib", "networkx", "scipy", "sklearn", "PIL")),
    ]
    suffixes = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp", ".ppm", ".pgm")
    files = [path for folder in packages for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes]
    contents = [path.read_bytes() for path in files]
    for path in files:
        if skimage in path.parents and path.suffix in (".png", ".jpg"):
            with Image.open(path) as opened:
                small = np.asarray(opened.convert("RGB").resize((97, 61)))
            contents += [encode(small, *form.split()) for form in FORMS]
    assert len(contents) >= 200
    for content in contents:
        try:
            with Image.open(io.BytesIO(content)) as opened:
                opened.load()
                whole = None if opened.mode in ("I", "I;16", "I;16B", "F") else opened.convert("RGBA")
        except OSError:
            whole = None
        if whole is not None:  # Pillow reads it, and does not cut off at 255
            expected = Image.new("RGBA", whole.size, "white")
            expected.paste(whole, mask=whole)
            np.testing.assert_array_equal(pixels(content), np.asarray(expected.convert("RGB")))
