"""Networks of the family as calibration would find them, without the images: every layer in INT8 with a made-up range."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx

from calibration.collect.ranges import Range
from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import Quantised, offset_site
from calibration.quantise.prepare import Prepared, shared_ends
from export.to_onnx import simplify, trace
from models.network import EfficientNet
from models.variants import VARIANTS

FAMILIES = ("b0", "lite0", "v2-b0")


@cache
def _exported(variant: str) -> onnx.ModelProto:
    return simplify(trace(EfficientNet(VARIANTS[variant]).eval(), VARIANTS[variant].resolution))


def everything_in_int8(variant: str) -> Prepared:
    network = LayerGraph(_exported(variant))
    layers = [layer for layer in network.layers if not layer.pooled and not layer.unfit]

    def quantised(name: str) -> Quantised:
        layer = network.layer(name)
        weight = network.weights[layer.weight]
        count = len(weight)
        offset = 0.5 if offset_site(network, layer) else 0.0
        return Quantised(
            Range(0.1, offset), np.ones(weight.shape, np.int8), np.ones(count, np.float32), np.zeros(count, np.float32)
        )

    return Prepared(
        network,
        {layer.name: quantised(layer.name) for layer in layers},
        {residual.name: Range(0.1) for residual in network.residuals},
        {},
        {},
        {name: Range(0.1) for name in shared_ends(network, layers)},
    )
