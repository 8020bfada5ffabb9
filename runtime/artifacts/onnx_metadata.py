"""Metadata of ONNX files, read and written without onnx: a device that only runs engines need not have it.

The properties that we write stand at the end of the file, and the last of them is the sha256 of every byte before it,
so that a damaged file is told from a whole one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional, Set, Tuple, Union

from ..errors import UserError
from .no_network import HEAD, refuse_others

# Field numbers of onnx.proto's ModelProto and StringStringEntryProto.
_GRAPH, _METADATA, _KEY, _VALUE = 7, 14, 1, 2
_NODE, _OP_TYPE = 1, 4  # of GraphProto and NodeProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DIGEST_KEY = "sha256"

# Operators that only a quantised graph has.
QUANTISED = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv"),
    *("QLinearMatMul", "QLinearAdd", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention"),
}

# Beyond these a file is made to be expensive: ours have 20 fields, and 100 kB of metadata with the names of 1,000 classes.
_MOST_FIELDS, _MOST_METADATA = 100_000, 64 << 20

# Where messages of onnx.proto hold further ones, down to TensorProto: field -> message.
_NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA = 13  # of TensorProto
_DEEPEST = 32  # graphs within graphs; protobuf itself stops at 100 messages


def read_metadata(path: Union[str, Path]) -> Dict[str, str]:
    """Every metadata property of the ONNX file `path`. Raises UserError if it can't be read or is not ONNX."""
    with _opened(path) as file:
        size, metadata, graph = os.fstat(file.fileno()).st_size, {}, False
        held = 0
        for field, start, end in _fields(file, size, path):
            graph = graph or field == _GRAPH
            if field == _METADATA:
                held += end - start
                if held > _MOST_METADATA:
                    raise UserError(f"{path} has more than {_MOST_METADATA >> 20} MB of metadata: no artifact has.")
                file.seek(start)
                key, value = _entry(file.read(end - start), path)
                metadata[key] = value
    if not graph:
        raise UserError(f"{path} is not an ONNX file.")
    return metadata


def verify(path: Union[str, Path]) -> str:
    """The sha256 of the artifact's bytes, after comparing it with the one written at its end.

    Raises UserError if they differ (the file was damaged, or changed by another program, since it was written), or as
    `require_one_file` does.
    """
    with _opened(path) as file:
        fields = deque(_fields(file, os.fstat(file.fileno()).st_size, path), maxlen=1)
        last = fields.pop() if fields else (0, 0, 0)
        if last[0] != _METADATA:
            raise UserError(
                f"{path} does not end with its checksum: it was not written by this project, or changed since."
            )
        file.seek(last[1])
        key, written = _entry(file.read(last[2] - last[1]), path)
        body = last[1] - len(_varint(last[2] - last[1])) - 1
        file.seek(0)
        digest, left = hashlib.sha256(), body
        while left > 0:
            chunk = file.read(min(left, 1 << 20))
            digest.update(chunk)
            left -= len(chunk)
    if key != _DIGEST_KEY or digest.hexdigest() != written:
        raise UserError(f"{path} is damaged: its checksum does not fit. Make it again.")
    require_one_file(path)
    return written


def require_one_file(path: Union[str, Path]) -> None:
    """Raises UserError if the ONNX file `path` keeps weights in other files, or is damaged above its tensors.

    A name like /etc/shadow or ../../key is enough to have a runtime read that file (onnxruntime 1.19 does, later ones still read
    what lies beside the model), so no library gets to see such a file. Artifacts are one file each.
    """
    for name in external_files(path):
        raise UserError(
            f"{path} keeps weights in another file ({name}), and only ONNX files that are whole are loaded: save it as "
            f"one file (onnx.save with save_as_external_data=False), or 'make export ONNX={path}'."
        )


def external_files(path: Union[str, Path], content: Optional[BinaryIO] = None) -> List[str]:
    """Names of the other files in which the ONNX file `path` (or `content`, which was read from it) says that its weights lie.
    Raises UserError if it can't be read, or is damaged above its tensors."""
    with _opened(path) if content is None else contextlib.nullcontext(content) as file:
        # The one key that external data can't do without; a search runs at the disk's speed, and nearly no file has it.
        tail = b""
        while True:
            chunk = file.read(1 << 20)
            if b"location" in tail + chunk[:16] or b"location" in chunk:
                break
            if not chunk:
                return []
            tail = chunk[-16:]
        return list(dict.fromkeys(_external(file, "model", 0, file.seek(0, os.SEEK_END), path, 0)))


