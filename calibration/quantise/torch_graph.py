"""An exported network run by torch, with the roundings of int8 in the forward pass and gradients that pass through them.

The gradient of rounding is taken to be one within the range and none outside (Bengio et al., "Estimating or propagating
gradients through stochastic neurons", 2013).

Of the scales, only the weights' are learned. The activations' (Esser et al., "Learned step size quantization", ICLR 2020)
were tried and gave nothing: calibration has searched them at the logits already, and moving one does harm that no
gradient tells of, where much of a map is nearly one value (zero behind a gate, 0 and 6 behind a ReLU6), whose rounding error
the bias made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.collect.ranges import LEVELS, Range, half_precision
from calibration.layer_graph import Layer, LayerGraph
from calibration.quantise.blocks import depthwise_end
from calibration.quantise.placement import Quantised
from calibration.quantise.prepare import Prepared
from runtime.errors import UserError

# Beyond it a weight would start on the far side of a rounding threshold from where calibration put it.
_NEAR = 0.49


class TorchGraph(nn.Module):
    """`prepared`'s network from float32 [n, 3, H, W] to logits, its layers in INT8 but for those `kept`. What was equalised
    is only seen once it is settled.

    Learned are, of each layer in int8: weights in levels, the bias, and the logarithms of the weights' scales. It begins
    with just the integers that calibration chose, and a scale that moves leaves them be: else all weights would be rounded
    anew, and what calibration won by their rounding be lost.
    """

    def __init__(self, prepared: Prepared, kept: Collection[str] = ()) -> None:
        super().__init__()
        self.network = network = prepared.network
        if missing := missing_operators(network):
            raise UserError(f"QAT=1 can't train this network: its {', '.join(missing)} have no way through torch here.")
        exact_weights = {**network.weights, **(prepared.floats or {})}
        self.layers = {name: network.layer(name) for name in prepared.layers if name not in kept}
        self._index = {name: str(i) for i, name in enumerate(self.layers)}  # a parameter's name has no dots
        self.weights, self.biases, self.steps = (nn.ParameterDict() for _ in range(3))
        self._scales: dict[str, Tensor] = {}
        self._units: dict[str, Tensor] = {}
        self._biases_before: dict[str, Tensor] = {}
        self._ranges = {name: prepared.layers[name].range for name in self.layers}  # and of identities, by residual
        for name, index in self._index.items():
            quantised, layer = prepared.layers[name], self.layers[name]
            exact = exact_weights[layer.weight] / _by_output(quantised.scale, quantised.weight.ndim)
            rest = np.clip(exact - quantised.weight, -_NEAR, _NEAR)
            self.weights[index] = nn.Parameter(torch.from_numpy(quantised.weight + rest).float())
            self.steps[index] = nn.Parameter(torch.zeros(len(quantised.scale)))
            self.biases[index] = nn.Parameter(torch.zeros(len(quantised.scale)))
            self._scales[index] = torch.from_numpy(np.array(quantised.scale))
            # a bias moves in units of what one level of the input and one of the weight make of each other, times 127
            self._units[index] = self._scales[index] * quantised.range.scale * LEVELS
            self._biases_before[index] = torch.from_numpy(np.array(quantised.bias))
        ends = {residual.branch: residual for residual in network.residuals}
        self._identities = {ends[name].name: ends[name].identity for name in self.layers if name in ends}
        self._identities = {name: tensor for name, tensor in self._identities.items() if name in prepared.identities}
        self._ranges.update({name: prepared.identities[name] for name in self._identities})
        chained = {name: found for name, found in prepared.outputs.items() if name in self.layers}
        self._ends = {depthwise_end(network, self.layers[name]): name for name in chained}  # tensor -> depthwise layer
        self._ranges.update({f"{name} output": found for name, found in chained.items()})
        self._constants = {
            name: torch.from_numpy(np.array(value, np.float32))
            for name, value in exact_weights.items()
            if value.dtype.kind == "f"
        }

    def forward(self, images: Tensor, observe: Callable[[str, Tensor], Tensor] = lambda name, value: value) -> Tensor:
        """Logits float32 [n, classes]. `observe` is given each tensor as it is made, by name, and hands it on."""
        images = images.contiguous(memory_format=torch.channels_last)  # 1.7 times as fast on a CPU
        values: dict[str, Tensor] = {self.network.input: images}
        rounded: dict[tuple[str, Range], Tensor] = {}

        def quantised(user: str, tensor: str) -> Tensor:
            """`tensor` behind the Q/DQ pair that `user` reads; users with the same range share it."""
            key = tensor, self._ranges[user]
            if key not in rounded:
                rounded[key] = _rounded(values[tensor], self._ranges[user])
            return rounded[key]

        left = {name: len(users) for name, users in self.network.consumers.items()}
        for node in self.network.model.graph.node:
            if node.name in self.layers:
                layer, index = self.layers[node.name], self._index[node.name]
                whole = _rounded(self.weights[index], Range(1.0))
                weight = whole * _by_output(self._scale(index), whole.ndim)
                bias = self._biases_before[index] + self.biases[index] * self._units[index]
                result = _multiplied(layer, quantised(node.name, layer.input), weight, bias)
            elif node.op_type in ("Conv", "Gemm"):
                layer = self.network.layer(node.name)
                constant = self._constants
                result = _multiplied(layer, values[layer.input], constant[layer.weight], constant.get(layer.bias))
            elif node.name in self._identities:
                identity = self._identities[node.name]
                other = next(name for name in node.input if name != identity)
                result = quantised(node.name, identity) + values[other]
            elif node.op_type == "Constant":
                continue
            else:
                inputs = [
                    quantised(f"{self._ends[name]} output", name) if name in self._ends else values[name]
                    for name in node.input
                    if name in values
                ]
                result = _OPERATORS[node.op_type](self, node, inputs)
            values[node.output[0]] = observe(node.output[0], result)
            for name in node.input:  # else every map of the network is kept twice
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
        return values[self.network.output]

    def quantised(self, prepared: Prepared) -> dict[str, Quantised]:
        """Layers as `calibration.quantise.placement.quantised_graph` takes them, as they are now."""
        layers: dict[str, Quantised] = {}
        with torch.no_grad():
            for name, index in self._index.items():
                weight = self.weights[index].round().clamp(-LEVELS, LEVELS).to(torch.int8).numpy()
                bias = (self._biases_before[index] + self.biases[index] * self._units[index]).numpy()
                scale = self._scale(index).numpy()
                layers[name] = replace(prepared.layers[name], weight=weight, scale=scale, bias=bias)
        return layers

    def _scale(self, index: str) -> Tensor:
        """The weights' scales, [outputs]: such as FP16 holds."""
        scale = self._scales[index] * torch.exp(self.steps[index])
        return scale + (torch.from_numpy(half_precision(scale.detach().numpy())) - scale).detach()


