"""The graph with its Q/DQ pairs.

Activations are INT8 with one scale and zero point 0, weights INT8 with one scale an output channel; biases are not quantised,
and nothing stands between a Conv and its activation: what TensorRT fuses and rounds itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.collect.ranges import Range, half_precision
from calibration.layer_graph import Layer, LayerGraph
from calibration.quantise.blocks import depthwise_end


@dataclass(frozen=True)
class Quantised:
    """A layer in int8: range of its input, its weights, and the bias that goes with both."""

    range: Range
    weight: np.ndarray  # int8
    scale: np.ndarray  # float32 [outputs]
    bias: np.ndarray  # float32 [outputs], for inputs without the range's offset

    @property
    def floats(self) -> np.ndarray:
        return self.weight * self.scale.reshape(-1, *[1] * (self.weight.ndim - 1))


def offset_site(network: LayerGraph, layer: Layer) -> onnx.NodeProto | None:
    """The node whose output may be moved by a constant in front of `layer` for nothing, if there is one.

    A 1x1 convolution takes the constant off again in its bias, exactly, since it has no padding. The product of a map
    and a squeeze-and-excitation gate is a pointwise kernel already, and the constant one more operand in it; ReLU6
    moves along with its limits (clip(x, 0, 6) + c = clip(x + c, c, 6 + c)) and c goes into the bias of the layer before.
    So a tensor whose values are mostly on one side of zero gets all 255 levels from symmetric int8.
    """
    if layer.op != "Conv" or layer.kernel > 1 or any(layer.pads) or layer.groups > 1:
        return None
    node = network.producers.get(layer.input)
    if node is None or len(network.consumers[layer.input]) > 1:
        return None
    if node.op_type == "Mul" and any(network.shapes.get(name, ())[2:] == (1, 1) for name in node.input):
        return node
    if node.op_type == "Clip" and network.clip_limits(layer.input) is not None:
        conv = network.producers.get(node.input[0])
        alone = len(network.consumers[node.input[0]]) == 1
        if conv is not None and conv.op_type == "Conv" and len(conv.input) == 3 and alone:
            return node
    return None


def quantised_graph(
    network: LayerGraph,
    layers: Mapping[str, Quantised],
    identities: Mapping[str, Range],
    kept: Collection[str] = (),
    outputs: Mapping[str, Range] | None = None,
    floats: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """`network` with `layers` (by name) in INT8 except those `kept`, and Q/DQ on the identity of each Add named in
    `identities` whose branch ends in an INT8 layer. Opset and all else as in the network.

    `outputs`: ranges of what depthwise layers and their activations give, by layer. Whoever reads it reads it behind one
    Q/DQ pair, so that the INT8 kernel can write INT8. `floats`: other weights for layers in higher precision, by name.
    """
    chosen = {name: quantised for name, quantised in layers.items() if name not in kept}
    ends = {
        depthwise_end(network, network.layer(name)): found for name, found in (outputs or {}).items() if name in chosen
    }
    branches = {residual.name: residual for residual in network.residuals}
    placing = _Placing(network)
    for name, value in (floats or {}).items():
        placing.constant(name, value.astype(np.float32))
    for node in list(placing.graph.node):
        quantised = chosen.get(node.name)
        if quantised is not None:
            placing.layer(node, quantised)
        else:
            if node.name in identities and branches[node.name].branch in chosen:
                at = list(node.input).index(branches[node.name].identity)
                node.input[at] = placing.pair(node.input[at], identities[node.name].scale)
            for at, tensor in enumerate(node.input):
                if tensor in ends:
                    node.input[at] = placing.pair(tensor, ends[tensor].scale)
        placing.nodes.append(node)
    return placing.finished()


class _Placing:
    """A network's graph while Q/DQ pairs go into it: `nodes` are those done, in order."""

    def __init__(self, network: LayerGraph) -> None:
        self.network, self.model = network, network.to_model()
        self.graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self._pairs: dict[tuple[str, float], str] = {}
        self._moved: dict[str, float] = {}  # bias -> what a ReLU6 behind it wants added

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        tensor = numpy_helper.from_array(np.asarray(value), name)
        if name in self.constants:
            self.constants[name].CopyFrom(tensor)
        else:
            self.graph.initializer.append(tensor)
            self.constants[name] = self.graph.initializer[-1]
        return name

    def pair(self, tensor: str, scale: float) -> str:
        """Name of `tensor` after a Q/DQ pair; users with the same scale share it."""
        key = (tensor, scale)
        if key not in self._pairs:
            stem = f"{tensor}_int8" + (f"_{n}" if (n := sum(name == tensor for name, _ in self._pairs)) else "")
            names = [self.constant(f"{stem}_scale", np.float32(scale)), self.constant(f"{stem}_zero", np.int8(0))]
            self._add("QuantizeLinear", [tensor, *names], stem, f"{stem}_q")
            self._add("DequantizeLinear", [stem, *names], f"{stem}_dq", f"{stem}_dq")
            self._pairs[key] = f"{stem}_dq"
        return self._pairs[key]

    def layer(self, node: onnx.NodeProto, quantised: Quantised) -> None:
        """Input, weights and bias of `node` in INT8."""
        tensor, bias = node.input[0], quantised.bias
        if offset := quantised.range.offset:
            bias = bias - np.float32(offset) * quantised.floats.reshape(len(bias), -1).sum(1, dtype=np.float64)
            tensor = self._offset(node, offset)
        weight = stem = node.input[1]
        self.constant(weight, quantised.weight)
        names = [
            self.constant(f"{stem}_scale", quantised.scale),
            self.constant(f"{stem}_zero", np.zeros(len(quantised.scale), np.int8)),
        ]
        self._add("DequantizeLinear", [weight, *names], f"{stem}_dq", f"{stem}_dq", axis=0)
        bias_name = node.input[2] if len(node.input) > 2 else f"{node.name}_bias"
        inputs = [
            self.pair(tensor, quantised.range.scale),
            f"{stem}_dq",
            self.constant(bias_name, bias.astype(np.float32)),
        ]
        del node.input[:]
        node.input.extend(inputs)

    def finished(self) -> onnx.ModelProto:
        for name, offset in self._moved.items():
            self.constant(name, numpy_helper.to_array(self.constants[name]) + np.float32(offset))
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        _drop_unused(self.graph)
        return self.model

    def _offset(self, node: onnx.NodeProto, offset: float) -> str:
        """Name of the input of `node` with `offset` added, at its `offset_site`."""
        tensor = node.input[0]
        before = self.network.producers[tensor]
        if before.op_type == "Mul":
            added = self.constant(f"{node.name}_offset", np.float32(offset))
            return self._add("Add", [tensor, added], f"{tensor}_moved", f"{node.name}_offset")
        clip = next(n for n in self.nodes if n.name == before.name)
        for i in (1, 2):
            limit = self.network.constant(clip.input[i])
            clip.input[i] = self.constant(f"{clip.name}_limit_{i}", np.float32(limit + offset))
        self._moved[self.network.producers[clip.input[0]].input[2]] = offset
        return tensor

    def _add(self, op: str, inputs: list[str], output: str, name: str, axis: int | None = None) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name, axis=axis))
        return output


