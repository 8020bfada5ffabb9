"""What a builder made of a network: a row for each kernel, read from what TensorRT tells about it.

There are two readers: `from_log` for the list that TensorRT-RTX logs while it builds, without a GPU, and `from_json` for what
TensorRT's engine inspector tells of a loaded engine. Bytes are those of the tensors' elements, of one image; padding that a
layout adds is not counted.
"""

from __future__ import annotations

import json
import re
from math import prod
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

# Bytes of an element, by the word that names the type: in a sentence ("Row major linear FP32") or alone ("Half").
_TYPES = (
    (r"u?int8|bool|fp8", 1),
    (r"half|fp16|bf16|bfloat16", 2),
    (r"int64", 8),
    (r"float|fp32|int32", 4),
)
_PRECISIONS = {1: "int8", 2: "fp16", 4: "fp32"}
_NOT_KERNELS = {"shape_call", "noop", "constant", "signal", "wait", "trainstation"}
# Of a kernel that TensorRT compiles, the operators are in its name. One tensor in, and nothing but these: it was only converted.
_CONVERTING = {"Cast", "Mul", "Div", "Min", "Max", "Roun", "Repl", "Conc", "Resh", "Move", "Tran"}
_LINE = re.compile(
    r"Name: (?P<Name>.*), LayerType: (?P<LayerType>\w+), Inputs: \[(?P<Inputs>.*)\], Constants: \[(?P<Constants>.*)\], "
    r"Outputs: \[(?P<Outputs>.*)\], TacticName: (?P<TacticName>.*?), StreamId: -?\d+, Metadata: ?(?P<Metadata>.*)"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<Dimensions>[-\d,]*)\].*?Datatype: (?P<Datatype>\w+)")


class Layer(NamedTuple):
    """One kernel."""

    name: str
    kind: str  # TensorRT's word for it
    nodes: Tuple[str, ...]  # of the ONNX graph that are in it, whole or in part
    read: int  # bytes of activations
    written: int
    weights: int  # bytes of constants that it reads
    precision: str  # "int8", "fp16" or "fp32", of its weights; "" where it multiplies by none
    reformat: bool  # changes the type or the layout of one tensor, and nothing else
    macs: int = 0
    milliseconds: Optional[float] = None  # where it was run

    @property
    def activations(self) -> int:
        return self.read + self.written


class Cost(NamedTuple):
    """A whole engine. Bytes are of one image."""

    kernels: int
    activation_bytes: int
    weight_bytes: int
    int8_macs: float  # share of the MACs
    reformats: int
    milliseconds: Optional[float]  # sum over the layers, each by itself

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Cost:
        macs = sum(layer.macs for layer in layers)
        times = [layer.milliseconds for layer in layers if layer.milliseconds is not None]
        return cls(
            len(layers),
            sum(layer.activations for layer in layers),
            sum(layer.weights for layer in layers),
            round(sum(layer.macs for layer in layers if layer.precision == "int8") / macs, 4) if macs else 0.0,
            sum(layer.reformat for layer in layers),
            sum(times) if times else None,
        )


def from_log(message: str, macs: Mapping[str, int]) -> List[Layer]:
    """The rows of TensorRT-RTX's list. `macs`: of the nodes, for one image. Raises ValueError for types that are not known."""
    found = []
    for line in message.splitlines():
        match = _LINE.match(line)
        if match:
            told: Dict[str, Any] = match.groupdict()
            for side in ("Inputs", "Constants", "Outputs"):
                told[side] = [_parsed(tensor) for tensor in _TENSOR.finditer(told[side])]
            found.append(told)
    return _layers(found, macs, 1)