def missing_operators(network: LayerGraph) -> list[str]:
    """The operators of `network` that torch has no way through here."""
    known = {*_OPERATORS, "Conv", "Gemm", "Constant"}
    unfit = {layer.op for layer in network.layers if layer.unfit}
    return sorted({node.op_type for node in network.model.graph.node if node.op_type not in known} | unfit)


def _rounded(values: Tensor, chosen: Range) -> Tensor:
    if not chosen.offset:
        return torch.fake_quantize_per_tensor_affine(values, chosen.scale, 0, -LEVELS, LEVELS)
    moved = torch.fake_quantize_per_tensor_affine(values + chosen.offset, chosen.scale, 0, -LEVELS, LEVELS)
    return moved - chosen.offset


def _by_output(values: Any, dimensions: int) -> Any:
    """[outputs] as it broadcasts along a weight's first axis; a scalar as it is."""
    return values.reshape(-1, *[1] * (dimensions - 1)) if values.ndim else values


def _multiplied(layer: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if layer.op == "Gemm":
        return functional.linear(values, weight, bias)
    top, left, bottom, right = layer.pads
    if (top, left) == (bottom, right):
        return functional.conv2d(values, weight, bias, layer.stride, (top, left), 1, layer.groups)
    return functional.conv2d(
        functional.pad(values, (left, right, top, bottom)), weight, bias, layer.stride, 0, 1, layer.groups
    )


def _mean(graph: TorchGraph, node: onnx.NodeProto, inputs: list[Tensor]) -> Tensor:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return inputs[0].mean(tuple(attributes["axes"]), keepdim=bool(attributes.get("keepdims", 1)))


def _clip(graph: TorchGraph, node: onnx.NodeProto, inputs: list[Tensor]) -> Tensor:
    low, high = (graph.network.constant(name) for name in node.input[1:3])
    return inputs[0].clamp(low, high)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _max_pool(graph: TorchGraph, node: onnx.NodeProto, inputs: list[Tensor]) -> Tensor:
    given = _attributes(node)
    top, left, bottom, right = given.get("pads", [0] * 4)
    padded = functional.pad(inputs[0], (left, right, top, bottom), value=float("-inf"))
    return functional.max_pool2d(
        padded,
        given["kernel_shape"],
        given.get("strides", [1, 1]),
        0,
        given.get("dilations", [1, 1]),
        bool(given.get("ceil_mode", 0)),
    )


def _hard_sigmoid(graph: TorchGraph, node: onnx.NodeProto, inputs: list[Tensor]) -> Tensor:
    given = _attributes(node)
    return (inputs[0] * given.get("alpha", 0.2) + given.get("beta", 0.5)).clamp(0, 1)


_OPERATORS: Mapping[str, Any] = {
    "Add": lambda graph, node, inputs: inputs[0] + inputs[-1],
    "Mul": lambda graph, node, inputs: inputs[0] * inputs[-1],
    "Sigmoid": lambda graph, node, inputs: inputs[0].sigmoid(),
    "Relu": lambda graph, node, inputs: inputs[0].relu(),
    "Identity": lambda graph, node, inputs: inputs[0],
    "Flatten": lambda graph, node, inputs: inputs[0].flatten(1),
    "GlobalAveragePool": lambda graph, node, inputs: inputs[0].mean((2, 3), keepdim=True),
    "ReduceMean": _mean,
    "Clip": _clip,
    "MaxPool": _max_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda graph, node, inputs: functional.hardswish(inputs[0]),
}  # of what exported networks are made of, besides Conv and Gemm