def operators_of(path: Union[str, Path]) -> Set[str]:
    """Names of the operators in the graph of the ONNX file `path`, without those in branches and loops."""
    found = set()
    with _opened(path) as file:
        for field, start, end in _fields(file, os.fstat(file.fileno()).st_size, path):
            for part, first, last in _fields(file, end, path, start) if field == _GRAPH else ():
                for inner, begin, stop in _fields(file, last, path, first) if part == _NODE else ():
                    if inner == _OP_TYPE:
                        file.seek(begin)
                        found.add(file.read(min(stop - begin, 100)).decode("utf-8", "replace"))
    return found


def without_metadata(path: Union[str, Path]) -> bytes:
    """The ONNX file `path` without its metadata properties: those of another project could be taken for ours."""
    with _opened(path) as file:
        content, kept, last = file.read(), [], 0
        for field, _start, end in _fields(file, len(content), path):
            if field != _METADATA:
                kept.append(content[last:end])
            last = end
    return b"".join(kept)


def _external(file: BinaryIO, message: str, start: int, end: int, path: Any, depth: int) -> Iterator[str]:
    """Names of the other files that tensors in `file`'s bytes `start` to `end` refer to."""
    if depth > _DEEPEST:
        raise UserError(f"{path} nests graphs more than {_DEEPEST} deep: no network does.")
    for field, first, last in _fields(file, end, path, start):
        inner = _NESTED.get(message, {}).get(field)
        if inner:
            yield from _external(file, inner, first, last, path, depth + (inner == "graph"))
        elif message == "tensor" and field == _EXTERNAL_DATA and last - first < _MOST_METADATA:
            file.seek(first)
            key, value = _entry(file.read(last - first), path)
            if key == "location":
                yield value


def with_metadata(model: bytes, metadata: Mapping[str, str]) -> Tuple[bytes, str]:
    """`model` (a serialised ModelProto without metadata) with `metadata` and their checksum at the end; and the checksum.

    Needs no protobuf library: concatenated messages are one message, and repeated fields add up.
    """
    body = model + b"".join(_encoded(key, value) for key, value in metadata.items())
    digest = hashlib.sha256(body).hexdigest()
    return body + _encoded(_DIGEST_KEY, digest), digest


# The few rules of protobuf's wire format that are needed here.


@contextlib.contextmanager
def _opened(path: Union[str, Path]) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            refuse_others(path, file.read(HEAD))
            file.seek(0)
            yield file
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None


def _fields(file: BinaryIO, size: int, path: Any, position: int = 0) -> Iterator[Tuple[int, int, int]]:
    """(number, start, end) of the content of each field of the message from `position` to `size`, skipping over it."""
    count = 0
    while position < size:
        count += 1
        if count > _MOST_FIELDS:
            raise UserError(f"{path} has more than {_MOST_FIELDS} fields: it is no network, or is damaged.")
        file.seek(position)
        head = file.read(20)  # a tag and a length are at most ten bytes each
        tag, used = _read_varint(head, 0, path)
        wire = tag & 7
        if wire == _BYTES:
            length, used = _read_varint(head, used, path)
        elif wire == _VARINT:
            start = used
            _, used = _read_varint(head, used, path)
            length, used = used - start, start
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise UserError(f"{path} is not an ONNX file, or is damaged.")
        start, position = position + used, position + used + length
        if tag >> 3 == 0 or position > size:
            raise UserError(f"{path} is not an ONNX file, or is cut short.")
        yield tag >> 3, start, position


def _entry(content: bytes, path: Any) -> Tuple[str, str]:
    """Key and value of a serialised StringStringEntryProto."""
    texts, position = {_KEY: "", _VALUE: ""}, 0
    while position < len(content):
        tag, position = _read_varint(content, position, path)
        length, position = _read_varint(content, position, path)
        if tag & 7 != _BYTES or position + length > len(content):
            raise UserError(f"{path} has damaged metadata.")
        texts[tag >> 3] = content[position : position + length].decode("utf-8", "replace")
        position += length
    return texts[_KEY], texts[_VALUE]


def _read_varint(content: bytes, position: int, path: Any) -> Tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise UserError(f"{path} is not an ONNX file, or is damaged.")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encoded(key: str, value: str) -> bytes:
    """One metadata property as it stands in a serialised ModelProto."""
    fields = b""
    for number, text in ((_KEY, key), (_VALUE, value)):
        content = text.encode("utf-8", "backslashreplace")  # a file's name may hold bytes that are no text
        fields += _varint(number << 3 | _BYTES) + _varint(len(content)) + content
    return _varint(_METADATA << 3 | _BYTES) + _varint(len(fields)) + fields
