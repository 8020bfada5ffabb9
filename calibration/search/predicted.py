"""Predicted bytes and time of a network with its blocks in some forms, for each target: what the search buys with accuracy.
Nothing here is measured on the network at hand. Where a tensor's size is unknown, as in some third-party graphs, bytes count
as FP16's and time as a processor's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import onnx

from calibration.layer_graph import LayerGraph
from calibration.quantise.blocks import higher_precision
from calibration.quantise.prepare import Prepared
from export.cost import NEWEST, Generation, cost

BATCH = 8  # images a run of an engine: neither launches alone nor bytes alone decide
# Microseconds for a million MACs in FP32 and INT8, of depthwise and of other layers: OpenVINO on two cores with VNNI and AMX,
# means of B0 and Lite0 (docs/int8_compared.md, "On the processor"). Depthwise layers gain next to nothing there.
_PROCESSOR = {"depthwise": (30.5, 29.5), "other": (8.9, 4.6)}


def time_of(prepared: Prepared, forms: Mapping[str, str], target: str) -> float:
    """Microseconds with the blocks in `forms` (by name; "chain" where none is given)."""
    if target == "cpu" or not _sized(prepared.network):
        in_int8 = {*prepared.layers} - {*higher_precision(prepared.blocks, forms)}
        return _on_processor(prepared.network, in_int8)
    return cost(prepared.graph(forms)).microseconds(BATCH)


def time_in_float(network: LayerGraph, target: str) -> float:
    """Microseconds without INT8: of an FP16 engine, or in FP32 on a processor."""
    if target == "cpu" or not _sized(network):
        return _on_processor(network, set())
    return cost(network.to_model()).microseconds(BATCH)


def shares(network: LayerGraph, graph: onnx.ModelProto, generation: Generation = NEWEST) -> dict[str, float]:
    """Bytes of activations and time of an engine of `graph`, a form of `network`, as shares of FP16's."""
    if not _sized(network):
        return {"activations": 1.0, "time": 1.0}
    found, before = cost(graph, generation), cost(network.to_model(), generation)
    return {
        "activations": found.activations / before.activations,
        "time": found.microseconds(BATCH) / before.microseconds(BATCH),
    }


def how(target: str) -> str:
    """What the times are, in words that follow "Time is"."""
    if target == "cpu":
        return "MACs, weighed by what a layer of each kind took in OpenVINO with VNNI and AMX, as a share of FP32's"
    return f"memory traffic and launches of a run of {BATCH} images on an AGX Orin, as a share of FP16's"


@lru_cache(maxsize=1)  # the graph is as large as its weights
def _sized(network: LayerGraph) -> bool:
    try:
        cost(network.to_model())
    except ValueError:
        return False
    return True


def _on_processor(network: LayerGraph, in_int8: set[str]) -> float:
    rates = ((layer, _PROCESSOR["depthwise" if layer.depthwise else "other"]) for layer in network.layers)
    return sum(layer.macs * 1e-6 * rate[layer.name in in_int8] for layer, rate in rates)
