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


def products_of(trt: Any, network: Any) -> Dict[str, Product]:
    """By the name of the node."""
    made, readers = _producers(network), _readers(network)
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
        found[layer.name] = Product(
            each * channels * prod(rest), int8, groups > 1 and groups == channels, len(readers.get(output.name, [])) > 1
        )
    return found


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
            elif kind == kinds.ELEMENTWISE and any(
                _made_by_one_of(layer.get_input(other), made, kinds, names)
                for other in range(layer.num_inputs)
                if other != index
            ):
                wanted = True  # a sum with a convolution that is put back
            else:
                wanted = _comes_from_one_of(dequantise, made, kinds, names)
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


def _made_by_one_of(tensor: Any, made: Dict[str, Any], kinds: Any, names: Collection[str]) -> bool:
    layer = made.get(tensor.name) if tensor is not None else None
    return layer is not None and layer.type == kinds.CONVOLUTION and layer.name in names


def _comes_from_one_of(dequantise: Any, made: Dict[str, Any], kinds: Any, names: Collection[str]) -> bool:
    """Whether what is quantised is what one of `names` gives, behind its activation."""
    quantise = made.get(dequantise.get_input(0).name)
    if quantise is None or quantise.type != kinds.QUANTIZE:
        return False
    tensor = quantise.get_input(0)
    for _ in range(3):  # SiLU is two layers
        if _made_by_one_of(tensor, made, kinds, names):
            return True
        layer = made.get(tensor.name)
        if layer is None or layer.type not in (kinds.ACTIVATION, kinds.ELEMENTWISE):
            return False
        tensor = layer.get_input(0)
    return False


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