def from_json(
    text: str, macs: Mapping[str, int], batch: int, times: Optional[Mapping[str, float]] = None
) -> List[Layer]:
    """The rows of an engine inspector's JSON, told with an execution context whose input holds `batch` images.

    `times`: milliseconds by layer. Raises ValueError where it tells no more than names (an engine that was not built with
    ProfilingVerbosity.DETAILED), or nothing of the types.
    """
    told = json.loads(text)["Layers"]
    if any(not isinstance(layer, dict) for layer in told):
        raise ValueError("only the layers' names are there: the engine was built without details")
    layers = _layers(told, macs, batch)
    return [layer._replace(milliseconds=(times or {}).get(layer.name)) for layer in layers]


def _parsed(tensor: Any) -> Dict[str, Any]:
    return {
        "Dimensions": [int(size) for size in tensor["Dimensions"].split(",") if size],
        "Datatype": tensor["Datatype"],
    }


def _layers(told: Iterable[Dict[str, Any]], macs: Mapping[str, int], batch: int) -> List[Layer]:
    layers = [_layer(each, batch) for each in told if each.get("LayerType", "").lower() not in _NOT_KERNELS]
    sharing: Dict[str, Set[int]] = {}  # a node may be spread over several kernels: those that multiply do its MACs
    for at, layer in enumerate(layers):
        if layer.precision:
            for node in layer.nodes:
                sharing.setdefault(node, set()).add(at)
    done = [0.0] * len(layers)
    for node, places in sharing.items():
        for at in places:
            done[at] += macs.get(node, 0) / len(places)
    return [layer._replace(macs=round(count)) for layer, count in zip(layers, done)]


def _layer(told: Dict[str, Any], batch: int) -> Layer:
    inputs, outputs = told.get("Inputs", []), told.get("Outputs", [])
    constants = [(prod(each["Dimensions"]), _width(each), each["Dimensions"]) for each in told.get("Constants", [])]
    for key in ("Weights", "Bias"):  # of convolutions that no compiler fused: only their number is told
        if isinstance(told.get(key), dict) and told[key].get("Count"):
            size = int(told[key]["Count"])
            constants.append((size, _width({"Datatype": told[key]["Type"]}), [size, 2] if key == "Weights" else [size]))
    matrices = [(count, width) for count, width, dims in constants if sum(size > 1 for size in dims) > 1]
    return Layer(
        name=told["Name"],
        kind=told["LayerType"],
        nodes=_nodes(told),
        read=sum(_bytes(tensor, batch) for tensor in inputs),
        written=sum(_bytes(tensor, batch) for tensor in outputs),
        weights=sum(count * width for count, width, _ in constants),
        precision=_PRECISIONS.get(max(matrices)[1], "") if matrices else "",
        reformat=told["LayerType"] == "Reformat" or len(inputs) == 1 and _only_converts(told["Name"]),
    )


def _nodes(told: Dict[str, Any]) -> Tuple[str, ...]:
    found = re.findall(r"\[ONNX Layer: ([^\]\x1e\x1f]*)\]", told.get("Metadata") or "")
    if not found:  # before 10.0 the names of fused layers are joined
        found = re.split(r" \+ |PWN\(|[,)] ?", told["Name"])
    return tuple(dict.fromkeys(name for name in found if name))


def _only_converts(name: str) -> bool:
    found = re.fullmatch(r"__myl_((?:[A-Z][a-z]+)+)_myl\d+_\d+", name)
    operators = set(re.findall(r"[A-Z][a-z]+", found[1])) if found else set()
    return bool(operators & {"Cast", "Move", "Tran", "Repl"}) and operators <= _CONVERTING


def _bytes(tensor: Dict[str, Any], batch: int) -> int:
    """Of one image."""
    size: List[int] = tensor["Dimensions"]
    images = batch if size and size[0] == batch else 1
    return prod(max(each, 1) for each in size) // images * _width(tensor)


def _width(tensor: Dict[str, Any]) -> int:
    said = str(tensor.get("Datatype") or tensor.get("Format/Datatype"))
    for words, width in _TYPES:
        if re.search(rf"\b({words})\b", said, re.IGNORECASE):
            return width
    raise ValueError(f"the type of {tensor.get('Name', 'a tensor')} is not told ({said})")
