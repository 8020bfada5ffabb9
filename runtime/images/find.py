"""Which images a command line means: files, folders, patterns, standard input."""

from __future__ import annotations

import errno
import glob
import importlib.util
import os
import re
import stat
import sys
from typing import IO, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from ..errors import UserError
from ..invocation import install
from ..printable import printable

_HEIC = (".heic", ".heif", ".hif")
_READ = str.split(".jpg .jpeg .jpe .jfif .mpo .png .webp .avif .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm")
# Images and videos of other formats: what of them is in a folder is counted. Labels and notes are not.
_UNREAD = str.split(
    ".heic .heif .hif .jp2 .j2k .jpx .jxl .jxr .psd .xcf .svg .pdf .eps .ai .ico .icns .tga .pcx .sgi .dds .exr .hdr .pfm .dcm "
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .orf .raf .rw2 .pef .raw .mp4 .m4v .mov .avi .mkv .webm .wmv .mpg .mpeg .mts .3gp"
)
SUFFIXES = (*_READ, *(_HEIC if importlib.util.find_spec("pillow_heif") else ()))  # taken from folders
_SUFFIX = re.compile(r"\.\w{1,4}$")  # of a file; names of folders have none
STANDARD_INPUT = "-"


class LeftOut:
    """What folders hold and was left out: `runtime.command.run` says it at the end of a command."""

    def __init__(self) -> None:
        self.formats: Dict[str, int] = {}  # files, by their suffix
        self.folders = 0  # that can't be read; each was an error on stderr

    def file(self, name: str) -> None:
        """Counts a file whose format is not read."""
        suffix = os.path.splitext(name)[1].lower()
        if suffix in _UNREAD and suffix not in SUFFIXES:
            self.formats[suffix] = self.formats.get(suffix, 0) + 1

    def folder(self, error: OSError) -> None:
        """Names a folder that can't be read."""
        self.folders += 1
        print(f"error: the folder {printable(str(error.filename))} can't be read: {error.strerror}.", file=sys.stderr)

    def sentence(self) -> str:
        """Which formats were left out, "" if none."""
        if not self.formats:
            return ""
        count = sum(self.formats.values())
        named = ", ".join(f"{number} {suffix}" for suffix, number in sorted(self.formats.items()))
        hint = f"; {install('pillow-heif')} to have HEIC read" if set(self.formats) & set(_HEIC) else ""
        return f"{count} file{'' if count == 1 else 's'} left out, because the format is not read: {named}{hint}"


LEFT_OUT = LeftOut()  # of this process, whose exit status it is part of


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

    Links are followed. What else is there, and folders that can't be read or that links miss, is counted in LEFT_OUT.
    """
    for root, files in walk(folder, LEFT_OUT.folder):
        for name in files:
            if not name.lower().endswith(SUFFIXES):
                LEFT_OUT.file(name)
            elif _ends(os.path.join(root, name)):
                yield os.path.join(root, name)


def walk(folder: str, refused: Callable[[OSError], None]) -> Iterator[Tuple[str, List[str]]]:
    """`folder` and every folder below it, each with the names of its files, sorted, without what is hidden.

    Links to folders are followed, but not to what is reached without them: one that leads into `folder` itself, or, behind a
    link, to a folder that was seen behind the same link. So loops end. `refused` is told of what can't be read.
    """
    top = os.path.realpath(folder)
    waiting: List[Tuple[str, Optional[Set[str]]]] = [(folder, None)]  # and what was seen behind the link that led there
    while waiting:
        root, seen = waiting.pop()
        if seen is not None:
            real = os.path.realpath(root)
            if real in seen:
                continue
            seen.add(real)
        try:
            with os.scandir(root) as entries:
                found = sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
        except OSError as error:
            error.filename = error.filename or root
            refused(error)
            continue
        folders = {each.name: each for each in found if _is_folder(each)}
        for each in found:
            if each.is_symlink() and not os.path.exists(each.path) and not _SUFFIX.search(each.name):
                refused(OSError(errno.ENOENT, "it is a link that leads nowhere", each.path))
        yield root, [each.name for each in found if each.name not in folders]
        for each in reversed(folders.values()):
            if seen is None and not each.is_symlink():
                waiting.append((each.path, None))
            elif not _is_shown(os.path.realpath(each.path), top):
                waiting.append((each.path, set() if seen is None else seen))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_shown(path: str, top: str) -> bool:
    """Whether the folder `path` is `top` or below it, and not hidden there."""
    parts = os.path.relpath(path, top).split(os.sep)
    return parts == [os.curdir] or not any(part.startswith(".") for part in parts)


def _ends(path: str) -> bool:
    """Whether reading `path` comes to an end: a pipe or a device that lies in a folder as image.jpg would not."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # a link to nowhere is reported among the others
        return True
    return stat.S_ISREG(mode)


def _several(paths: Iterable[str], none: str) -> List[NamedImage]:
    images = [NamedImage(path, path) for path in paths]
    if not images:
        raise UserError(none)
    return images
