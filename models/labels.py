"""Names of classes: ImageNet's 1000 from the table beside this file, or a file of the user's, one name a line."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from runtime.errors import UserError

_MOST_BYTES = 16 << 20  # of a file of names; ImageNet-21k's have 0.5 MB
_IMAGENET = Path(__file__).with_name("imagenet1k.tsv")


def imagenet_labels() -> tuple[list[str], list[str]]:
    """(names, wnids) of ImageNet-1k's classes in the order of their indices."""
    rows = [line.split("\t") for line in _IMAGENET.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [name for _, name in rows], [wnid for wnid, _ in rows]


def is_name(name: object) -> bool:
    """Whether `name` is text without control characters and halves of surrogates: fit to be shown and stored."""
    return isinstance(name, str) and all(unicodedata.category(c) not in ("Cc", "Cs") or c == "\t" for c in name)


def read_labels(path: Path, classes: int) -> list[str]:
    """The names in the text file `path`. Raises UserError unless there are `classes` of them, none empty, and none with
    control characters, which would steer the terminal that a name is printed on."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"The labels {path} have more than {_MOST_BYTES >> 20} MB: it should be one name a line.")
        names = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The labels {path} can't be read ({error}). It should be UTF-8 text, one name a line."
        ) from None
    if len(names) != classes or not all(name.strip() for name in names):
        raise UserError(
            f"{path} has {len(names)} lines for {classes} classes: one name a line, in the order of the classes, none empty."
        )
    for line, name in enumerate(names, 1):
        if not is_name(name):
            raise UserError(f"{path}, line {line}: {name!r} holds control characters. A name is plain text.")
    return names
