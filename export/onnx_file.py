"""A third-party ONNX file as one graph in memory: weights that lie in a file beside it are read, and nothing else is."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import helper

from export.graphs import graphs_of, sort_nodes
from runtime.artifacts.onnx_metadata import external_files, without_metadata
from runtime.errors import UserError

_MOST_BYTES = 2 << 30  # of a graph with its weights: what protobuf holds


def read_onnx(path: Path) -> onnx.ModelProto:
    """The graph in `path` with all of its weights, and without metadata.

    Weights may lie in other files, as torch.onnx.export writes them by default, if those are plain files in the same folder: a
    path, a link or a size that does not fit is refused, since a name like ../../key would have any file of this machine read.
    Raises UserError.
    """
    try:
        model = onnx.load_from_string(without_metadata(path))
    except UserError:
        raise
    except Exception as error:  # protobuf's and onnx's have no common base
        raise UserError(f"{path} can't be read as ONNX: {str(error).splitlines()[0]}") from None
    names = external_files(path)
    if names:
        files = {name: _beside(path, name) for name in names}
        if sum(file.stat().st_size for file in files.values()) > _MOST_BYTES:
            raise UserError(
                f"{path} has more than {_MOST_BYTES >> 30} GB of weights: no ONNX file that is whole can hold them."
            )
        for tensor in _tensors(model.graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _take_in(tensor, files, path)
        if external_files(path, io.BytesIO(model.SerializeToString())):
            raise UserError(
                f"{path} keeps weights of a function or a sparse tensor in another file: save it as one file."
            )
    if model.functions:  # torch's newer exporter writes them
        model = onnx.inliner.inline_local_functions(model)
    model.ir_version = max(model.ir_version, 4)  # weights that are no inputs
    sort_nodes(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:  # as some exporters write an open one
                dim.Clear()
    return model


def files_of(path: Path) -> list[Path]:
    """`path` and the files beside it that hold its weights. Raises UserError as `read_onnx` does."""
    return [path, *(_beside(path, name) for name in external_files(path))]


def _beside(path: Path, name: str) -> Path:
    """The file `name` in the folder of `path`, if it is harmless to read."""
    plain = name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"} and not os.path.isabs(name)
    file = path.parent / name if plain else path
    try:
        regular = plain and stat.S_ISREG(os.lstat(file).st_mode)
    except OSError as error:
        raise UserError(
            f"{path} keeps weights in another file ({name}), which can't be read: {error.strerror}."
        ) from None
    if not regular:
        raise UserError(
            f"{path} keeps weights in another file ({name}), and only a plain file in the same folder is read: save it as one "
            "file (onnx.save with save_as_external_data=False)."
        )
    return file


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for inner in graphs_of(graph):
        yield from inner.initializer
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for each in (attribute.g, *attribute.graphs):
                    yield from each.initializer  # of a graph without nodes


def _take_in(tensor: onnx.TensorProto, files: dict[str, Path], path: Path) -> None:
    """The bytes of `tensor` from its file."""
    held = {entry.key: entry.value for entry in tensor.external_data}
    file = files[held["location"]]
    try:
        wanted = int(np.prod(tensor.dims, dtype=object)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        offset, length = int(held.get("offset") or 0), int(held.get("length") or wanted)
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} is damaged: where {tensor.name} lies in {file.name} can't be read.") from None
    if length != wanted or min(offset, length) < 0 or offset + length > file.stat().st_size:
        raise UserError(
            f"{path} and {file.name} do not belong together: {tensor.name} should lie at bytes {offset} to {offset + length} of "
            f"{file.stat().st_size}, and has {wanted}. Fetch or save both again."
        )
    with open(file, "rb") as opened:
        opened.seek(offset)
        tensor.raw_data = opened.read(length)
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
