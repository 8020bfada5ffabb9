"""Names of classes: ImageNet's 1000 from the table beside this file, or a file of the user's, one name a line."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError

_IMAGENET = Path(__file__).with_name("imagenet1k.tsv")


def imagenet_labels() -> tuple[list[str], list[str]]:
    """(names, wnids) of ImageNet-1k's classes in the order of their indices."""
    rows = [line.split("\t") for line in _IMAGENET.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [name for _, name in rows], [wnid for wnid, _ in rows]


def read_labels(path: Path, classes: int) -> list[str]:
    """The names in the text file `path`. Raises UserError unless there are `classes` of them, none empty."""
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip("\n").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The labels {path} can't be read ({error}). It should be UTF-8 text, one name a line."
        ) from None
    if len(names) != classes or not all(name.strip() for name in names):
        raise UserError(
            f"{path} has {len(names)} lines for {classes} classes: one name a line, in the order of the classes, none empty."
        )
    return names
