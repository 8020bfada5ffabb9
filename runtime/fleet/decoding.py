"""On the CPUs: a group's images read, decoded and cut to squares. The network's node only normalises them.

Squares are uint8 [H, W, 3], a quarter of what the network gets: about as much as the JPEG that they came from.
"""

from __future__ import annotations

import json
import os
import traceback
from functools import partial
from typing import Any, List, NamedTuple, Sequence

import numpy as np
import pyarrow
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from ..errors import UserError
from ..images.decode import Decoding, ImageError
from ..images.preprocess import Preprocessing
from ..networks.pipeline import squares
from .groups import Groups
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


class Pictures(Datasource):
    """One block of one row for each group that is missing: a row is never cut in two, so a group stays whole."""

    def __init__(
        self, groups: Groups, missing: Sequence[int], listing: Listing, recipes: List[Preprocessing], decoding: Decoding
    ) -> None:
        super().__init__()
        self.groups, self.missing, self.listing, self.recipes, self.decoding = (
            groups,
            missing,
            listing,
            recipes,
            decoding,
        )

    def get_name(self) -> str:
        return "Pictures"

    def estimate_inmemory_data_size(self) -> int:
        return sum(self._bytes(group) for group in self.missing)

    def _bytes(self, group: int) -> int:
        start, stop = self.groups.span(group)
        return (stop - start) * sum(3 * recipe.resolution**2 for recipe in self.recipes)

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> List[ReadTask]:
        return [
            ReadTask(
                partial(_blocks, group, *self.groups.span(group), self.listing, self.recipes, self.decoding),
                BlockMetadata(num_rows=1, size_bytes=self._bytes(group), exec_stats=None, input_files=None),
            )
            for group in self.missing
        ]


def _blocks(
    group: int, start: int, stop: int, listing: Listing, recipes: List[Preprocessing], decoding: Decoding
) -> List[pyarrow.Table]:
    try:
        return [decoded(group, start, listing.entries(start, stop), recipes, decoding)]
    except UserError as error:
        return [_failed(group, start, str(error), user=True)]
    except ray.exceptions.RayError:  # a node is gone: Ray tries again elsewhere
        raise
    except Exception:
        return [_failed(group, start, traceback.format_exc(), user=False)]


def decoded(
    group: int, start: int, entries: Sequence[Entry], recipes: Sequence[Preprocessing], decoding: Decoding
) -> pyarrow.Table:
    """A row: the readable images' squares of each recipe, one array after the other, and why the others are none."""
    arrays = [np.empty((len(entries), recipe.resolution, recipe.resolution, 3), np.uint8) for recipe in recipes]
    errors, lost = {}, ""
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
    facts = {"names": [entry.name for entry in entries], "errors": errors, "lost": lost, "failure": "", "user": False}
    return _row(group, start, facts, arrays)


def _failed(group: int, start: int, reason: str, user: bool) -> pyarrow.Table:
    facts = {"names": [], "errors": {}, "lost": "", "failure": f"{reason}\n(on {os.uname().nodename})", "user": user}
    return _row(group, start, facts, [])


def _row(group: int, start: int, facts: Any, arrays: Sequence[np.ndarray]) -> pyarrow.Table:
    values = np.concatenate([array.reshape(-1) for array in arrays]) if len(arrays) > 1 else None
    raw = values if values is not None else arrays[0].reshape(-1) if arrays else np.empty(0, np.uint8)
    offsets = pyarrow.py_buffer(np.array([0, raw.size], np.int64))
    pixels = pyarrow.Array.from_buffers(pyarrow.large_binary(), 1, [None, offsets, pyarrow.py_buffer(raw)])  # no copy
    return pyarrow.table({"group": [group], "start": [start], "facts": [json.dumps(facts)], "pixels": pixels})
