"""An exported network run by torch, with the roundings of int8 in the forward pass and gradients that pass through them.

The gradient of rounding is taken to be one within the range and none outside (Bengio et al., "Estimating or propagating
gradients through stochastic neurons", 2013); scales are learned as in Esser et al., "Learned step size quantization",
ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.network import Layer
from calibration.placement import Quantised
from calibration.prepare import Prepared
from calibration.ranges import LEVELS, Range, half_precision

# Beyond it a weight would start on the far side of a rounding threshold from where calibration put it.
_NEAR = 0.49


class TorchGraph(nn.Module):
    """`prepared`'s network from float32 [n, 3, H, W] to logits, its layers in int8 but for those `kept`.

    Learned are, of each layer in int8: weights in levels, the bias, and the logarithms of the weights' scales and of the
    input's. It begins with just the integers that calibration chose, and a scale that moves leaves them be: weights in
    units of their own would all be rounded anew, and what calibration won by their rounding be lost.
    """

    def __init__(self, prepared: Prepared, kept: Collection[str] = ()) -> None:
        super().__init__()
        self.network = network = prepared.network
        self.layers = {name: network.layer(name) for name in prepared.layers if name not in kept}
        self._index = {name: str(i) for i, name in enumerate(self.layers)}  # a parameter's name has no dots
        self.weights, self.biases, self.steps, self.pairs = (nn.ParameterDict() for _ in range(4))
        self._scales: dict[str, Tensor] = {}
        self._units: dict[str, Tensor] = {}
        self._biases_before: dict[str, Tensor] = {}
        self._pair_of: dict[str, tuple[str, float]] = {}  # by layer or residual: (key of `pairs`, offset)
        known: dict[tuple[str, Range], str] = {}
        self._ranges: dict[str, Range] = {}

        def pair(user: str, tensor: str, chosen: Range) -> None:
            """The Q/DQ pair of `tensor`: users with the same range share it, as they do in the graph."""
            key = known.setdefault((tensor, chosen), str(len(known)))
            if key not in self.pairs:
                # A range moves only where it stays harmless: much of what a ReLU6 gives is 0 or 6, and a range that ends
                # just short cuts it all off; with an offset, zero lies anywhere between two levels, and much of a gated
                # map is nearly zero: its rounding error is in the bias already, for this range.
                free = not chosen.offset and network.clip_limits(tensor) is None
                self.pairs[key] = nn.Parameter(torch.zeros(()), requires_grad=free)
                self._ranges[key] = chosen
            self._pair_of[user] = (key, chosen.offset)

        for name, index in self._index.items():
            quantised, layer = prepared.layers[name], self.layers[name]
            exact = network.weights[layer.weight] / _by_output(quantised.scale, quantised.weight.ndim)
            rest = np.clip(exact - quantised.weight, -_NEAR, _NEAR)
            self.weights[index] = nn.Parameter(torch.from_numpy(quantised.weight + rest).float())
            self.steps[index] = nn.Parameter(torch.zeros(len(quantised.scale)))
            self.biases[index] = nn.Parameter(torch.zeros(len(quantised.scale)))
            self._scales[index] = torch.from_numpy(np.array(quantised.scale))
            # a bias moves in units of what one level of the input and one of the weight make of each other, times 127
            self._units[index] = self._scales[index] * quantised.range.scale * LEVELS
            self._biases_before[index] = torch.from_numpy(np.array(quantised.bias))
            pair(name, layer.input, quantised.range)
        ends = {residual.branch: residual for residual in network.residuals}
        self._identities = {ends[name].name: ends[name].identity for name in self.layers if name in ends}
        self._identities = {name: tensor for name, tensor in self._identities.items() if name in prepared.identities}
        for name, tensor in self._identities.items():
            pair(name, tensor, prepared.identities[name])
        self._constants = {
            name: torch.from_numpy(np.array(value))
            for name, value in network.weights.items()
            if value.dtype.kind == "f"
        }

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 [n, classes]."""
        values: dict[str, Tensor] = {self.network.input: images}
        rounded: dict[str, Tensor] = {}

        def quantised(user: str, tensor: str) -> Tensor:
            key, offset = self._pair_of[user]
            if key not in rounded:
                rounded[key] = _Rounded.apply(values[tensor], self._step(key), offset)
            return rounded[key]

        left = {name: len(users) for name, users in self.network.consumers.items()}
        for node in self.network.model.graph.node:
            if node.name in self.layers:
                layer, index = self.layers[node.name], self._index[node.name]
                whole = _Rounded.apply(self.weights[index], torch.ones(()), 0.0)
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
                result = _OPERATORS[node.op_type](self, node, [values[n] for n in node.input if n in values])
            values[node.output[0]] = result
            for name in node.input:  # else every map of the network is kept twice
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
        return values[self.network.output]

    def quantised(self, prepared: Prepared) -> tuple[dict[str, Quantised], dict[str, Range]]:
        """(layers, identities) as `calibration.placement.quantised_graph` takes them, as they are now."""
        layers: dict[str, Quantised] = {}
        with torch.no_grad():
            for name, index in self._index.items():
                weight = self.weights[index].round().clamp(-LEVELS, LEVELS).to(torch.int8).numpy()
                scale = self._scale(index).numpy()
                bias = (self._biases_before[index] + self.biases[index] * self._units[index]).numpy()
                layers[name] = replace(
                    prepared.layers[name], weight=weight, scale=scale, bias=bias, range=self._range(name)
                )
            identities = {name: self._range(name) for name in self._identities}
        return layers, {**prepared.identities, **identities}

    def _range(self, user: str) -> Range:
        key, offset = self._pair_of[user]
        return Range(float(self._step(key).detach()), offset)

    def _step(self, key: str) -> Tensor:
        """Scale of a Q/DQ pair, []: one that FP16 holds."""
        return _held(self._ranges[key].scale * torch.exp(self.pairs[key]))

    def _scale(self, index: str) -> Tensor:
        """The weights' scales, [outputs]: such as FP16 holds."""
        return _held(self._scales[index] * torch.exp(self.steps[index]))


def _held(scales: Tensor) -> Tensor:
    return scales + (torch.from_numpy(half_precision(scales.detach().numpy())) - scales).detach()


class _Rounded(torch.autograd.Function):
    """clip(round((x + offset) / step)) * step - offset; `step` []."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, offset: float) -> Tensor:
        at = (values + offset if offset else values) / step
        whole = at.round().clamp_(-LEVELS, LEVELS)
        inside = at.abs() <= LEVELS + 0.5
        ctx.save_for_backward(inside, whole - at * inside)
        whole *= step
        return whole.sub_(offset) if offset else whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        inside, slope = ctx.saved_tensors
        return gradients[0] * inside, (gradients[0] * slope).sum(), None


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
}  # of what exported networks are made of, besides Conv and Gemm
