"""Which images a command line means: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import stat
import sys
from typing import IO, Iterable, Iterator, List, NamedTuple, Sequence, Union

from ..errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")  # taken from folders
STANDARD_INPUT = "-"


class NamedImage(NamedTuple):
    """An image that was not read yet, and the name that lines and errors give it."""

    name: str
    source: Union[str, IO[bytes]]  # a path, or a pipe


def find_images(arguments: Sequence[str]) -> List[NamedImage]:
    """Each image that `arguments` mean, in their order; folders and patterns in sorted order.

    A folder gives every image below it, a pattern that names no file is expanded, "-" is one encoded image on
    standard input, not read yet. A file that does not exist is passed on, so that it is reported among the others.
    Raises UserError for a folder or pattern without images: before any work is done.
    """
    images: List[NamedImage] = []
    for argument in arguments:
        if argument == STANDARD_INPUT:
            if sys.stdin is None:
                raise UserError("There is no standard input to read an image from: it is closed.")
            images.append(NamedImage("standard input", sys.stdin.buffer))
        elif os.path.isdir(argument):
            images += _several(below(argument), f"The folder {argument} has no images ({' '.join(SUFFIXES)}).")
        elif glob.has_magic(argument) and not os.path.exists(argument):
            found = (path for path in sorted(glob.glob(argument, recursive=True)) if os.path.isfile(path))
            images += _several(found, f"No file matches {argument}.")
        else:
            images.append(NamedImage(argument, argument))
    return images


def below(folder: str) -> Iterator[str]:
    """Path of every image in `folder` and below it, by its suffix, sorted; what is hidden (.thumbnails/) is left out.

    Raises UserError if one of the folders can't be read.
    """
    for root, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and _ends(os.path.join(root, name)):
                yield os.path.join(root, name)


def _ends(path: str) -> bool:
    """Whether reading `path` comes to an end: a pipe or a device that lies in a folder as image.jpg would not."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # a link to nowhere is reported among the others
        return True
    return stat.S_ISREG(mode)


def _unreadable(error: OSError) -> None:
    raise UserError(f"The folder {error.filename} can't be read: {error.strerror}.") from None


def _several(paths: Iterable[str], none: str) -> List[NamedImage]:
    images = [NamedImage(path, path) for path in paths]
    if not images:
        raise UserError(none)
    return images
