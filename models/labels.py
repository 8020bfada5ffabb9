"""Names of classes: ImageNet's 1000 from the table beside this file, or a file of the user's, one name a line or as JSON."""

from __future__ import annotations

import ast
import re
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
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The labels {path} can't be read ({error}). It should be UTF-8 text, one name a line."
        ) from None
    names = names_in(text) or _without_numbers(text.rstrip("\n").split("\n"))
    if len(names) != classes or not all(name.strip() for name in names):
        more = (
            f" Is the first, '{names[0][:40]}', one that this network does not have?"
            if len(names) == classes + 1
            else ""
        )
        raise UserError(
            f"{path} has {len(names)} lines for {classes} classes: one name a line, in the order of the classes, none "
            f"empty.{more}"
        )
    for line, name in enumerate(names, 1):
        if not is_name(name):
            raise UserError(f"{path}, line {line}: {name!r} holds control characters. A name is plain text.")
    return names


def names_in(text: str) -> list[str]:
    """The names in a list or dictionary of Python or JSON: ['cat', 'dog'], {0: 'cat', 1: 'dog'}, {"0": ["n02", "cat"]} or
    {'cat': 0, 'dog': 1}. Empty for anything else."""
    if not text.lstrip().startswith(("{", "[")):
        return []
    try:
        held = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    named = dict(enumerate(held)) if isinstance(held, list) else held
    if not isinstance(named, dict):
        return []
    if all(isinstance(index, int) for index in named.values()):
        named = {index: name for name, index in named.items()}
    by_number = {str(index): name[-1] if isinstance(name, list) and name else name for index, name in named.items()}
    names = [by_number.get(str(index)) for index in range(len(named))]
    return [str(name) for name in names] if all(is_name(name) and name.strip() for name in names) else []  # type: ignore[union-attr]


def _without_numbers(lines: list[str]) -> list[str]:
    """Names without their numbers, which count from 0 or 1, or wnids before them, where each line has one."""
    for first in (0, 1):
        found = [re.match(rf"\s*{number}\s*[:,\s]\s*(\S.*)", line) for number, line in enumerate(lines, first)]
        if all(found):
            return [each[1] for each in found if each]
    found = [re.match(r"n\d{8}\s+(\S.*)", line) for line in lines]
    return [each[1] for each in found if each] if all(found) else lines
