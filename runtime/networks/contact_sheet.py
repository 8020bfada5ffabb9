"""A contact sheet of an image and its nearest neighbours, drawn with Pillow alone."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any, List, NamedTuple, Sequence

from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from ..images.decode import DECODING, Decoding, ImageError, open_image
from ..printable import printable

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MOST = 400  # cells: 20 x 20 of them are 33 megapixels
_CELL, _GAP, _SIZE = 240, 16, 15  # px: of an image's square, around it, of the letters
_LINE = 20  # px from one line of text to the next
_PAPER, _FRAME, _INK, _FAINT = (255, 255, 255), (233, 233, 236), (24, 24, 28), (110, 110, 118)

# Looked for where the system keeps its fonts, for names that Pillow's own font has no letters for.
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "unifont.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "segoeui.ttf",
    "msyh.ttc",
    "malgun.ttf",
)


class Cell(NamedTuple):
    """One image of the sheet."""

    path: str
    title: str  # "0.913"
    name: str  # of the file; its end is what is shown of a long one


def contact_sheet(query: Cell, neighbours: Sequence[Cell], suffix: str, decoding: Decoding = DECODING) -> bytes:
    """An encoded image in the format of `suffix` (one of FORMATS): `query` large at the left, `neighbours` in rows beside it,
    best first. An image that can't be read any more leaves an empty frame that says so."""
    columns = max(1, math.ceil(math.sqrt(len(neighbours))))
    rows = max(1, math.ceil(len(neighbours) / columns))
    large = _CELL if rows == 1 else _CELL * 3 // 2
    height = _GAP + max(large + 2 * _LINE + _GAP, rows * (_CELL + 2 * _LINE + _GAP))
    width = 2 * _GAP + large + (_GAP + columns * (_CELL + _GAP) if neighbours else 0)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw(sheet, draw, query, _GAP, _GAP, large, decoding)
    first = _GAP + large + 2 * _GAP
    if neighbours:
        draw.line([(first - _GAP, _GAP), (first - _GAP, height - _GAP)], fill=_FRAME, width=2)
    for index, cell in enumerate(neighbours):
        row, column = divmod(index, columns)
        x, y = first + column * (_CELL + _GAP), _GAP + row * (_CELL + 2 * _LINE + _GAP)
        _draw(sheet, draw, cell, x, y, _CELL, decoding)
    content = io.BytesIO()
    sheet.save(content, FORMATS[suffix.lower()], **({} if suffix.lower() == ".png" else {"quality": 90}))
    return content.getvalue()


def require_format(path: str, suffix: str, count: int) -> None:
    """Raises UserError for a contact sheet that can't be written."""
    if suffix.lower() not in FORMATS:
        raise UserError(f"{path}: a contact sheet is written as one of {', '.join(FORMATS)}.")
    if count > MOST:
        raise UserError(f"{count} images are too many for a contact sheet: at most {MOST}.")


def _draw(sheet: Image.Image, draw: Any, cell: Cell, x: int, y: int, side: int, decoding: Decoding) -> None:
    draw.rectangle([(x, y), (x + side - 1, y + side - 1)], fill=_FRAME)
    try:
        image = open_image(cell.path, cell.name, decoding, side)
        scale = side / max(image.size)
        size = [max(1, round(length * scale)) for length in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        sheet.paste(image, (x + (side - size[0]) // 2, y + (side - size[1]) // 2))
    except ImageError:
        _write(draw, "can't be read", x + 8, y + side // 2 - _LINE, side - 16, _FAINT)
    _write(draw, cell.title, x, y + side + 3, side, _INK)
    _write(draw, cell.name, x, y + side + 3 + _LINE, side, _FAINT)


def _write(draw: Any, text: str, x: int, y: int, width: int, colour: Any) -> None:
    """`text` in one line, of a long one its end."""
    text = printable(text)
    font = _font_for(text)
    text = "".join(c if _has(font, c) else "?" for c in text)
    if font.getlength(text) > width:
        low, high = 0, len(text)  # the longest end that fits
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if font.getlength("..." + text[middle:]) <= width else (middle + 1, high)
        cut = text.find("/", low, low + 4)  # rather at a folder than just before it
        text = "..." + text[max(cut, low) :]
    draw.text((x, y), text, fill=colour, font=font)


def _font_for(text: str) -> Any:
    """The first font that has all letters of `text`; if none has, the one that has the most."""
    best, most = None, -1
    for font in _own():
        has = sum(_has(font, letter) for letter in set(text))
        if has == len(set(text)):
            return font
        if has > most:
            best, most = font, has
    for name in _FONTS:
        font = _system(name)
        if font is not None:
            has = sum(_has(font, letter) for letter in set(text))
            if has > most:
                best, most = font, has
            if has == len(set(text)):
                break
    return best


@lru_cache(maxsize=None)
def _own() -> List[Any]:
    try:
        return [ImageFont.load_default(_SIZE)]
    except (TypeError, OSError, ImportError):  # Pillow 10.0, or one without FreeType: letters of Latin-1 alone
        return [ImageFont.load_default()]


@lru_cache(maxsize=None)
def _system(name: str) -> Any:
    try:
        return ImageFont.truetype(name, _SIZE)
    except (OSError, ImportError):
        return None


@lru_cache(maxsize=4096)
def _has(font: Any, letter: str) -> bool:
    """Whether `font` draws `letter` as anything but the box of a letter that it lacks."""
    if not hasattr(font, "getbbox") or isinstance(font, ImageFont.ImageFont):
        return ord(letter) < 256
    try:
        drawn, missing = (font.getmask(each) for each in (letter, "\U0010fffe"))
    except (OSError, ValueError, UnicodeError):
        return False
    return letter.isspace() or (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))
