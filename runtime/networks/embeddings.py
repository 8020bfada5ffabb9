"""Embeddings of images in a file, which knows the network that made them, and the nearest of them.

`photos.npy` is a plain float32 array [N, C] and `photos.npy.json` beside it has the facts and the N file names; a Parquet
file has both in itself: columns `file` and `embedding`, the facts in the schema's metadata.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ..artifacts.artifact import Artifact
from ..digest import sha256_of
from ..errors import UserError
from ..invocation import install, typed
from ..whole_file import write_whole
from .embedder import unit

SCHEMA = 1  # of the facts; grows when a reader of today would misunderstand them
SUFFIXES = (".npy", ".parquet")
_KEY = b"efficientnet-edge"  # of the facts, in Parquet's metadata
_PIECE = 4096  # rows looked at together: 20 MB at 1280 values


class Origin(NamedTuple):
    """What made embeddings."""

    variant: str
    precision: str
    artifact_sha256: str
    weights: str  # of the artifact, in words
    unit: bool  # every row has length 1
    folder: str  # that relative file names begin at

    @staticmethod
    def of(artifact: Artifact, unit: bool) -> Origin:
        """Of embeddings that `artifact` makes now, from files named as seen from the current folder."""
        sha256 = artifact.metadata["sha256"]
        return Origin(artifact.variant, artifact.precision, sha256, artifact.weights, unit, os.getcwd())


class Embeddings(NamedTuple):
    """Images and their vectors."""

    files: List[str]  # as they were named
    rows: np.ndarray  # float32 [N, C]
    origin: Origin

    def path(self, file: str) -> str:
        """Where `file` lies, seen from here and now."""
        there = os.path.join(self.origin.folder, file)
        return there if os.path.exists(there) or not os.path.exists(file) else file


class Neighbour(NamedTuple):
    file: str
    similarity: float  # cosine, -1 to 1


def nearest(embeddings: Embeddings, vector: np.ndarray, count: int, query: Optional[str] = None) -> List[Neighbour]:
    """The `count` images whose embeddings have the largest cosine similarity to `vector` [C], best first. The file `query`
    itself is left out; a copy of it is not."""
    direction = unit(vector[None])[0]
    parts = [embeddings.rows[start : start + _PIECE] for start in range(0, len(embeddings.rows), _PIECE)]
    similar = [(part if embeddings.origin.unit else unit(part)) @ direction for part in parts]
    similarity = np.clip(np.concatenate(similar), -1, 1) if similar else np.empty(0, np.float32)
    found: List[Neighbour] = []
    for index in np.argsort(-similarity, kind="stable"):
        if len(found) == count:
            break
        file = embeddings.files[index]
        if query is None or not _same_file(query, embeddings.path(file)):
            found.append(Neighbour(file, float(similarity[index])))
    return found


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # gone meanwhile
        return False


def require_same(embeddings: Embeddings, artifact: Artifact, path: Path) -> None:
    """Raises UserError unless `artifact` made the embeddings in `path`: those of two networks have nothing in common."""
    made = embeddings.origin
    if made.artifact_sha256 == artifact.metadata.get("sha256"):
        return
    raise UserError(
        f"{path} was made by {made.variant} {made.precision} (sha256 {made.artifact_sha256[:12]}), and {artifact.path} is "
        f"{artifact.variant} {artifact.precision} (sha256 {artifact.metadata.get('sha256', '')[:12]}): their embeddings can't be "
        "compared. Name the artifact that made it with --model, or embed the images again."
    )


def require_suffix(path: Path) -> None:
    """Raises UserError for a file that can't be written here: better before hours of work than after."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is neither a .npy nor a .parquet file: embeddings are written as one of these.")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def names_file(path: Path) -> Path:
    """Where the file names of a .npy stand."""
    return path.with_name(path.name + ".json")


def write(path: Path, embeddings: Embeddings) -> None:
    """Writes what the suffix of `path` says. Raises UserError for another suffix, a full disk, or without pyarrow."""
    require_suffix(path)
    if path.suffix.lower() == ".parquet":
        write_whole(path, _parquet(embeddings))
        return
    content = io.BytesIO()
    np.save(content, embeddings.rows, allow_pickle=False)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    facts = {"schema": SCHEMA, **embeddings.origin._asdict(), "npy_sha256": digest, "files": embeddings.files}
    write_whole(path, content.getvalue())
    write_whole(
        names_file(path), (json.dumps(facts, indent=1) + "\n").encode()
    )  # cut off before it, the old one doesn't fit


def read(path: Path) -> Embeddings:
    """What `write` wrote; of a .npy the rows stay on the disk until they are looked at. Raises UserError if it is damaged, or
    something else."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        facts, files, rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_npy(path)
        if facts["schema"] != SCHEMA:
            raise ValueError(f"schema {facts['schema']}: another version of this project wrote it")
        kinds = {name: bool if name == "unit" else str for name in Origin._fields}
        origin = Origin(**{name: facts[name] for name in Origin._fields})
        if not all(isinstance(facts[name], kind) for name, kind in kinds.items()):
            raise ValueError("facts of the wrong kind")
        if (
            rows.dtype != np.float32
            or rows.ndim != 2
            or len(rows) != len(files)
            or not all(isinstance(f, str) for f in files)
        ):
            raise ValueError(f"{rows.dtype} {list(rows.shape)} for {len(files)} files")
        return Embeddings(files, rows, origin)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"{path} has no {os.path.basename(error.filename or '')} beside it, with the names of its files: "
            f"{typed('embed')} writes both."
        ) from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from None
    except Exception as error:  # pyarrow has many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} holds no embeddings that {typed('embed')} wrote, or is damaged ({reason}).") from None


def _read_npy(path: Path) -> Tuple[Dict[str, Any], List[str], np.ndarray]:
    facts = json.loads(names_file(path).read_bytes().decode("utf-8"))
    if sha256_of(path) != facts["npy_sha256"]:
        raise ValueError(f"it does not belong to {names_file(path).name}")
    return facts, facts["files"], np.load(path, mmap_mode="r", allow_pickle=False)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"pyarrow can't be imported ({error}): {install('pyarrow')}, or write a .npy file.") from None
    return pyarrow


def _parquet(embeddings: Embeddings) -> bytes:
    pyarrow, rows = _pyarrow(), np.ascontiguousarray(embeddings.rows)
    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])
    # A name whose bytes are no text can't stand in Parquet as it is.
    files = [name.encode("utf-8", "backslashreplace").decode() for name in embeddings.files]
    facts = json.dumps({"schema": SCHEMA, **embeddings.origin._asdict()}).encode()
    table = pyarrow.table({"file": pyarrow.array(files, pyarrow.string()), "embedding": values})
    content = io.BytesIO()
    # Dictionaries and statistics of floats that are all different only cost.
    pyarrow.parquet.write_table(
        table.replace_schema_metadata({_KEY: facts}), content, use_dictionary=False, write_statistics=["file"]
    )
    return content.getvalue()


def _read_parquet(path: Path) -> Tuple[Dict[str, Any], List[str], np.ndarray]:
    pyarrow = _pyarrow()
    table = pyarrow.parquet.read_table(path)
    facts = json.loads((table.schema.metadata or {})[_KEY])
    column = table.column("embedding").combine_chunks()
    column = column.chunk(0) if isinstance(column, pyarrow.ChunkedArray) else column
    rows = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return facts, table.column("file").to_pylist(), rows
