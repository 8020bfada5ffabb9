"""ONNX files written and changed without the onnx package, which the runtime's tests don't have.

Numbers of fields are onnx.proto's: ModelProto.graph 7; GraphProto.node 1, .name 2, .initializer 5, .input 11, .output 12;
NodeProto.input 1, .output 2, .name 3, .op_type 4, .attribute 5; TensorProto.dims 1, .data_type 2, .name 8, .raw_data 9.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from runtime.images.preprocess import Preprocessing, scale_and_offset

FLOAT, UINT8, HALF = 1, 2, 10  # TensorProto.DataType
_KINDS = {np.float32: FLOAT, np.float16: HALF}
_TYPES = {FLOAT: np.float32, 3: np.int8, HALF: np.float16}


def parts(content: bytes) -> Iterator[Tuple[int, bytes, bytes]]:
    """(number, the whole field, its content) of each field of a protobuf message; content b"" for what has no length."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = content[position]
            position, value, shift = position + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while position < len(content):
        start, tag, held = position, varint(), b""
        if tag & 7 == 2:
            size = varint()
            held = content[position : position + size]
            position += size
        elif tag & 7 == 0:
            varint()
        else:
            position += {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, content[start:position], held


def message(*fields: Tuple[int, Any]) -> bytes:
    """A protobuf message of (number, value): an int, a str, bytes or another message."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    written = []
    for number, value in fields:
        if isinstance(value, int):
            written.append(varint(number << 3) + varint(value))
        else:
            value = value.encode() if isinstance(value, str) else value
            written.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(written)


class Node(NamedTuple):
    name: str
    operator: str
    inputs: List[str]
    outputs: List[str]
    integers: Dict[str, int]  # attributes


def nodes(content: bytes) -> Iterator[Node]:
    """The nodes of a model."""
    for graph in (held for number, _, held in parts(content) if number == 7):
        for index, node in enumerate(held for number, _, held in parts(graph) if number == 1):
            found = {number: held for number, _, held in parts(node)}
            inputs, outputs = ([h.decode() for number, _, h in parts(node) if number == wanted] for wanted in (1, 2))
            attributes = [list(parts(held)) for number, _, held in parts(node) if number == 5]
            integers = {
                each[0][2].decode(): _varints(w[1:])[0] for each in attributes for number, w, _ in each if number == 3
            }
            yield Node(found.get(3, b"").decode() or f"node_{index}", found[4].decode(), inputs, outputs, integers)


def constants(content: bytes) -> Dict[str, np.ndarray]:
    """The initialisers of a model that are of types which quantised graphs have."""
    found = {}
    for graph in (held for number, _, held in parts(content) if number == 7):
        for tensor in (held for number, _, held in parts(graph) if number == 5):
            values = {field: held for field, _, held in parts(tensor)}
            kind = next((whole[-1] for field, whole, _ in parts(tensor) if field == 2), 0)
            if kind in _TYPES and 9 in values:
                found[values.get(8, b"").decode()] = np.frombuffer(values[9], _TYPES[kind]).reshape(_dims(tensor))
    return found


def _dims(tensor: bytes) -> List[int]:
    """Packed, or one by one."""
    return [size for field, whole, held in parts(tensor) if field == 1 for size in _varints(held or whole[1:])]


def _varints(data: bytes) -> List[int]:
    found, value, shift = [], 0, 0
    for byte in data:
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            found.append(value)
            value = shift = 0
    return found


def value_info(name: str, elements: int, sizes: List[Any]) -> bytes:
    dims = b"".join(message((1, message((1 if isinstance(size, int) else 2, size)))) for size in sizes)
    return message((1, name), (2, message((1, message((1, elements), (2, dims))))))


def tensor(name: str, values: np.ndarray) -> bytes:
    """A float32 initialiser."""
    return message(*((1, size) for size in values.shape), (2, FLOAT), (8, name), (9, values.astype("<f4").tobytes()))


def node(operator: str, inputs: List[str], result: str, *attributes: bytes, name: str = "") -> bytes:
    return message(
        *((1, each) for each in inputs), (2, result), (3, name or result), (4, operator), *((5, a) for a in attributes)
    )


def cast(source: str, result: str, elements: int) -> bytes:
    return node("Cast", [source], result, message((1, "to"), (3, elements), (20, 2)))


def transpose(source: str, result: str, order: List[int]) -> bytes:
    return node("Transpose", [source], result, message((1, "perm"), *((8, axis) for axis in order), (20, 7)))


def tiny_onnx(side: int = 4, classes: int = 5, output: Any = np.float32) -> bytes:
    """A model images float32 [N, 3, side, side] -> logits [N, classes] in `output` (float32 or float16): a dense layer."""
    weights = np.random.default_rng(0).standard_normal((3 * side * side, classes)).astype(np.float32)
    graph = message(
        (1, node("Flatten", ["images"], "flat")),
        (1, node("MatMul", ["flat", "weights"], "dense")),
        (1, cast("dense", "logits", _KINDS[output])),
        (2, "tiny"),
        (5, tensor("weights", weights)),
        (11, value_info("images", FLOAT, ["N", 3, side, side])),
        (12, value_info("logits", _KINDS[output], ["N", classes])),
    )
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 17))))


def small_network(
    side: int = 224, classes: int = 1000, red: int = 264, blue: int = 437, rounded: Any = np.float32
) -> bytes:
    """A model images float32 [N, 3, side, side] -> logits [N, classes] of two convolutions and a dense layer. Class `red` is
    right for an image that is redder than it is blue, as the corgi of tests/data, and `blue` for one like the lighthouse. The
    dense layer's weights are `rounded` to what that type can hold."""
    random = np.random.default_rng(0)
    stem = np.zeros((8, 3, 8, 8), np.float32)  # the first three channels are the means of patches
    stem[range(3), range(3)] = 1 / 64
    stem[3:] = random.standard_normal((5, 3, 8, 8)) / 64
    project = np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1)
    weights = random.standard_normal((8, classes)).astype(np.float32)
    weights[:, [red, blue]] = 0
    weights[[0, 2], red], weights[[0, 2], blue] = (79.97, -79.97), (-79.97, 79.97)  # not in FP16
    weights = weights.astype(rounded).astype(np.float32)
    biases = np.zeros(classes, np.float32)
    biases[[red, blue]] = -5, 5
    strides = message((1, "strides"), (8, 8), (8, 8), (20, 7))
    graph = message(
        (1, node("Conv", ["images", "stem"], "/stem/conv/Conv", strides)),
        (1, node("Conv", ["/stem/conv/Conv", "project"], "/project/conv/Conv")),
        (1, node("GlobalAveragePool", ["/project/conv/Conv"], "pooled")),
        (1, node("Flatten", ["pooled"], "flat")),
        (1, node("Gemm", ["flat", "weights", "biases"], "logits", name="/classifier/Gemm")),
        (2, "small"),
        *(
            (5, tensor(*each))
            for each in (("stem", stem), ("project", project), ("weights", weights), ("biases", biases))
        ),
        (11, value_info("images", FLOAT, ["N", 3, side, side])),
        (12, value_info("logits", FLOAT, ["N", classes])),
    )
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 17))))


def taking_pixels(model: bytes, recipe: Preprocessing, wrong_order: bool = False) -> bytes:
    """`model`, whose only input is "images", behind what export.pixels puts in front: "pixels" uint8 [N, S, S, 3].

    `wrong_order`: transposed before it is cast, which TensorRT refuses.
    """
    first = [cast("pixels", "float", FLOAT), transpose("float", "planes", [0, 3, 1, 2])]
    if wrong_order:
        first = [transpose("pixels", "turned", [0, 3, 1, 2]), cast("turned", "planes", FLOAT)]
    front = [*first, node("Mul", ["planes", "scale"], "scaled"), node("Add", ["scaled", "offset"], "images")]
    side = recipe.resolution
    changed = b""
    for number, whole, held in parts(model):
        if number == 7:
            rest = b"".join(whole for number, whole, _ in parts(held) if number != 11)
            values = zip(("scale", "offset"), scale_and_offset(recipe))
            more = [(5, tensor(name, value.reshape(1, 3, 1, 1))) for name, value in values]
            pixels = value_info("pixels", UINT8, ["N", side, side, 3])
            whole = message((7, message(*((1, each) for each in front)) + rest + message(*more, (11, pixels))))
        changed += whole
    return changed
