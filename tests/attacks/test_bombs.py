"""Images made to fill the memory or to take for ever, and things that are no images at all: refused at small cost."""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from runtime.artifacts.artifact import Artifact
from runtime.images.decode import Decoding, ImageError, open_image
from runtime.images.find import find_images
from tests.warm import command

SIDE = 30_000  # 900 megapixels, 2.7 GB decoded


def png() -> bytes:
    """Zeros, deflated a thousandfold; the first 60 MB of them really there."""
    rows = zlib.compress(bytes(60_000_000), 1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_text() -> bytes:
    """A small image with 512 MB of compressed comment in eight chunks."""
    from PIL.PngImagePlugin import PngInfo

    texts, file = PngInfo(), io.BytesIO()
    packed = zlib.compress(bytes(1 << 26), 1)
    for i in range(8):
        texts.add(b"zTXt", b"Comment%d\0\0" % i + packed)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def gif() -> bytes:
    """A screen of 4 gigapixels in 40 bytes."""
    screen = struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + frame + b"\x3b"


def tiff() -> bytes:
    """One strip of 900 megapixels, deflated; the first 32 MB of it really there."""
    packed = zlib.compress(bytes(1 << 25), 1)
    entries = [
        (256, 4, 1, SIDE),
        (257, 4, 1, SIDE),
        (258, 3, 1, 1),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 0),
        (277, 3, 1, 1),
        (278, 4, 1, SIDE),
        (279, 4, 1, len(packed)),
    ]
    offset = 8 + 2 + 12 * len(entries) + 4
    fields = b"".join(struct.pack("<HHII", *(entry if entry[0] != 273 else (*entry[:3], offset))) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4) + packed


def webp() -> bytes:
    """A lossless header of 16,383 x 16,383 with nothing behind it."""
    bits = (16382 | 16382 << 14).to_bytes(4, "little")
    body = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + bits + b"\0"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg() -> bytes:
    """65,500 pixels square in a header, and a scan that ends at once."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", 65500, 65500) + content[at + 4 :]


def progressive_jpeg() -> bytes:
    """Seconds of decoding in a small file: the same scan over and over (CVE-2018-11212's relatives)."""
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * 3000 + b"\xff\xd9"


def bmp() -> bytes:
    """Run-length encoded: 16 gigapixels of background in a header."""
    head = struct.pack("<IiiHHIIiiII", 40, 1 << 17, 1 << 17, 1, 8, 1, 2, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + 2, 0, 0, 14 + 40 + 1024) + head + bytes(1024) + b"\0\1"


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": png,
    "png-text": png_text,
    "gif": gif,
    "tiff": tiff,
    "webp": webp,
    "jpeg": jpeg,
    "progressive-jpeg": progressive_jpeg,
    "bmp": bmp,
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    for name, make in BOMBS.items():
        (folder / f"{name}.{name.split('-')[0] if name != 'progressive-jpeg' else 'jpeg'}").write_bytes(make())
    return folder


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_refused_at_small_cost(name: str, exact: bool, bombs: Path) -> None:
    (path,) = (path for path in bombs.iterdir() if path.stem == name)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if name == "png-text":  # the image itself is fine: it may come out, but the comment must not be unpacked
        try:
            open_image(path, decoding=Decoding(exact=exact))
        except ImageError as error:
            assert path.name in str(error)
    else:
        with pytest.raises(ImageError, match=path.name):
            open_image(path, decoding=Decoding(exact=exact, max_seconds=1.0), at_least=256)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 400 << 20  # what images of the accepted size may take
    assert time.process_time() - began < 20  # processor time, so that a busy machine doesn't count


def test_all_of_them_on_the_command_line(artifact: Artifact, bombs: Path) -> None:
    arguments = ("--model", artifact.path, "--backend", "onnxruntime", "--max-seconds", "2")
    ended = command("runtime.infer", bombs, "tests/data/corgi.jpg", *arguments)
    assert ended.status == 1 and "Traceback" not in ended.text and "Warning" not in ended.text, ended.text
    assert len(BOMBS) - 1 <= ended.text.count("error: ") <= len(BOMBS)
    assert "corgi.jpg" in ended.text  # the others come out


def test_programs_are_no_pictures(canary: Path, inside: Path) -> None:
    """Formats that Pillow hands to other programs, or that name other files."""
    target = os.fsencode(canary / "canary")
    attacks = {
        "ghost.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
        b"(%pipe%echo changed > " + target + b") (w) file closefile\n",
        "vector.svg": b'<svg xmlns:x="http://www.w3.org/1999/xlink"><image x:href="file://' + target + b'"/></svg>',
        "magick.jpg": b"push graphic-context\nimage over 0,0 0,0 'ephemeral:" + target + b"'\n",
        "page.pdf.jpg": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/Launch/F(rm " + target + b")>>>>endobj",
        "movie.fli": bytes([9, 0, 0, 0, 0x11, 0xAF]) + bytes(200),
        "list.gbr": struct.pack(">IIIIII", 28, 2, 9, 9, 4, 0) + bytes(99),
    }
    for name, content in attacks.items():
        (inside / name).write_bytes(content)
        with pytest.raises(ImageError, match=name):
            open_image(inside / name)


def test_a_pipe_and_a_device_among_the_pictures_are_not_waited_for(inside: Path) -> None:
    os.mkfifo(inside / "pipe.jpg")
    (inside / "zero.png").symlink_to("/dev/zero")
    (inside / "itself.gif").symlink_to("itself.gif")
    (inside / "nowhere.bmp").symlink_to("nowhere")
    (inside / "up").symlink_to("..")  # a folder that holds itself
    Image.new("RGB", (8, 8)).save(inside / "good.png")
    names = [os.path.basename(name) for name, _ in find_images([str(inside)])]
    assert names == ["good.png", "itself.gif", "nowhere.bmp"]
    for name in ("itself.gif", "nowhere.bmp"):
        with pytest.raises(ImageError, match="cannot be opened"):
            open_image(inside / name)
