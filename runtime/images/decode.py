"""Decodes an image in any form to upright RGB pixels.

Nothing here changes a global of Pillow or of `warnings`, so any number of threads may call it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Iterator
from typing import IO, Any, Callable, NamedTuple, Optional, Tuple, Union

import numpy as np
from PIL import Image

from ..errors import ImageError, UserError
from ..invocation import install
from . import formats
from .deep_colour import combined, is_deep, key_factor, swap_bytes, without_key
from .pixels import BACKGROUND, from_array, to_eight_bits, to_rgb

Source = Union[str, "os.PathLike[str]", bytes, IO[bytes], Image.Image, np.ndarray]
Margins = Tuple[float, float, float, float]  # px at the left, top, right and bottom
Opened = Callable[[IO[bytes]], Tuple[Image.Image, Optional[Margins]]]

_ORIENTATION = 0x0112  # EXIF 2.3, 4.6.4 A: how the stored image must be turned to stand upright
# The turn, and from which sides it brings the left, top, right and bottom
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, (2, 1, 0, 3)),
    3: (Image.Transpose.ROTATE_180, (2, 3, 0, 1)),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, (0, 3, 2, 1)),
    5: (Image.Transpose.TRANSPOSE, (1, 0, 3, 2)),
    6: (Image.Transpose.ROTATE_270, (3, 0, 1, 2)),
    7: (Image.Transpose.TRANSVERSE, (3, 2, 1, 0)),
    8: (Image.Transpose.ROTATE_90, (1, 2, 3, 0)),
}

# What Pillow says of good files that it has no reader for.
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|can(not|'t) handle|unknown (pixel mode|data organization|raw mode)|not available|unrecogni[sz]ed",
    re.IGNORECASE,
)

# A JPEG is decoded at 1/8, 1/4 or 1/2 where that leaves this many times the pixels that are needed on each side: of 12
# megapixels, 1/4 leaves 2.95 times what B0 needs. docs/input.md has what less does to accuracy.
_ENOUGH = 2.5


class Decoding(NamedTuple):
    """How images are decoded, and the limits for one image."""

    exact: bool = False  # bit for bit torchvision's preprocessing, except for transparent pixels; slower
    max_bytes: int = 256 << 20  # of the encoded file
    max_pixels: int = 89_478_485  # where Pillow begins to warn of a bomb: 0.33 GiB as Pillow holds RGB
    max_seconds: float = 20.0  # from the first byte to the last of a file


DECODING = Decoding()


def open_image(
    source: Source, name: str | None = None, decoding: Decoding = DECODING, at_least: int | None = None
) -> Image.Image:
    """An upright, loaded image of mode RGB, from a path, an encoded file (bytes or a binary stream), a PIL image, or
    a uint8 array [H,W], [H,W,1], [H,W,3] or [H,W,4] in the order RGB(A).

    EXIF orientation is applied, to PIL images too. Transparent pixels show pixels.BACKGROUND, which is white. Grey with 12 or
    16 bits keeps its upper 8, as Pillow does for 16-bit colour. The first frame of an animation and the first of several
    pages is taken. Colour profiles are ignored. An RGB PIL image is returned itself, not copied. Errors call the image `name`.

    If only `at_least` px are needed on the shorter side, a JPEG may be decoded at a fraction of its size, unless
    `decoding.exact`; margins_of then tells which part of the result is the image.

    Raises ImageError: no such file, not readable, empty, more bytes or (known before decoding) pixels than `decoding`
    accepts or more seconds (docs/input.md says where that holds), not an image in one of formats.FORMATS, truncated,
    damaged, no pixels, float pixels, an array of another kind.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), name or "bytes", decoding, at_least)
    if isinstance(source, np.ndarray):
        name = name or "array"
        image = from_array(source, name)
        _check_size(image, name, decoding)
        return to_rgb(image, name)
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "")) or "image"
        _check_size(source, name, decoding)
        with _errors_named(name, decoding):
            return _upright_rgb(source, margins_of(source), name)
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fsdecode(source)
        try:
            with open(source, "rb") as file:
                return _decode(file, name, decoding, at_least)
        except OSError as error:
            raise ImageError(f"{name}: cannot be opened: {error.strerror}.") from error
        except ValueError as error:  # a NUL in the path
            raise ImageError(f"{name!r}: cannot be opened: {error}.") from error
    if hasattr(source, "read"):
        return _decode(source, name or str(getattr(source, "name", "stream")), decoding, at_least)
    raise ImageError(
        f"{name or 'image'}: no image can be made of type {type(source).__name__}: give a path, the bytes of an "
        "image file, a PIL image or a uint8 array."
    )


