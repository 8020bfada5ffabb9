"""TensorRT's own network, after its parser has read the ONNX file: what its layers multiply, and in which type.

A layer that the file has in INT8 goes back to higher precision here, without touching the file: it reads what stands before its
Q/DQ pairs, and its weights are constants of the dequantised values. Tensors are known by their names, since each call of the
bindings makes new objects.
"""

from __future__ import annotations

from math import prod
from typing import Any, Collection, Dict, Iterator, List, NamedTuple

import numpy as np


class Product(NamedTuple):
    """A convolution or matrix product."""

    macs: int  # of one image
    int8: bool
    depthwise: bool
    silu: bool  # its output is read twice: by a sigmoid, and by the product with it
    expands: bool  # what it gives is, behind its activation, what a depthwise convolution reads
    side: int  # of the map that it gives, 1 for a vector


def products_of(trt: Any, network: Any) -> Dict[str, Product]:
    """By the name of the node."""
    made, readers, expanding = _producers(network), _readers(network), set()
    found = {}
    for layer in _layers(network):
        kind = layer.type
        if kind not in (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY):
            continue
        output, source = layer.get_output(0), layer.get_input(0)
        channels, *rest = (max(size, 1) for size in tuple(output.shape)[1:])
        each, groups = max(tuple(source.shape)[-1], 1), 1
        if kind == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer  # what get_layer gives is the base class
            groups, inputs = layer.num_groups, tuple(source.shape)[1]
            each = inputs // groups * prod(tuple(layer.kernel_size_nd))
        before = made.get(source.name)
        int8 = before is not None and before.type == trt.LayerType.DEQUANTIZE
        depthwise, silu = groups > 1 and groups == channels, len(readers.get(output.name, [])) > 1
        if depthwise:
            expanding.add(_convolution_behind(source, made, trt.LayerType))
        side = rest[0] if rest else 1
        found[layer.name] = Product(each * channels * prod(rest), int8, depthwise, silu, False, side)
    return {name: product._replace(expands=name in expanding) for name, product in found.items()}


def put_back(trt: Any, network: Any, names: Collection[str]) -> List[Any]:
    """Takes the convolutions `names` of `network` out of INT8, with what belongs to each: the identity that is added to it, and
    its output where that was INT8 too. Gives back arrays that must live until the engine is built.
    """
    made, kept = _producers(network), []  # type: Dict[str, Any], List[Any]
    kinds = trt.LayerType
    for layer in list(_layers(network)):
        kind = layer.type
        for index in range(layer.num_inputs):
            tensor = layer.get_input(index)
            dequantise = made.get(tensor.name) if tensor is not None else None
            if dequantise is None or dequantise.type != kinds.DEQUANTIZE:
                continue
            if kind == kinds.CONVOLUTION:
                wanted = layer.name in names
            else:
                others = [layer.get_input(other) for other in range(layer.num_inputs) if other != index]
                added = [made.get(other.name) for other in others if other is not None]
                sums = [each.name for each in added if each is not None and each.type == kinds.CONVOLUTION]
                wanted = bool({*sums} & {*names}) if sums else _convolution_behind(tensor, made, kinds) in names
            if not wanted:
                continue
            source = made.get(dequantise.get_input(0).name)
            if source is not None and source.type == kinds.QUANTIZE:
                layer.set_input(index, source.get_input(0))
            elif source is not None and source.type == kinds.CONSTANT:
                values = _dequantised(trt, source, made[dequantise.get_input(1).name], int(tuple(tensor.shape)[0]))
                kept.append(values)
                layer.set_input(index, network.add_constant(values.shape, values).get_output(0))
    return kept


def any_ranges(network: Any) -> None:
    """Gives every tensor a range, the same for all, so that the builder may take INT8 wherever it is fastest."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [layer.get_output(at) for layer in _layers(network) for at in range(layer.num_outputs)]
    for tensor in tensors:
        tensor.set_dynamic_range(-4.0, 4.0)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _producers(network: Any) -> Dict[str, Any]:
    """By the name of what a layer gives."""
    return {layer.get_output(at).name: layer for layer in _layers(network) for at in range(layer.num_outputs)}


def _readers(network: Any) -> Dict[str, List[Any]]:
    found: Dict[str, List[Any]] = {}
    for layer in _layers(network):
        for tensor in (layer.get_input(at) for at in range(layer.num_inputs)):
            if tensor is not None:
                found.setdefault(tensor.name, []).append(layer)
    return found


def _convolution_behind(tensor: Any, made: Dict[str, Any], kinds: Any) -> str:
    """The name of the convolution that gives `tensor`, behind its activation and Q/DQ; "" if anything else does."""
    between = (kinds.ACTIVATION, kinds.ELEMENTWISE, kinds.QUANTIZE, kinds.DEQUANTIZE)
    layer = made.get(tensor.name) if tensor is not None else None
    for _ in range(5):  # SiLU is two layers, smoothing one more
        if layer is None or layer.type not in between:
            break
        layer = made.get(layer.get_input(0).name)
    return str(layer.name) if layer is not None and layer.type == kinds.CONVOLUTION else ""


def _dequantised(trt: Any, weights: Any, scale: Any, channels: int) -> Any:
    """Weights times their scales, one or one a channel, in the type of the scales."""
    for constant in (weights, scale):
        constant.__class__ = trt.IConstantLayer
    shape = tuple(weights.get_output(0).shape)
    scales = np.array(scale.weights).reshape(-1)
    whole = np.array(weights.weights).reshape(shape).astype(np.float32)
    factors = scales.astype(np.float32).reshape(-1, *[1] * (len(shape) - 1))
    assert len(scales) in (1, channels)
    return np.ascontiguousarray((whole * factors).astype(scales.dtype))
