"""Images as people have millions of them: folders, manifests, Parquet, object storage (any fsspec URL).

`entries` names them one after the other, in an order that never changes, and holds none of them; `content` fetches one,
on whichever node needs it.
"""

from __future__ import annotations

import csv
import glob
import os
from typing import IO, Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import UserError
from ..images.decode import Decoding, ImageError
from ..images.find import STANDARD_INPUT, SUFFIXES, below
from ..pool import OrderedPool

MANIFESTS = (".txt", ".csv", ".tsv")
PATH_COLUMNS = ("file", "filename", "path", "url", "image", "image_path")  # where no --column is named
_FILE = -1  # instead of a row: the image is a file of its own


class Entry(NamedTuple):
    """One image, not read yet."""

    name: str  # what errors and results call it
    where: str  # absolute path or URL, of the image or of the Parquet file that it lies in
    row: int = _FILE  # of the Parquet file
    column: str = ""  # of the Parquet file


def entries(arguments: Sequence[str], column: Optional[str] = None) -> Iterator[Entry]:
    """Every image that `arguments` mean, in their order; a folder's sorted, as runtime.images.find has it.

    Files, folders and quoted patterns as on one machine; .txt, .csv and .tsv are manifests; .parquet holds a column of
    encoded images or of paths; and all of these may be URLs (s3://bucket/photos/). `column`: of a table.
    Raises UserError for what has no images.
    """
    for argument in arguments:
        found = 0
        for entry in _entries(argument, column):
            found += 1
            yield entry
        if not found:
            what = "No file matches" if glob.has_magic(argument) else "There are no images in"
            raise UserError(f"{what} {argument} ({' '.join(SUFFIXES)}).")


def _entries(argument: str, column: Optional[str]) -> Iterator[Entry]:
    if argument == STANDARD_INPUT:
        raise UserError("A cluster can't read standard input: name files, a folder, a manifest, Parquet or a URL.")
    if is_url(argument):
        yield from _behind_url(argument, column)
    elif os.path.isdir(argument):
        yield from map(_file, below(argument))
    elif glob.has_magic(argument) and not os.path.exists(argument):
        for path in sorted(glob.glob(argument, recursive=True)):
            if os.path.isfile(path):
                yield from _one(path, column)
    else:
        yield from _one(argument, column)


def _one(path: str, column: Optional[str]) -> Iterator[Entry]:
    """Of a file, by its suffix."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".parquet":
        yield from _of_parquet(path, column)
    elif suffix in MANIFESTS:
        yield from _of_manifest(path, suffix, column)
    else:
        yield _file(path)


def _file(name: str) -> Entry:
    return Entry(name, name if is_url(name) else os.path.abspath(name))


def is_url(name: str) -> bool:
    return "://" in name


def _behind_url(url: str, column: Optional[str]) -> Iterator[Entry]:
    files, path = file_system(url)
    if os.path.splitext(path)[1].lower() in (".parquet", *MANIFESTS, *SUFFIXES) and not glob.has_magic(path):
        yield from _one(url, column)
        return
    try:
        found = sorted(files.glob(path) if glob.has_magic(path) else files.find(path))
    except Exception as error:  # each protocol has its own kinds
        raise UserError(f"{url} can't be listed ({type(error).__name__}: {error}).") from None
    scheme = url.partition("://")[0]
    for each in found:
        inner = each[len(path) :] if each.startswith(path) else os.path.basename(each)
        if each.lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in inner.split("/")):
            full = files.unstrip_protocol(each)
            yield _file(full if is_url(full) else f"{scheme}://{each}")


def _of_manifest(path: str, suffix: str, column: Optional[str]) -> Iterator[Entry]:
    """A path or URL a line; or of a table the column that holds them. What is relative begins at the manifest's folder."""
    base = path.rpartition("/")[0] if is_url(path) else os.path.dirname(path)
    try:
        with open_text(path) as file:
            lines = (line.rstrip("\r\n") for line in file)
            names: Iterable[str] = (line for line in lines if line.strip())
            if suffix != ".txt":
                names = _in_column(path, csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ","), column)
            for name in names:
                inside = is_url(name) or os.path.isabs(name) or not base
                yield _file(name if inside else f"{base}/{name}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The manifest {path} can't be read ({error}).") from None


def _in_column(path: str, rows: Iterator[List[str]], column: Optional[str]) -> Iterator[str]:
    header = [cell.strip().lstrip("\ufeff") for cell in next(rows, [])]
    at = header.index(choose_column(path, header, PATH_COLUMNS, column))
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) <= at or not row[at].strip():
            raise UserError(f"{path}, row {number}: no {header[at]}.")
        yield row[at].strip()


def choose_column(path: str, names: Sequence[str], usual: Sequence[str], column: Optional[str]) -> str:
    """The column of a table that is meant. Raises UserError with the choice."""
    if column is not None:
        if column in names:
            return column
        raise UserError(f"{path} has no column '{column}': it has {', '.join(names) or 'none'}.")
    found = next((each for name in usual for each in names if each.lower() == name), None)
    if found is None:
        raise UserError(
            f"Which column of {path} has the images? It has {', '.join(names) or 'none'}: name one with --column."
        )
    return found