def margins_of(image: Image.Image) -> Margins | None:
    """Of an image that `open_image` decoded at a fraction of its size: what is not image at its sides, less than a px
    each, because a fraction of a size is seldom whole. None for every other image."""
    return getattr(image, "margins", None)


def _decode(file: IO[bytes], name: str, decoding: Decoding, at_least: int | None) -> Image.Image:
    with _errors_named(name, decoding):
        if isinstance(file, io.TextIOBase):
            raise ImageError(f"{name}: the stream gives text, not bytes: open it in binary mode.")
        file = _limited(file, name, decoding.max_bytes)
        head = file.read(formats.HEAD)
        if not head:
            raise ImageError(f"{name}: the file is empty.")
        before = formats.before_signature(head)
        if before:
            file.seek(before)
            file = io.BytesIO(file.read())
            head = head[before:]
        kind = _format(head, name)
        deadline = time.monotonic() + decoding.max_seconds

        def opened(file: IO[bytes]) -> tuple[Image.Image, Margins | None]:
            image = formats.open_header(kind, formats.ClockedFile(file, deadline))
            _check_size(image, name, decoding)
            return image, None if at_least is None or decoding.exact else _reduce(image, at_least)

        if kind.name == "TIFF":
            image, margins = _opened_tiff(opened, file, name)
        elif kind.name == "BMP":
            image, margins = _opened_bmp(opened, file, name, decoding)
        else:
            image, margins = opened(file)
        deep = kind.name in ("PNG", "TIFF") and is_deep(image)  # type: ignore[arg-type]
        factor = key_factor(image) if kind.name == "PNG" else 1  # type: ignore[arg-type]
        try:
            image.load()
        except OSError:
            if not isinstance(image, formats.PlainJpeg) or not image.one_scan:
                raise
            file.seek(0)
            content = file.read()
            # Perhaps nothing is missing but the marker at the end: then it does not matter what stands before that marker.
            image, other = (opened(io.BytesIO(content + tail))[0] for tail in formats.JPEG_ENDS)
            if image.tobytes() != other.tobytes():
                raise
        key = image.info.get("transparency")
        if isinstance(key, int):
            image.info["transparency"] = key * factor
        elif deep and isinstance(key, tuple):
            image = without_key(image, _loaded_lower(opened(file)[0]), BACKGROUND)
        if deep and 0 < max(most for _, most in image.getextrema()) < 16:  # type: ignore[misc]
            image = _lower_bits(image, opened(file)[0])
        return _upright_rgb(image, margins, name)


