"""Files made to cost more than they should: bytes, pixels, time. Each is refused in a sentence that names it."""

from __future__ import annotations

import argparse
import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from PIL import Image

from runtime.command import add_decoding_options, decoding_of
from runtime.images.decode import DECODING, Decoding, ImageError, open_image


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# Bytes


def test_bytes(tmp_path: Path) -> None:
    data = encode(Image.new("RGB", (40, 30)), "BMP")
    path = tmp_path / "an image.bmp"
    path.write_bytes(data)
    sources: List[Callable[[], Any]] = [lambda: data, lambda: path, lambda: io.BytesIO(data), lambda: Pipe(data)]
    for source in sources:
        assert open_image(source(), decoding=Decoding(max_bytes=len(data))).size == (40, 30)
        with pytest.raises(ImageError, match=f"door: more bytes than the {len(data) - 1} that are accepted"):
            open_image(source(), name="door", decoding=Decoding(max_bytes=len(data) - 1))


class Pipe(io.RawIOBase):
    """Gives `content` in small pieces, and counts them."""

    def __init__(self, content: bytes) -> None:
        self.content, self.given = io.BytesIO(content), 0

    def read(self, size: int = -1) -> bytes:
        piece = self.content.read(min(1000, size) if size >= 0 else 1000)
        self.given += len(piece)
        return piece


def test_a_pipe_is_not_read_further_than_it_may() -> None:
    pipe: Any = Pipe(bytes(1 << 20))
    with pytest.raises(ImageError, match="more bytes"):
        open_image(pipe, decoding=Decoding(max_bytes=5000))
    assert pipe.given == 5001


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe(tmp_path: Path) -> None:
    path, data = tmp_path / "pipe", encode(Image.new("RGB", (400, 300)), "BMP")
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    assert open_image(path).size == (400, 300)
    writer.join()


# Pixels


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side: int, *chunks: bytes) -> bytes:
    """A black grey square."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_pixels(kind: str) -> None:
    data = encode(Image.new("RGB", (300, 200)), kind)
    assert open_image(data, decoding=Decoding(max_pixels=60_000)).size == (300, 200)
    with pytest.raises(ImageError, match="door: 300 x 200 pixels are more than the 59999 that are accepted"):
        open_image(data, name="door", decoding=Decoding(max_pixels=59_999), at_least=20)


def test_pillows_warning_is_an_error() -> None:
    assert DECODING.max_pixels == 1024**3 // 4 // 3  # PIL.Image.MAX_IMAGE_PIXELS, where it is not changed
    header = struct.pack("<IiiHHIIiiII", 40, 9460, 9460, 1, 24, 0, 0, 0, 0, 0, 0)
    with pytest.raises(ImageError, match="9460 x 9460 pixels are more"):
        open_image(b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + header)


# Time


def scans_of_nothing(progressive: bool) -> bytes:
    """A JPEG of 4 megapixels in 70 kB, with 6000 scans of one of its three layers: each is a pass over all of that."""
    data = encode(Image.new("RGB", (2000, 2000), (90, 0, 0)), "JPEG", progressive=progressive)
    scan = b"\xff\xda" + bytes((0, 8, 1, 1, 0, *((0, 0, 1) if progressive else (0, 63, 0))))
    return data[: data.index(b"\xff\xda")] + scan * 6000 + b"\xff\xd9"


def endless_comments() -> bytes:
    data = encode(Image.new("P", (8, 8)), "GIF")
    start = data.index(b",")
    return data[:start] + b"!\xfe\1a\0" * 1_000_000 + data[start:]


def run_of_one() -> bytes:
    """RLE8, of which Pillow's decoder is written in Python."""
    side = 4000
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + info + bytes(1024) + b"\1\0" * 3_000_000


SLOW: Dict[str, Callable[[], bytes]] = {
    "progressive.jpg": lambda: scans_of_nothing(True),
    "sequential.jpg": lambda: scans_of_nothing(False),
    "padding.jpg": lambda: b"\xff\xd8\xff" + b"\xff" * 10_000_000,
    "chunks.png": lambda: png(8, chunk(b"noNe", b"") * 1_000_000),
    "comments.gif": endless_comments,
    "runs.bmp": run_of_one,
    "numbers.ppm": lambda: b"P3\n4000 4000\n255\n" + b"1 " * 15_000_000,
}


@pytest.mark.parametrize("kind", sorted(SLOW))
def test_seconds(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.write_bytes(SLOW[kind]())
    with pytest.raises(ImageError, match=f"{kind}: decoding takes longer than the 0.1 s that are accepted"):
        open_image(path, decoding=Decoding(max_seconds=0.1))


# What is packed beside the pixels


def test_a_large_colour_profile_is_not_unpacked() -> None:
    pack = zlib.compressobj(9)
    profile = b"".join(pack.compress(bytes(1 << 20)) for _ in range(64)) + pack.flush()
    with pytest.raises(ImageError, match="damaged .*[Tt]oo [Ll]arge"):
        open_image(png(8, chunk(b"iCCP", b"x\0\0" + profile)))


def test_many_large_texts_are_not_unpacked() -> None:
    text = zlib.compress(bytes(1 << 20), 9)
    with pytest.raises(ImageError, match="damaged .*[Tt]oo ([Ll]arge|much)"):
        open_image(png(8, *(chunk(b"zTXt", b"%d\0\0" % i + text) for i in range(100))))


# Options


def test_options() -> None:
    parser = argparse.ArgumentParser()
    add_decoding_options(parser)
    assert decoding_of(parser.parse_args([])) == DECODING
    given = parser.parse_args(["--exact", "--max-bytes", "64M", "--max-pixels", "12M", "--max-seconds", "0.5"])
    assert decoding_of(given) == Decoding(True, 64 << 20, 12_000_000, 0.5)


@pytest.mark.parametrize(
    "option", ["--max-bytes=0", "--max-bytes=-1", "--max-pixels=lots", "--max-seconds=0", "--max-seconds=nan"]
)
def test_options_that_make_no_sense(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_decoding_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([option])
    assert f"argument {option.split('=')[0]}: '" in capsys.readouterr().err