def _of_parquet(path: str, column: Optional[str]) -> Iterator[Entry]:
    """A row each: encoded images in a column of bytes (or of structs with "bytes", as Hugging Face writes them), else paths."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with open_binary(path) as file:
            table = parquet.ParquetFile(file)
            kinds: Dict[str, Any] = {field.name: field.type for field in table.schema_arrow}
            encoded = [name for name, kind in kinds.items() if _holds_bytes(kind)]
            if column is None and len(encoded) == 1:
                column = encoded[0]
            column = choose_column(path, list(kinds), () if len(encoded) > 1 else PATH_COLUMNS, column)
            if column in encoded:
                said = next((name for name in PATH_COLUMNS if name != column and _is_text(kinds.get(name))), None)
                where = path if is_url(path) else os.path.abspath(path)
                names = _texts(table, said) if said else (f"{path}:{row}" for row in range(table.metadata.num_rows))
                for row, name in enumerate(names):
                    yield Entry(name or f"{path}:{row}", where, row, column)
            elif _is_text(kinds[column]):
                base = path.rpartition("/")[0] if is_url(path) else os.path.dirname(path)
                for row, name in enumerate(_texts(table, column)):
                    if not name:
                        raise UserError(f"{path}, row {row}: no {column}.")
                    yield _file(name if is_url(name) or os.path.isabs(name) or not base else f"{base}/{name}")
            else:
                raise UserError(f"Column {column} of {path} is of {kinds[column]}: it should hold bytes or paths.")
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path} can't be read as Parquet ({str(error).strip().splitlines()[0]}).") from None


def _texts(table: Any, column: str) -> Iterator[Optional[str]]:
    for batch in table.iter_batches(columns=[column]):
        yield from batch.column(0).to_pylist()


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string")


def _holds_bytes(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def contents(wanted: Sequence[Entry], decoding: Decoding) -> Iterator[Tuple[Entry, Union[str, bytes, ImageError]]]:
    """What `images.decode.open_image` is to open of each entry, in order: a path, or the bytes that were fetched; or why there
    is nothing. Several are fetched ahead at once, since object storage answers late."""

    def fetched(entry: Entry) -> Union[str, bytes, ImageError]:
        remote = entry.row == _FILE and is_url(entry.where)
        return _fetched(entry, decoding.max_bytes) if remote else entry.where

    rows = _Rows()
    with OrderedPool(fetched, wanted, _AHEAD, _AHEAD, "fetch") as there:
        for entry, content in zip(wanted, there):
            yield entry, content if entry.row == _FILE else rows.content(entry)


_AHEAD = 16  # images


def _fetched(entry: Entry, limit: int) -> Union[bytes, ImageError]:
    """All of it, or one byte more than `limit`: decoding then refuses it."""
    try:
        with open_binary(entry.where) as file:
            return file.read(limit + 1)
    except Exception as error:  # each protocol has its own kinds
        reason = getattr(error, "strerror", None) or str(error).strip().rstrip(".") or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "No such file or directory"
        return ImageError(f"{entry.name}: cannot be opened: {reason}.")


class _Rows:
    """Goes through the images of a Parquet file in order: a group of rows is in memory at a time, and only a part of it."""

    def __init__(self) -> None:
        self.at: Tuple[str, str] = ("", "")
        self.next = 0
        self.rows: Iterator[Any] = iter(())

    def content(self, entry: Entry) -> Union[bytes, ImageError]:
        if self.at != (entry.where, entry.column) or entry.row < self.next:
            self._open(entry)
        value = None
        while self.next <= entry.row:
            value, self.next = next(self.rows), self.next + 1
        value = value["bytes"] if isinstance(value, dict) else value
        return ImageError(f"{entry.name}: there is nothing in this row.") if value is None else value

    def _open(self, entry: Entry) -> None:
        import pyarrow.parquet as parquet

        table = parquet.ParquetFile(open_binary(entry.where))
        first, group = 0, 0
        while first + table.metadata.row_group(group).num_rows <= entry.row:
            first, group = first + table.metadata.row_group(group).num_rows, group + 1
        groups = range(group, table.metadata.num_row_groups)
        batches = table.iter_batches(_AHEAD, row_groups=groups, columns=[entry.column])
        self.at, self.next = (entry.where, entry.column), first
        self.rows = (cell.as_py() for batch in batches for cell in batch.column(0))


def file_system(url: str) -> Tuple[Any, str]:
    """What reads and writes at `url`, and its path there. Raises UserError if there is nothing for its protocol."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {str(error).strip().rstrip('.')}.") from None


def open_binary(path: str) -> IO[bytes]:
    if not is_url(path):
        return open(path, "rb")
    files, inner = file_system(path)
    return files.open(inner, "rb")


def open_text(path: str) -> IO[str]:
    if not is_url(path):
        return open(path, encoding="utf-8-sig", newline="")
    files, inner = file_system(path)
    return files.open(inner, "r", encoding="utf-8-sig", newline="")
