"""On the CPUs: a group's images read, decoded and cut to squares. The network's node only normalises them.

Squares are uint8 [H, W, 3], a quarter of what the network gets: about as much as the JPEG that they came from.
"""

from __future__ import annotations

import os
import platform
import traceback
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np
import pyarrow
import ray

from ..errors import UserError
from ..images.decode import Decoding, ImageError
from ..images.preprocess import Preprocessing
from ..networks.pipeline import squares
from .sources import Entry, contents, is_url

CHUNK = 1 << 16  # entries: a task fetches one or two such tables, never the whole list
SCHEMA = pyarrow.schema(
    [
        ("name", pyarrow.binary()),  # as the file system spells it, which need not be UTF-8
        ("where", pyarrow.binary()),
        ("row", pyarrow.int64()),
        ("column", pyarrow.string()),
    ]
)


def as_table(entries: Sequence[Entry]) -> pyarrow.Table:
    names = [[os.fsencode(entry.name) for entry in entries], [os.fsencode(entry.where) for entry in entries]]
    return pyarrow.table([*names, [entry.row for entry in entries], [entry.column for entry in entries]], schema=SCHEMA)


def as_entries(table: pyarrow.Table) -> List[Entry]:
    rows = zip(*(table.column(name).to_pylist() for name in SCHEMA.names))
    return [Entry(os.fsdecode(name), os.fsdecode(where), row, column) for name, where, row, column in rows]


class Listing(NamedTuple):
    """All images of a job, in Ray's store: tables of CHUNK entries."""

    chunks: List[Any]  # ObjectRef

    def entries(self, start: int, stop: int) -> List[Entry]:
        found: List[Entry] = []
        for index in range(start // CHUNK, -(-stop // CHUNK)):
            table = ray.get(self.chunks[index])
            first = max(start - index * CHUNK, 0)
            found += as_entries(table.slice(first, min(stop - index * CHUNK, CHUNK) - first))
        return found


class Failed(NamedTuple):
    """What went wrong with a group on a node, as a value: what a task raises is a node that was lost."""

    reason: str  # a sentence, or a traceback
    by_user: bool  # whether it is a UserError, rather than a bug of ours

    @classmethod
    def of(cls, error: Exception) -> Failed:
        """To be called while `error` is handled."""
        if isinstance(error, UserError):
            return cls(str(error), True)
        return cls(f"{traceback.format_exc()}\n(on {platform.node()})", False)


class Decoded(NamedTuple):
    """A group on its way to the network."""

    start: int  # position of its first image
    names: List[str]
    errors: Dict[int, str]  # by row: why an image can't be used
    arrays: List[np.ndarray]  # uint8 [rows, H, W, 3] for each recipe; the rows of errors hold anything
    lost: str  # a file in a folder that is not to be seen from this node; "": none
    node: str


def decode(start: int, stop: int, listing: Listing, recipes: Sequence[Preprocessing], decoding: Decoding) -> Any:
    """A task: the images from position `start` on as Decoded, or Failed."""
    try:
        return decoded(start, listing.entries(start, stop), recipes, decoding)
    except ray.exceptions.RayError:  # a node is gone: Ray tries again elsewhere
        raise
    except Exception as error:
        return Failed.of(error)


def decoded(start: int, entries: Sequence[Entry], recipes: Sequence[Preprocessing], decoding: Decoding) -> Decoded:
    """The squares of `entries`, which begin at position `start`."""
    arrays = [np.empty((len(entries), recipe.resolution, recipe.resolution, 3), np.uint8) for recipe in recipes]
    errors: Dict[int, str] = {}
    lost = ""
    for row, (entry, content) in enumerate(contents(entries, decoding)):
        try:
            if isinstance(content, ImageError):
                raise content
            for array, (square, _) in zip(arrays, squares(content, entry.name, recipes, decoding)):
                array[row] = np.asarray(square)
        except ImageError as error:
            errors[row] = str(error)
            if not is_url(entry.where) and not os.path.isdir(os.path.dirname(entry.where)):
                lost = entry.where
    return Decoded(start, [entry.name for entry in entries], errors, arrays, lost, platform.node())