def with_float_depthwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its depthwise layers in higher precision, with the values that their INT8 weights have: what an engine makes
    of it where TensorRT has no INT8 kernel for a depthwise layer with SiLU."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    producers = {name: node for node in copy.graph.node for name in node.output}
    for node in copy.graph.node:
        for at, name in enumerate(node.input):
            pair = producers.get(name)
            if pair is None or pair.op_type != "DequantizeLinear" or pair.input[0] not in producers:
                continue
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            pooled = node.op_type not in ("Conv", "Gemm", "Add")  # reads what a depthwise layer gives
            if (groups > 1 and at == 0) or pooled:
                node.input[at] = producers[pair.input[0]].input[0]
    used = {name for node in copy.graph.node for name in node.input} | {value.name for value in copy.graph.output}
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        for node in [n for n in copy.graph.node if n.op_type == kind and n.output[0] not in used]:
            copy.graph.node.remove(node)
        used = {name for node in copy.graph.node for name in node.input}
    return copy


def share_in_int8(network: LayerGraph, kept: Collection[str]) -> float:
    """Share of the MACs that int8 layers do if all but `kept` are."""
    return 1 - sum(layer.macs for layer in network.layers if layer.name in kept) / network.macs


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    used |= {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type == "Constant" and n.output[0] not in used]:
        graph.node.remove(node)


def with_float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with each int8 weight as float behind a Q/DQ pair: the same values, in a larger file.

    TensorRT 8 reads weights only so ("invalid weights type of Int8" otherwise); later versions take both.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes = []
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            tensor, scale = constants[node.input[0]], numpy_helper.to_array(constants[node.input[1]])
            whole = numpy_helper.to_array(tensor)
            values = whole.astype(np.float32) * scale.reshape(-1, *[1] * (whole.ndim - 1))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            name = f"{tensor.name}_int8"
            nodes.append(helper.make_node("QuantizeLinear", list(node.input), [name], f"{tensor.name}_q", axis=0))
            node.input[0] = name
        nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with FP16 in place of float32, scales included, and a Cast at either end; opset 19, the first that has
    FP16 scales."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    half = onnx.version_converter.convert_version(model, max(opset, 19))
    graph = half.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(half_precision(numpy_helper.to_array(tensor)).astype(np.float16), tensor.name)
            )
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(
                    numpy_helper.from_array(half_precision(numpy_helper.to_array(attribute.t)).astype(np.float16))
                )
    first, last = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {first: f"{first}_fp16", last: f"{last}_fp16"}.get(name, name)
    nodes = [
        helper.make_node("Cast", [first], [f"{first}_fp16"], "cast_in", to=TensorProto.FLOAT16),
        *graph.node,
        helper.make_node("Cast", [f"{last}_fp16"], [last], "cast_out", to=TensorProto.FLOAT),
    ]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(half, full_check=True)
    return half
