"""TensorRT's own network, after its parser has read the ONNX file: how much its layers multiply."""

from __future__ import annotations

from math import prod
from typing import Any, Dict


def macs_of(trt: Any, network: Any) -> Dict[str, int]:
    """Multiplications of one image by the name of the node, of convolutions and matrix products."""
    found = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type
        if kind not in (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY):
            continue
        channels, *rest = (max(size, 1) for size in tuple(layer.get_output(0).shape)[1:])
        source = tuple(layer.get_input(0).shape)
        if kind == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer  # what get_layer gives is the base class
            each = source[1] // layer.num_groups * prod(tuple(layer.kernel_size_nd))
        else:
            each = source[-1]
        found[layer.name] = each * channels * prod(rest)
    return found
