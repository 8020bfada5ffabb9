"""What Pillow leaves to be done about TIFF files: the meaning of their samples, and strips that end too early."""

from __future__ import annotations

import ctypes
import os
import tempfile
from typing import IO, Any, Optional, Tuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

# Tags of TIFF 6.0, section 8
_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _MOST = 256, 258, 259, 262, 277, 281
_PLANES, _TILE_WIDTH, _EXTRA, _KIND = 284, 322, 338, 339
# Uncompressed, LZW, Deflate, PackBits, LZMA, Zstandard and WebP: what is missing from these is reported as an error
_RAW_OR_CHECKED = {1, 5, 8, 32773, 32946, 34925, 50000, 50001}
_ALWAYS_THERE = {1, 5, 8, 32773, 32946}  # of these, those that every libtiff has

# Those without a reader in Pillow that people meet, by libtiff's tiff.h
_COMPRESSIONS = {
    9: "JBIG",
    10: "JBIG",
    32908: "PixarFilm",
    32909: "PixarLog",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    50002: "JPEG XL",
    52546: "JPEG XL",
}


def meaning(image: Image.Image) -> Tuple[Optional[int], bool]:
    """Bits in the samples of a grey TIFF, None where it does not say, and whether 0 is white."""
    tags = _tags(image)
    stated, most = tags.get(_BITS), tags.get(_MOST)
    most = most[0] if isinstance(most, tuple) else most
    bits = None
    if isinstance(most, int) and most > 0:
        bits = max(8, most.bit_length())
    elif isinstance(stated, tuple) and stated and 8 < stated[0] < 16:
        bits = stated[0]
    elif tags.get(_KIND, (1,))[0] == 2 and int(np.asarray(image).max()) >= 1 << 12:  # signed
        bits = 15
    return bits, tags.get(_PHOTOMETRIC) == 0


def unread_compression(number: Any) -> Optional[str]:
    """The name of a compression that Pillow, or its libtiff, has no reader for: Pillow itself calls that damage."""
    library = _library()
    if number not in COMPRESSION_INFO:
        return _COMPRESSIONS.get(number) if isinstance(number, int) else None
    if number in _ALWAYS_THERE or library is None or library.TIFFIsCODECConfigured(number):
        return None
    return COMPRESSION_INFO[number]


def set_planes_right(image: Image.Image, file: IO[bytes]) -> None:
    """Pillow reads an uncompressed plane of 16-bit samples as one of 8 bits, which is noise: names the samples as they are."""
    tags = _tags(image)
    bits = tags.get(_BITS) or (8,)
    if tags.get(_PLANES) != 2 or max(bits) <= 8 or not all(tile[0] == "raw" for tile in image.tile):  # type: ignore[attr-defined]
        return
    file.seek(0)
    order = ";16B" if file.read(2) == b"MM" else ";16L"
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        named = (tile[3][0] + order, *tile[3][1:])
        # a tuple in Pillow 10, a NamedTuple later
        tiles.append(tile._replace(args=named) if hasattr(tile, "_replace") else (*tile[:3], named))
    image.tile = tiles  # type: ignore[attr-defined]


def states_alpha(image: Image.Image) -> bool:
    """Whether the fourth sample is said to be anything at all: Pillow takes it for alpha where it is not."""
    return not isinstance(image, TiffImageFile) or _EXTRA in image.tag_v2


def compression_of(image: Image.Image) -> int:
    """Tag 259 of an opened TIFF."""
    return int(_tags(image).get(_COMPRESSION, 1))


def _tags(image: Image.Image) -> Any:
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}


def is_cut_short(image: Image.Image, content: IO[bytes]) -> bool:
    """Whether a strip or tile of this opened file holds fewer rows than it should, and its compression (CCITT, JPEG) doesn't
    report that: Pillow before 13 shows what lay in memory instead. libtiff decodes each into two buffers of different
    content; what differs afterwards was never written. False where Pillow has its libtiff built in and out of reach.
    """
    library = _library()
    if compression_of(image) in _RAW_OR_CHECKED or library is None:
        return False
    with tempfile.TemporaryFile() as file:
        content.seek(0)
        file.write(content.read())
        file.seek(0)
        handle = library.TIFFFdOpen(os.dup(file.fileno()), b"image", b"r")
        if not handle:
            return False
        try:
            return _unwritten(library, handle, _row_of_pixels(image))
        finally:
            library.TIFFClose(handle)


def _row_of_pixels(image: Image.Image) -> np.ndarray:
    """The bits that are pixels in a row of the file, uint8 of its length: rows end on whole bytes, and what fills up the last one
    is left as it was."""
    tags = _tags(image)
    samples = tags.get(_SAMPLES, 1) if tags.get(_PLANES, 1) == 1 else 1
    width = tags[_TILE_WIDTH] if _TILE_WIDTH in tags else tags[_WIDTH]
    return np.packbits(np.ones(int(width) * int(samples) * int((tags.get(_BITS) or (1,))[0]), np.uint8))


def _unwritten(library: Any, handle: int, row: np.ndarray) -> bool:
    kind = "Tile" if library.TIFFIsTiled(handle) else "Strip"
    size = getattr(library, f"TIFF{kind}Size")(handle)
    read = getattr(library, f"TIFFReadEncoded{kind}")
    if size <= 0:
        return False
    one, other = np.empty(size, np.uint8), np.empty(size, np.uint8)
    for number in range(getattr(library, f"TIFFNumberOf{kind}s")(handle)):
        one[:], other[:] = 0x55, 0xAA
        written = read(handle, number, one.ctypes.data, size)
        if written < 0 or read(handle, number, other.ctypes.data, size) != written:
            return False  # Pillow gets the same error
        differ = one[:written] ^ other[:written]
        if written % len(row) == 0:
            differ = differ.reshape(-1, len(row)) & row
        if differ.any():
            return True
    return False


def _library() -> Any:
    """The libtiff that Pillow uses, silenced: it writes warnings to stderr, without the name of the file."""
    if not _loaded:
        _loaded.append(_load())
    return _loaded[0]


_loaded: list = []


def _load() -> Any:
    try:
        from PIL import _imaging

        library = ctypes.CDLL(_imaging.__file__)  # finds what that library itself is linked with
        pointer, size, number = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_uint32
        for name, result, *arguments in (
            ("TIFFSetErrorHandler", pointer, pointer),
            ("TIFFSetWarningHandler", pointer, pointer),
            ("TIFFFdOpen", pointer, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p),
            ("TIFFClose", None, pointer),
            ("TIFFIsCODECConfigured", ctypes.c_int, ctypes.c_uint16),
            ("TIFFIsTiled", ctypes.c_int, pointer),
            ("TIFFTileSize", size, pointer),
            ("TIFFStripSize", size, pointer),
            ("TIFFNumberOfTiles", number, pointer),
            ("TIFFNumberOfStrips", number, pointer),
            ("TIFFReadEncodedTile", size, pointer, number, pointer, size),
            ("TIFFReadEncodedStrip", size, pointer, number, pointer, size),
        ):
            function: Any = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    return library
