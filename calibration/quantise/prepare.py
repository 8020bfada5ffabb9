"""Every layer of a network as it would be in int8: ranges, offsets, rounded weights, corrected biases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from calibration.collect.ranges import Histogram, Range, choose, choose_factors, collect
from calibration.layer_graph import Layer, LayerGraph, by_input
from calibration.quantise.blocks import FORMS, blocks, depthwise_end, higher_precision
from calibration.quantise.placement import Placement, Quantised, offset_site, quantised_graph
from calibration.quantise.rounding import collect_moments, corrected_bias, round_weights
from runtime.progress import Report, silent

Batches = Callable[[], Iterable[np.ndarray]]  # each call passes over the images once more


@dataclass
class Prepared:
    """All that is known of the layers that may be quantised."""

    network: LayerGraph
    layers: dict[str, Quantised]  # by layer
    identities: dict[str, Range]  # by residual Add
    histograms: dict[str, Histogram]  # by tensor
    means: dict[str, np.ndarray]  # of what each output sees, by layer; as in Moments
    outputs: dict[str, Range] = field(
        default_factory=dict
    )  # by depthwise layer, where others than one INT8 layer read it

    def graph(self, forms: Mapping[str, str] | None = None, kept: Collection[str] = ()) -> onnx.ModelProto:
        """The network in INT8 with the blocks in `forms` (by name; "chain" where none is given), `kept` layers besides in
        higher precision."""
        units = {block.project: block for block in blocks(self.network)}
        forms = forms or {}
        branches = {residual.name: residual.branch for residual in self.network.residuals}
        identities = {
            name: found
            for name, found in self.identities.items()
            if branches[name] not in units or FORMS[forms.get(units[branches[name]].name, "chain")].identity
        }
        kept = {*kept, *higher_precision(units.values(), forms)}
        return quantised_graph(self.network, self.layers, identities, kept, self.outputs)

    def histogram_low(self, name: str) -> float:
        return self.histograms[self.network.layer(name).input].low

    def with_range(self, name: str, chosen: Range, factors: np.ndarray | None = None) -> Quantised:
        """Layer `name` with another range of its input (and `factors`, else those it has), its bias corrected for that."""
        layer, quantised = self.network.layer(name), self.layers[name]
        factors = quantised.factors if factors is None else factors
        histogram = self.histograms[layer.input]
        if factors is None:
            error = histogram.errors([chosen.scale], [chosen.offset])[0][0]
        else:
            sizes, which = np.unique(factors, return_inverse=True)
            error = histogram.errors(chosen.scale / sizes, np.zeros(len(sizes)))[0][which, np.arange(len(factors))]
        weight = self.network.weights[layer.weight]
        bias = self.network.weights.get(layer.bias, np.zeros(len(weight), np.float32))
        height = (*self.network.shapes[layer.input], 1, 1)[2]
        bias = corrected_bias(layer, weight, quantised.floats, bias, self.means[name], error, height)
        return replace(quantised, range=chosen, bias=bias, factors=factors)

    def smoothed(self, name: str) -> Quantised:
        """Layer `name`, a `smoothing_site`, with a factor for each channel of its input."""
        layer = self.network.layer(name)
        return self.with_range(name, *choose_factors(self.histograms[layer.input], _gain(self.network, layer)))


def prepare(
    network: LayerGraph,
    placement: Placement,
    batches: Batches,
    threads: int = 0,
    progress: Report = silent,
    fewer: Batches | None = None,
) -> Prepared:
    """Ranges and weights for all layers that `placement` may quantise: a forward pass over the images, and one over `fewer`
    of them (default: all), which are enough to round weights by."""
    layers = [layer for layer in network.layers if not layer.unfit and (placement.pooled or not layer.pooled)]
    residuals = network.residuals if placement.identities else []
    users = by_input(layers)
    streams = {residual.identity for residual in residuals}
    ends = shared_ends(network, layers)
    histograms = collect(network, sorted({*users, *streams, *ends.values()}), batches(), threads)
    ranges = {}
    for tensor, histogram in histograms.items():
        gains = [_gain(network, layer) for layer in users.get(tensor, [])]
        if tensor in streams or not gains:
            gains.append(np.ones(len(histogram.counts)))
        shifted = placement.offsets and any(offset_site(network, layer) for layer in users.get(tensor, []))
        ranges[tensor] = choose(histogram, gains, shifted)
    moments = collect_moments(network, layers, (fewer or batches)(), threads)
    progress(0, 1, "rounding weights")
    rounded = {layer.name: round_weights(network.weights[layer.weight], moments[layer.name]) for layer in layers}
    prepared = Prepared(
        network,
        {layer.name: Quantised(ranges[layer.input], *rounded[layer.name], np.empty(0)) for layer in layers},
        {residual.name: ranges[residual.identity] for residual in residuals},
        histograms,
        {layer.name: moments[layer.name].mean for layer in layers},
        {name: ranges[tensor] for name, tensor in ends.items()},
    )
    prepared.layers = {name: prepared.with_range(name, q.range) for name, q in prepared.layers.items()}
    return prepared


def shared_ends(network: LayerGraph, layers: Collection[Layer]) -> dict[str, str]:
    """What each depthwise layer of `layers` and its activation give, by layer, where not only layers read it: it needs a range
    of its own."""
    users = by_input(layers)
    ends = {layer.name: depthwise_end(network, layer) for layer in layers if layer.depthwise}
    return {
        name: tensor
        for name, tensor in ends.items()
        if len(users.get(tensor, ())) < len(network.consumers.get(tensor, ()))
    }


def _gain(network: LayerGraph, layer: Layer) -> np.ndarray:
    """How much the squared error of each input channel weighs in the layer's output, [channels]."""
    squares = np.square(network.weights[layer.weight], dtype=np.float64)
    if layer.depthwise:
        return squares.sum((1, 2, 3))
    return squares.sum(tuple(i for i in range(squares.ndim) if i != 1))


