"""A picture, whatever it comes as, to upright RGB pixels.

Nothing here changes a global of Pillow or of `warnings`, so any number of threads may call it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import IO, NamedTuple, Union

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from runtime.errors import UserError

Source = Union[str, "os.PathLike[str]", bytes, IO[bytes], Image.Image, np.ndarray]

_ORIENTATION = 0x0112  # EXIF 2.3, 4.6.4 A: how the stored picture must be turned to stand upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Major brand of an ISO base media file (ISO/IEC 23008-12, AV1 Image File Format): what phones call it.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIC or AVIF"),
}


class Decoding(NamedTuple):
    """How pictures are decoded, and what one may cost."""

    exact: bool = False  # bit for bit what torchvision's preprocessing gives, whatever it takes
    max_bytes: int = 256 << 20  # of the encoded file
    max_pixels: int = 178_956_970  # where Pillow itself refuses: 0.5 GiB of RGB
    max_seconds: float = 20.0


DECODING = Decoding()


class ImageError(UserError):
    """This one picture can't be used; the text names it and says why. Others of the same batch still can be."""


class _Jpeg(JpegImageFile):
    """A JPEG without its print resolution and without the further pictures of an MPO: Pillow looks for both in EXIF and
    MPF on opening, and damage there would fail a good picture."""

    def _read_dpi_from_exif(self) -> None:
        pass


def open_image(
    source: Source, name: str | None = None, decoding: Decoding = DECODING, at_least: int | None = None
) -> Image.Image:
    """An upright, loaded picture of mode RGB, from a path, an encoded file (bytes or a binary stream), a PIL image, or
    a uint8 array [H,W], [H,W,1], [H,W,3] or [H,W,4] in the order RGB(A).

    EXIF orientation is applied, to PIL images too. Alpha is dropped, not blended, as `convert("RGB")` does for
    torchvision; 16-bit grey keeps its upper 8 bits, as Pillow does for 16-bit colour; of an animation the first frame
    is taken; colour profiles are ignored. An RGB PIL image comes back itself, not copied. Errors call it `name`.

    A JPEG of which `at_least` px are needed on the shorter side may come back smaller than it is, unless
    `decoding.exact`.

    Raises ImageError: no such file, not readable, empty, not an image, HEIC or AVIF that Pillow can't read, truncated,
    damaged, no pixels or more than `decoding` accepts (known before decoding), float pixels, an array of another kind.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), name or "bytes", decoding)
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "array", decoding)
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "")) or "image"
        _check_size(source, name, decoding)
        return _upright_rgb(source, name)
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fsdecode(source)
        try:
            with open(source, "rb") as file:
                return _decode(file, name, decoding)
        except OSError as error:
            raise ImageError(f"{name}: cannot be opened: {error.strerror}.") from error
        except ValueError as error:  # a NUL in the path
            raise ImageError(f"{name!r}: cannot be opened: {error}.") from error
    if hasattr(source, "read"):
        return _decode(source, name or str(getattr(source, "name", "stream")), decoding)
    raise ImageError(
        f"{name or 'image'}: no picture can be made of type {type(source).__name__}: give a path, the bytes of an "
        "image file, a PIL image or a uint8 array."
    )


def _decode(file: IO[bytes], name: str, decoding: Decoding) -> Image.Image:
    with _errors_named(name):
        if isinstance(file, io.TextIOBase):
            raise ImageError(f"{name}: the stream gives text, not bytes: open it in binary mode.")
        if not (hasattr(file, "seekable") and file.seekable()):
            file = io.BytesIO(file.read())
        file.seek(0)
        head = file.read(16)
        if not head:
            raise ImageError(f"{name}: the file is empty.")
        image = _read_header(file, head, name)
        _check_size(image, name, decoding)
        return _upright_rgb(image, name)


def _read_header(file: IO[bytes], head: bytes, name: str) -> Image.Image:
    """What Image.open does, less its check of the size, which warns through the process's one warning filter from
    half of our limit on, and can't be raised without changing a global."""
    failure: ImageError | None = None
    tried: set[str] = {"EPS"}  # a program, which Pillow would hand to Ghostscript
    for register in (Image.preinit, Image.init):  # the five common formats first: importing all takes 30 ms
        register()
        for kind in list(Image.ID):
            if kind in tried:
                continue
            tried.add(kind)
            factory, accepts = Image.OPEN[kind]
            answer: bool | str = False
            try:
                answer = accepts is None or accepts(head)
                if answer and not isinstance(answer, str):  # a str says that this Pillow was built without it
                    file.seek(0)
                    return _Jpeg(file, "") if kind == "JPEG" else factory(file, "")
            except Exception as error:
                if answer and accepts is not None and failure is None:
                    failure = _explain(error, name)
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        raise ImageError(
            f"{name}: a picture in {_BRANDS[head[8:12]]} format, which this Pillow cannot read: convert it to JPEG."
        )
    raise failure or ImageError(f"{name}: not an image (JPEG, PNG, WebP, TIFF, GIF, BMP or another that Pillow reads).")


def _check_size(image: Image.Image, name: str, decoding: Decoding) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the picture has no pixels ({width} x {height}).")
    if width * height > decoding.max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the {decoding.max_pixels} that are accepted: scale it down first."
        )


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    with _errors_named(name):
        image.load()
        turn = None
        with contextlib.suppress(Exception):  # damaged EXIF in a good picture: Pillow raises whatever that leads to
            # after load: a PNG may carry its EXIF behind the pixels, and a TIFF turns itself
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        image = _to_rgb(image, name)
        if turn is not None:
            image = image.transpose(turn)
            image.info = {}  # or its EXIF would turn it again the next time
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ImageError(f"{name}: the pixels are floats of unknown range: save the picture with 8 or 16 bits.")
    if image.mode == "I" or image.mode.startswith("I;16"):  # convert() would clip at 255
        values = np.asarray(image)
        if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ImageError(f"{name}: the pixels go beyond 16 bits: save the picture with 8 or 16 bits.")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:  # convert() would warn, and map a colour that is dropped anyway
        image = image.copy()
        del image.info["transparency"]
    if image.mode in ("La", "RGBa"):  # premultiplied, and no way to RGB but this
        image = image.convert(image.mode.upper())
    return image.convert("RGB")


def _from_array(array: np.ndarray, name: str, decoding: Decoding) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        raise ImageError(
            f"{name}: an array of {array.dtype} {list(array.shape)} is not a picture: "
            "it takes uint8 (0..255) [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], channels in the order RGB."
        )
    if array.size == 0:
        raise ImageError(f"{name}: the array {list(array.shape)} has no pixels.")
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    image = Image.fromarray(np.ascontiguousarray(array))
    _check_size(image, name, decoding)
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Whatever Pillow raises on a damaged file (there is no end of kinds) becomes an ImageError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _explain(error, name) from error


def _explain(error: Exception, name: str) -> ImageError:
    reason = str(error).strip().rstrip(".") or type(error).__name__
    if isinstance(error, MemoryError):
        return ImageError(f"{name}: decoding it takes more memory than there is.")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"{name}: absurdly large ({reason}).")
    if isinstance(error, EOFError) or "truncated" in reason.lower() or "requires a buffer" in reason:  # struct.error
        return ImageError(f"{name}: the file is truncated ({reason}): copy or download it again.")
    return ImageError(f"{name}: the file is damaged ({reason}).")