def _lower_bits(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """An RGB image of 16 bits a channel of which only the lower 12 are used; `upper` is what Pillow makes of it."""
    bright = Image.fromarray(to_eight_bits(combined(upper, _loaded_lower(lower))))
    bright.info = upper.info  # its EXIF
    return bright


def _loaded_lower(image: Image.Image) -> Image.Image:
    swap_bytes(image)  # type: ignore[arg-type]
    image.load()
    return image


def _opened_bmp(opened: Opened, file: IO[bytes], name: str, decoding: Decoding) -> tuple[Image.Image, Margins | None]:
    try:
        return opened(file)
    except OSError:
        from .bmp import by_masks

        file.seek(0)
        image = by_masks(file.read(), lambda width, height: _require_size(width, height, name, decoding))
        if image is None:
            raise
        return image, None


def _opened_tiff(opened: Opened, file: IO[bytes], name: str) -> tuple[Image.Image, Margins | None]:
    from . import tiff  # Pillow's reader of TIFF takes 20 ms to import

    def require_reader(compression: Any) -> None:
        method = tiff.unread_compression(compression)
        if method is not None:
            raise ImageError(f"{name}: a TIFF compressed with {method}, which is not read: convert it to JPEG.")

    try:
        image, margins = opened(file)
    except SyntaxError as error:  # what Pillow makes of the KeyError that an unknown compression is
        require_reader(error.__cause__.args[0] if isinstance(error.__cause__, KeyError) else None)
        raise
    require_reader(tiff.compression_of(image))
    tiff.set_planes_right(image, file)
    if tiff.is_cut_short(image, file):
        raise ImageError(f"{name}: the file is truncated (rows are missing): copy or download it again.")
    return image, margins


def _limited(file: IO[bytes], name: str, max_bytes: int) -> IO[bytes]:
    """`file`, or what a pipe gives, at its beginning. Never reads more than it may."""
    if hasattr(file, "seekable") and file.seekable():
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
    else:
        content = io.BytesIO()
        while content.tell() <= max_bytes:
            piece = file.read(min(1 << 20, max_bytes + 1 - content.tell()))
            if not piece:
                break
            content.write(piece)
        size = content.tell()
        content.seek(0)
        file = content
    if size > max_bytes:
        raise ImageError(f"{name}: more bytes than the {max_bytes} that are accepted: save it smaller first.")
    return file


def _format(head: bytes, name: str) -> formats.Format:
    found = formats.format_of(head)
    if found is None:
        other = formats.other_format(head)
        read = ", ".join(row.name for row in formats.FORMATS)
        if other is None:
            raise ImageError(f"{name}: not an image in a format that is read ({read}).")
        raise ImageError(f"{name}: a file in {other} format, which is not read: convert it to JPEG.")
    if not formats.supported(found):
        if found.package:
            raise ImageError(
                f"{name}: an image in {found.name} format: {install(found.package)} to have it read, or convert it to JPEG."
            )
        raise ImageError(f"{name}: an image in {found.name} format, which this Pillow cannot read: convert it to JPEG.")
    return found


def _reduce(image: Image.Image, at_least: int) -> Margins | None:
    """Has a much too large JPEG decoded at a fraction, by the DCT's lowest frequencies alone."""
    width, height = image.size
    scale = next((n for n in (8, 4, 2) if min(width, height) >= n * _ENOUGH * at_least), None)
    if scale is None or not isinstance(image, formats.PlainJpeg):  # a HEIC would give its thumbnail
        return None
    if image.draft(None, (width // scale, height // scale)) is None:
        return None
    return 0, 0, image.width - width / scale, image.height - height / scale  # draft rounds up


def _check_size(image: Image.Image, name: str, decoding: Decoding) -> None:
    _require_size(*image.size, name, decoding)


def _require_size(width: int, height: int, name: str, decoding: Decoding) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels ({width} x {height}).")
    if width * height > decoding.max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the {decoding.max_pixels} that are accepted: scale it down first."
        )


def _upright_rgb(image: Image.Image, margins: Margins | None, name: str) -> Image.Image:
    image.load()
    turn = None
    with contextlib.suppress(Exception):  # damaged EXIF in a good image: Pillow raises whatever that leads to
        # after load: a PNG may carry its EXIF behind the pixels, and a TIFF turns itself
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    image = to_rgb(image, name)
    if turn is not None:
        image = image.transpose(turn[0])
        image.info = {}  # or its EXIF would turn it again the next time
        margins = margins and (margins[turn[1][0]], margins[turn[1][1]], margins[turn[1][2]], margins[turn[1][3]])
    if margins is not None:
        image.margins = margins  # type: ignore[attr-defined]  # no info: copies, cuts and text chunks of a PNG get there
    return image


@contextlib.contextmanager
def _errors_named(name: str, decoding: Decoding) -> Iterator[None]:
    """Whatever Pillow raises on a damaged file (there is no end of kinds) becomes an ImageError."""
    try:
        yield
    except UserError:
        raise
    except formats.OverdueError as error:
        raise ImageError(
            f"{name}: decoding takes longer than the {decoding.max_seconds:g} s that are accepted."
        ) from error
    except Image.DecompressionBombError as error:  # a tile or frame larger than the image
        raise ImageError(f"{name}: absurdly large ({error}).") from error
    except MemoryError as error:
        raise ImageError(f"{name}: decoding it takes more memory than there is.") from error
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        if (
            isinstance(error, EOFError) or "truncated" in reason.lower() or "requires a buffer" in reason
        ):  # struct.error
            raise ImageError(f"{name}: the file is truncated ({reason}): copy or download it again.") from error
        if _UNSUPPORTED.search(reason):
            raise ImageError(f"{name}: of a kind that is not read ({reason}): convert it to JPEG.") from error
        raise ImageError(f"{name}: the file is damaged ({reason}).") from error
