"""What a job leaves, as Parquet: results/ with a row for each image, unreadable/ with a row for each that can't be used.

A file for each group, named by it: written twice, it is the same file with the same bytes. A group counts as done when its
file in results/ is there, which is written last.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from functools import partial
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pyarrow
import pyarrow.parquet as parquet

from ..errors import UserError
from ..networks.classifier import Classifier, Prediction
from ..networks.pipeline import Answer
from .decoding import CHUNK, SCHEMA, as_entries, as_table
from .groups import Groups
from .sources import Entry
from .store import Store

RESULTS, UNREADABLE = "results", "unreadable"
_JOB, _LISTING = "_job.json", "_listing.parquet"  # readers of a folder of Parquet leave out what begins so
_KEY = b"efficientnet-edge"  # of what answered, in Parquet's metadata, as in runtime.networks.embeddings
_PREDICTION = pyarrow.struct(
    [("index", pyarrow.int32()), ("label", pyarrow.string()), ("probability", pyarrow.float64())]
)
_ROWS = {
    RESULTS: [("position", pyarrow.int64()), ("file", pyarrow.string()), ("predictions", pyarrow.list_(_PREDICTION))],
    UNREADABLE: [("position", pyarrow.int64()), ("file", pyarrow.string()), ("reason", pyarrow.string())],
}


def predicted(
    answered_by: Dict[str, str],
    top: int,
    start: int,
    names: Sequence[str],
    answers: Sequence[Answer],
    networks: Sequence[Classifier],
) -> Tuple[bytes, bytes]:
    """A group as runtime.infer would print it: the tables of its results and of its unreadable images (see actor.Form)."""
    good: List[Any] = []
    bad: List[Any] = []
    for position, (name, answer) in enumerate(zip(map(_text, names), answers), start):
        if answer.error is not None:
            bad.append((position, name, _text(str(answer.error))))
        else:
            best = networks[0].predictions(answer.logits[0][None], top)[0]
            good.append((position, name, [each._asdict() for each in best]))
    return _parquet(RESULTS, good, answered_by), _parquet(UNREADABLE, bad, answered_by) if bad else b""


def form(answered_by: Dict[str, str], top: int) -> Any:
    """actor.Form of a classification."""
    return partial(predicted, answered_by, top)


def _text(name: str) -> str:
    """A name that is no UTF-8, with its bytes as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _parquet(kind: str, rows: Sequence[Any], answered_by: Dict[str, str]) -> bytes:
    schema = pyarrow.schema(_ROWS[kind], metadata={_KEY: json.dumps(answered_by).encode()})
    columns = [pyarrow.array(column, field.type) for column, field in zip(zip(*rows), schema)] if rows else None
    table = pyarrow.table(columns, schema=schema) if columns else schema.empty_table()
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


class Row(NamedTuple):
    """An image of a finished job."""

    position: int
    predictions: List[Prediction]
    error: str


class Folder:
    """The results of one job, finished or not."""

    def __init__(self, store: Store, suffix: str = ".parquet") -> None:
        self.store, self.suffix = store, suffix

    def job(self) -> Dict[str, Any]:
        """What the job in this folder does; {}: there is none. Raises UserError if that can't be read."""
        raw = self.store.read(_JOB)
        try:
            return json.loads(raw) if raw else {}
        except ValueError:
            raise UserError(f"{self.store.location}/{_JOB} is damaged: choose another folder, or --fresh.") from None

    def begin(self, job: Dict[str, Any]) -> None:
        self.store.write(_JOB, json.dumps(job, indent=1).encode())

    def name(self, group: int) -> str:
        return f"part-{group:07d}{self.suffix}"

    def done(self, groups: Groups) -> Set[int]:
        """Groups whose results are there."""
        names = self.store.names(RESULTS)
        return {group for group in range(len(groups)) if self.name(group) in names}

    def keep(self, group: int, table: bytes, bad: bytes) -> None:
        name = self.name(group)
        if bad:
            self.store.write(f"{UNREADABLE}/{name}", bad)
        self.store.write(f"{RESULTS}/{name}", table)

    def clear(self, left: Optional[Iterable[int]] = None) -> None:
        """Takes away the unreadable of groups that are not done (None: all that jobs have written here)."""
        if left is None:
            for kind in (RESULTS, UNREADABLE):
                for name in self.store.names(kind):
                    if name.startswith("part-") and name.endswith(self.suffix):
                        self.store.remove(f"{kind}/{name}")
            for name in (_JOB, _LISTING):
                self.store.remove(name)
            return
        there = self.store.names(UNREADABLE)
        for group in left:
            if self.name(group) in there:
                self.store.remove(f"{UNREADABLE}/{self.name(group)}")

    # What a job is to do is written down first: after an interruption an image keeps its place, whatever came or went.

    def list(self, entries: Iterable[Entry]) -> int:
        """Writes the listing, a chunk in memory at a time; the number of entries."""
        count = 0
        with tempfile.TemporaryFile() as file:
            with parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
                for chunk in _chunks(entries):
                    writer.write_table(as_table(chunk))
                    count += len(chunk)
            file.seek(0)
            self.store.write(_LISTING, file.read())
        return count

    def listing(self) -> Optional[Any]:
        """The Parquet file of the listing, None if there is none."""
        raw = self.store.read(_LISTING)
        return parquet.ParquetFile(pyarrow.BufferReader(raw)) if raw else None

    def rows(self, groups: Groups) -> Iterator[Tuple[Entry, Row]]:
        """Every image in order, of a finished job."""
        listing = self.listing()
        assert listing is not None
        names = (entry for i in range(listing.num_row_groups) for entry in as_entries(listing.read_row_group(i)))
        for group in range(len(groups)):
            found: List[Row] = []
            for position, _, best in self._read(RESULTS, group):
                found.append(Row(position, [Prediction(**each) for each in best], ""))
            for position, _, reason in self._read(UNREADABLE, group):
                found.append(Row(position, [], reason))
            for row, entry in zip(sorted(found, key=lambda row: row.position), names):
                yield entry, row

    def unreadable(self, groups: Groups) -> int:
        """Images in that table, of a finished job."""
        there, count = self.store.names(UNREADABLE), 0
        for group in range(len(groups)):
            raw = self.store.read(f"{UNREADABLE}/{self.name(group)}") if self.name(group) in there else None
            count += parquet.ParquetFile(pyarrow.BufferReader(raw)).metadata.num_rows if raw else 0
        return count

    def _read(self, kind: str, group: int) -> Iterator[Tuple[Any, ...]]:
        raw = self.store.read(f"{kind}/{self.name(group)}")
        if raw:
            table = parquet.read_table(pyarrow.BufferReader(raw))
            yield from zip(*(column.to_pylist() for column in table.columns))

    def remove(self) -> None:
        """Takes away a folder that was only for the time of the job."""
        self.clear()
        self.store.remove("_lock")
        for name in (RESULTS, UNREADABLE, ""):
            path = os.path.join(self.store.root, name)
            if os.path.isdir(path) and not os.listdir(path):
                os.rmdir(path)


def _chunks(entries: Iterable[Entry]) -> Iterator[List[Entry]]:
    chunk: List[Entry] = []
    for entry in entries:
        chunk.append(entry)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