def to_arrays(prepared: Prepared) -> dict[str, np.ndarray]:
    """All of `prepared` but the network, as arrays with plain names."""
    arrays: dict[str, np.ndarray] = {}
    for name, layer in prepared.layers.items():
        arrays[f"layer/{name}/weight"], arrays[f"layer/{name}/scale"] = layer.weight, layer.scale
        arrays[f"layer/{name}/range"] = np.array([layer.range.scale, layer.range.offset])
        arrays[f"layer/{name}/bias"], arrays[f"layer/{name}/mean"] = layer.bias, prepared.means[name]
    for name, identity in prepared.identities.items():
        arrays[f"identity/{name}/range"] = np.array([identity.scale, identity.offset])
    for name, output in prepared.outputs.items():
        arrays[f"output/{name}/range"] = np.array([output.scale, output.offset])
    for name, histogram in prepared.histograms.items():
        arrays[f"histogram/{name}/counts"] = histogram.counts
        arrays[f"histogram/{name}/extremes"] = np.array([histogram.low, histogram.high])
    return arrays


def from_arrays(network: LayerGraph, arrays: dict[str, np.ndarray]) -> Prepared:
    """What `to_arrays` was given."""
    names: dict[str, list[str]] = {"layer": [], "identity": [], "output": [], "histogram": []}
    for key in arrays:
        kind, _, rest = key.partition("/")
        name = rest.rpartition("/")[0]
        if name not in names[kind]:
            names[kind].append(name)
    prepared = Prepared(network, {}, {}, {}, {})
    for name in names["layer"]:
        weight, scale, bias, mean = (arrays[f"layer/{name}/{part}"] for part in ("weight", "scale", "bias", "mean"))
        prepared.layers[name] = Quantised(Range(*map(float, arrays[f"layer/{name}/range"])), weight, scale, bias)
        prepared.means[name] = mean
    for name in names["identity"]:
        prepared.identities[name] = Range(*map(float, arrays[f"identity/{name}/range"]))
    for name in names["output"]:
        prepared.outputs[name] = Range(*map(float, arrays[f"output/{name}/range"]))
    for name in names["histogram"]:
        histogram = Histogram(0)
        histogram.counts = arrays[f"histogram/{name}/counts"]
        histogram.low, histogram.high = map(float, arrays[f"histogram/{name}/extremes"])
        prepared.histograms[name] = histogram
    return prepared
