"""Surgery on ONNX graphs, for export and calibration: looking things up, renaming, cutting, running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

# Which input of an operator is the weights, in all the forms that quantisers leave behind.
WEIGHTS_AT = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "FusedConv"), 1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), 1),
}
_NUMBERS = (
    *(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16),
    *(onnx.TensorProto.INT8, onnx.TensorProto.UINT8),
)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators; 0 where a file names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and those in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from graphs_of(inner)


def free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor in `graph`."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for inner in graphs_of(graph):
        found.update(name for node in inner.node for name in (*node.input, *node.output))
    return found


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """The tensor `old` is called `new` wherever it is made or used; graph inputs and outputs keep their names."""
    for inner in graphs_of(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
        for tensor in inner.initializer:
            if tensor.name == old:
                tensor.name = new


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that also gives the tensors `names`."""
    copy = copied(model)
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return copy


def run_on_cpu(model: onnx.ModelProto | bytes, images: np.ndarray, outputs: Sequence[str] | None = None) -> list[Any]:
    """What onnxruntime computes for `images`, the graph's only input: all outputs, or the tensors named in `outputs`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs) if outputs else None, {session.get_inputs()[0].name: images})


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values of the initialisers and of the Constant nodes that hold a tensor."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in found.items()}


def prune(graph: onnx.GraphProto) -> None:
    """Removes nodes and initialisers that no output needs."""
    makers = {name: node for node in graph.node for name in node.output if name}
    needed, todo = set[str](), [output.name for output in graph.output]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += _uses(makers[name]) if name in makers else []
    for things, names_of in ((graph.node, lambda node: node.output), (graph.initializer, lambda tensor: [tensor.name])):
        kept = [
            type(thing).FromString(thing.SerializeToString())
            for thing in things
            if needed.intersection(names_of(thing))
        ]
        del things[:]
        things.extend(kept)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Every node behind those whose tensors it reads: onnxruntime's FP16 converter appends its Casts, and onnx's tools refuse
    that."""
    made_here = {name for node in graph.node for name in node.output if name}
    there, left, ordered = set[str](), list(graph.node), list[onnx.NodeProto]()
    while left:
        waiting = list[onnx.NodeProto]()
        for node in left:
            if made_here.intersection(_uses(node)) <= there:
                ordered.append(node)
                there.update(node.output)
            else:
                waiting.append(node)
        if len(waiting) == len(left):  # a loop, which onnxruntime will name
            return
        left = waiting
    if ordered == list(graph.node):
        return
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(kept)


def _uses(node: onnx.NodeProto) -> list[str]:
    """What `node` reads, in its inner graphs too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                names += _uses(each)
            names += [output.name for output in inner.output]
    return names


def parameters(model: onnx.ModelProto) -> int:
    """Numbers among the weights; BatchNorm is folded, so its four a channel count as the bias alone. Of a quantised graph, the
    tensors of rank 2 and more: the rest are scales, zero points and biases."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_type in _NUMBERS]
    if any(tensor.data_type in _NUMBERS[-2:] for tensor in tensors):
        tensors = [tensor for tensor in tensors if len(tensor.dims) > 1]
    return sum(int(np.prod(tensor.dims)) for tensor in tensors)


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of convolutions and matrix products with fixed weights, for one image, quantised or not."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes: dict[str, list[int]] = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output, *graph.input)
    }
    shapes.update({name: list(value.shape) for name, value in constants_of(graph).items()})
    fixed, total = set(constants_of(graph)), 0
    for node in graph.node:
        if node.input and all(name in fixed for name in node.input if name):
            fixed.update(node.output)
            _derive_shape(node, shapes)
        at = WEIGHTS_AT.get(node.op_type)
        if at is None or node.input[at] not in fixed:
            continue
        weights, out = shapes.get(node.input[at], []), shapes.get(node.output[0], [])
        if not weights or not all(weights):
            raise ValueError(f"the shape of {node.op_type}'s weights {node.input[at]} is not known")
        places = out[2:] if "Conv" in node.op_type else out[1:-1]
        if "Conv" in node.op_type and not all(places or [0]):
            raise ValueError(f"the size of {node.op_type}'s output {node.output[0]} is not known")
        total += int(np.prod(weights)) * int(np.prod([max(place, 1) for place in places] or [1]))
    return total


def _derive_shape(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> None:
    """The shape of weights behind operators that shape inference does not know, which keep their input's."""
    if node.op_type in ("DequantizeLinear", "QuantizeLinear", "Identity", "Cast"):
        shapes.setdefault(node.output[0], shapes.get(node.input[0], []))


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
