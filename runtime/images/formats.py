"""The image formats that are read, told by their first bytes, and the file as Pillow's readers see it.

Pillow itself tries some fifty readers on an unknown file. These few are what cameras and people's folders hold; all
are self-contained, and none runs another program, as Pillow's reader of EPS does.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from typing import IO, NamedTuple

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

# What is put behind a JPEG that lacks its end: the marker alone, and coded pixels before it
JPEG_ENDS = (b"\xff\xd9", bytes(range(1, 255)) + b"\xff\xd9")
HEAD = 64  # bytes that tell a format
# A JPEG of one scan goes to libjpeg in pieces of this size, most images in one: 5 % quicker than in Pillow's 64 KiB.
_PIECE = 8 << 20
_SCAN = b"\xff\xda"  # marker of its start, which coded pixels can't contain


class Format(NamedTuple):
    """A row of the table of what is read."""

    name: str
    head: bytes  # pattern that its first bytes match
    plugin: str  # Pillow's module
    reader: str  # class in it
    package: str = ""  # to be installed for it


FORMATS = (
    Format("JPEG", rb"\xff\xd8\xff", __name__, "PlainJpeg"),
    Format("PNG", rb"\x89PNG\r\n\x1a\n", "PIL.PngImagePlugin", "PngImageFile"),
    Format("WebP", rb"RIFF....WEBPVP8[ LX]", "PIL.WebPImagePlugin", "WebPImageFile"),
    # A brand of AV1 Image File Format, as the major one or after mif1 (images) or msf1 (sequences)
    Format("AVIF", rb"....ftyp(avi[fs]|(mif1|msf1)....(....)*?avi[fs])", "PIL.AvifImagePlugin", "AvifImageFile"),
    # A brand of High Efficiency Image File Format, ISO/IEC 23008-12
    Format(
        "HEIC", rb"....ftyp(he[iv][cxms]|heim|hevm|mif1|msf1)", "pillow_heif.as_plugin", "HeifImageFile", "pillow-heif"
    ),
    Format("TIFF", rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0", "PIL.TiffImagePlugin", "TiffImageFile"),  # + is BigTIFF
    Format("GIF", rb"GIF8[79]a", "PIL.GifImagePlugin", "GifImageFile"),
    Format("BMP", rb"BM", "PIL.BmpImagePlugin", "BmpImageFile"),
    Format("PPM", rb"P[1-6]\s", "PIL.PpmImagePlugin", "PpmImageFile"),
)

# What people try besides, for a better sentence than "not an image".
_OTHERS = (
    ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("PDF", rb"%PDF"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("Photoshop", rb"8BPS"),
    ("Windows icon", rb"\0\0[\1\2]\0(?!\0\0)"),  # with images in it; a Targa file begins likewise
    ("SVG or XML", rb"\s*<(svg|\?xml)"),
    ("video", rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI "),
)


def format_of(head: bytes) -> Format | None:
    """The format of a file that begins with these `HEAD` bytes, if it is one that is read."""
    return next((row for row in FORMATS if re.match(row.head, head, re.DOTALL)), None)


def before_signature(head: bytes) -> int:
    """Bytes of white space, or of a byte order mark, before an image, as scripts for the web leave them: mostly 0."""
    start = re.match(rb"(\xef\xbb\xbf)?[ \t\r\n]{0,16}", head).end()  # type: ignore[union-attr]
    return 0 if format_of(head) is not None or format_of(head[start:]) is None else start


def other_format(head: bytes) -> str | None:
    """The name of a format that is not read."""
    return next((name for name, pattern in _OTHERS if re.match(pattern, head, re.DOTALL)), None)


def supported(row: Format) -> bool:
    """Whether this Pillow was built with what the format needs."""
    try:
        module = importlib.import_module(row.plugin)
    except ImportError:
        return False
    return bool(getattr(module, "SUPPORTED", True))


def open_header(row: Format, file: ClockedFile) -> ImageFile:
    """The image, of which only the header is read so far: what Image.open does, less its check of the size, which
    warns through the process's one warning filter and can't be raised without changing a global."""
    file.seek(0)
    reader = getattr(importlib.import_module(row.plugin), row.reader)
    return reader(file, "")


class OverdueError(Exception):
    """The image takes too long."""


class ClockedFile:
    """A binary file that raises OverdueError when it is read after `deadline` (time.monotonic).

    A decoder written in C can't be stopped, but most of Pillow's get the file in pieces.
    """

    def __init__(self, file: IO[bytes], deadline: float) -> None:
        self.file, self.deadline = file, deadline
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if time.monotonic() > self.deadline:
            raise OverdueError
        return self.file.read(size)


class PlainJpeg(JpegImageFile):
    """A JPEG without its print resolution and without the further images of an MPO: Pillow looks for both in EXIF and
    MPF on opening, and damage there would fail a good image.

    Of several scans libjpeg gets one at a time, so that the clock is looked at between them: each is a pass over all
    pixels, and an empty one takes ten bytes (issue LJT-01-003 of libjpeg-turbo).
    """

    def _open(self) -> None:
        super()._open()
        assert self.fp is not None
        start = self.fp.tell() - 8 - 2 * self.layers  # Pillow stops behind the header of the first scan
        self.fp.seek(start)
        whole = _SCAN + bytes((0, 6 + 2 * self.layers, self.layers))  # a scan of all layers, after which libjpeg stops
        self.one_scan = "progressive" not in self.info and self.fp.read(5) == whole
        if self.one_scan:
            self.decodermaxblock = _PIECE

    def load_read(self, read_bytes: int) -> bytes:
        assert self.fp is not None
        piece = super().load_read(read_bytes)
        start = -1 if self.one_scan else piece.find(_SCAN, 1)
        if start > 0:
            self.fp.seek(start - len(piece), os.SEEK_CUR)
            piece = piece[:start]
        return piece

    def _read_dpi_from_exif(self) -> None:
        pass
