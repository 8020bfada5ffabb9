"""Which pictures a command line means: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import sys
from typing import Iterator, Sequence, Tuple, Union

from runtime.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # taken from folders
STANDARD_INPUT = "-"


def find_pictures(arguments: Sequence[str]) -> Iterator[Tuple[str, Union[str, bytes]]]:
    """(name, source) of each picture that `arguments` mean, in their order; folders and patterns in sorted order.

    A folder gives every picture below it, a pattern that names no file is expanded, "-" is one encoded picture on
    standard input. A file that does not exist is passed on, so that it is reported among the others. Raises UserError
    for a folder or pattern without pictures.
    """
    for argument in arguments:
        if argument == STANDARD_INPUT:
            yield "standard input", sys.stdin.buffer.read()
        elif os.path.isdir(argument):
            yield from _several(_below(argument), f"The folder {argument} has no pictures ({' '.join(SUFFIXES)}).")
        elif glob.has_magic(argument) and not os.path.exists(argument):
            found = (path for path in sorted(glob.glob(argument, recursive=True)) if os.path.isfile(path))
            yield from _several(found, f"No file matches {argument}.")
        else:
            yield argument, argument


def _below(folder: str) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(root, name)


def _several(paths: Iterator[str], none: str) -> Iterator[Tuple[str, str]]:
    path = None
    for path in paths:
        yield path, path
    if path is None:
        raise UserError(none)
