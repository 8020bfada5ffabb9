"""Which files a list of labels means, although it was written on another machine: with other folders before the names, with
backslashes, with another suffix or none."""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_left
from collections import Counter
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import unquote

from ..errors import UserError
from ..images.find import SUFFIXES

_SAME_SUFFIX = {".jpeg": ".jpg", ".tiff": ".tif"}


class _Path(NamedTuple):
    """A path read from its end."""

    text: str  # as it was given
    tail: Tuple[str, ...]  # parts without case and %20, the last first, that one without its suffix: these are compared
    spelt: Tuple[str, ...]  # the same with case, which decides between files that differ in nothing else
    suffix: str


class _Match(NamedTuple):
    """The files that have the longest end in common with a name."""

    files: List[str]  # more than one: it is ambiguous
    whole: bool  # one path is the end of the other; otherwise their folders contradict each other
    score: Tuple[int, ...]  # how well it fits


def match_files(listed: Sequence[str], files: Sequence[str], folder: str) -> List[Optional[str]]:
    """For each of the `listed` names the one of `files` (relative to `folder`) that has the longest end in common with it,
    folder by folder. None where no file has that name, or only files in folders of other names.

    If that is so for the whole list (it names a split, say, where the images lie in a folder for each class), a name that
    occurs once is enough. Raises UserError if several files fit a name equally well, or several names a file.
    """
    above = _read(os.path.abspath(folder))
    depth = len(above.tail)
    known = []
    for file in files:
        path = _read(file)
        known.append(path._replace(tail=path.tail + above.tail, spelt=path.spelt + above.spelt))
    known.sort(key=lambda path: path.tail)
    tails = [path.tail for path in known]
    paths = [_read(name) for name in listed]
    found = [_best(path, known, tails, depth) for path in paths]
    if any(match and match.whole for match in found):
        found = [match if match and match.whole else None for match in found]
    else:
        names = Counter(path.tail[:1] for path in paths)
        found = [match if names[path.tail[:1]] == 1 else None for match, path in zip(found, paths)]
    return _one_name_each(paths, found)


def _read(text: str) -> _Path:
    """Without what says nothing: '.', what '..' takes back, empty parts, how accents are written."""
    parts: List[str] = []
    for part in unicodedata.normalize("NFC", text.replace("\\", "/")).split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    suffix = os.path.splitext(parts[-1])[1].lower() if parts else ""
    if suffix in SUFFIXES:
        parts[-1] = parts[-1][: -len(suffix)]
    spelt = tuple(reversed(parts))
    return _Path(text, tuple(unquote(part).casefold() for part in spelt), spelt, _SAME_SUFFIX.get(suffix, suffix))


def _best(path: _Path, known: Sequence[_Path], tails: Sequence[Tuple[str, ...]], depth: int) -> Optional[_Match]:
    """`tails` are sorted, so the longest common end is one with a neighbour of the place where `path` would stand. `depth`:
    how many parts of each lead to the data set's folder."""
    at = bisect_left(tails, path.tail)
    common = max((_common(path.tail, tail) for tail in tails[max(at - 1, 0) : at + 1]), default=0)
    if not common:
        return None
    first = bisect_left(tails, path.tail[:common])
    scored: Dict[Tuple[int, ...], List[str]] = {}
    whole: Dict[str, bool] = {}
    for candidate in known[first:]:
        if candidate.tail[:common] != path.tail[:common]:
            break
        whole[candidate.text] = common in (len(path.tail), len(candidate.tail)) or common >= len(candidate.tail) - depth
        same_case = sum(a == b for a, b in zip(path.spelt[:common], candidate.spelt[:common]))
        within = common >= len(candidate.tail) - depth  # the whole of the file's path below the folder
        score = (common, whole[candidate.text], within, same_case, path.suffix == candidate.suffix)
        scored.setdefault(tuple(map(int, score)), []).append(candidate.text)
    best = max(scored)
    return _Match(scored[best], whole[scored[best][0]], best)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Parts that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _one_name_each(paths: Sequence[_Path], found: Sequence[Optional[_Match]]) -> List[Optional[str]]:
    """A file that several names fit belongs to the one that fits best."""
    claims: Dict[str, Tuple[Tuple[int, ...], _Path]] = {}
    for path, match in zip(paths, found):
        if match is None:
            continue
        if len(match.files) > 1:
            first, second = match.files[:2]
            raise UserError(f"{path.text} may be {first} or {second}: list the images with their folders.")
        score, other = claims.get(match.files[0], ((), path))
        if score == match.score and other.spelt != path.spelt:
            raise UserError(f"{match.files[0]} may be {other.text} or {path.text}: list the images with their folders.")
        if match.score > score:
            claims[match.files[0]] = (match.score, path)
    return [match.files[0] if match and claims[match.files[0]][0] == match.score else None for match in found]
