"""Every layer of a network as it would be in int8: ranges, offsets, rounded weights, corrected biases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from calibration.collect.ranges import Histogram, Range, choose, collect, half_precision
from calibration.layer_graph import Layer, LayerGraph, by_input
from calibration.quantise.blocks import FORMS, Block, blocks, depthwise_end, higher_precision
from calibration.quantise.placement import Quantised, offset_site, quantised_graph
from calibration.quantise.rounding import collect_moments, corrected_bias, round_weights
from runtime.progress import Report, silent

Batches = Callable[[], Iterable[np.ndarray]]  # each call passes over the images once more


@dataclass(frozen=True)
class Equalised:
    """What stands for a depthwise layer's input act(y) in a chain: back * Q(act(factor * y + shift)), of each channel [C].

    `factor` and `shift` belong to the layer `before`, which makes y; `back` to the depthwise layer's scales.
    """

    before: str
    range: Range
    factor: np.ndarray
    shift: np.ndarray
    back: np.ndarray
    error: np.ndarray  # mean of what it gives less what it stands for


@dataclass(frozen=True)
class Chained:
    """What a block has in chain and not in its other forms."""

    range: Range  # of the projection's input
    error: np.ndarray  # mean error of the block's outputs without a correction, [outputs]


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

    equalised: dict[str, Equalised] = field(default_factory=dict)  # by depthwise layer, for blocks in chain
    chained: dict[str, Chained] = field(default_factory=dict)  # by block
    floats: dict[str, np.ndarray] | None = (
        None  # once it is settled: weights that are not the network's, before rounding
    )

    @functools.cached_property
    def blocks(self) -> list[Block]:
        return [block for block in blocks(self.network) if block.project in self.layers]

    @property
    def ends(self) -> dict[str, str]:
        """The tensors of `outputs`, by depthwise layer."""
        return {name: depthwise_end(self.network, self.network.layer(name)) for name in self.outputs}

    def first(self, block: Block) -> str:
        """The first layer that `block` in INT8 changes."""
        found = self.equalised.get(block.depthwise)
        return found.before if found else block.layers[0]

    def graph(self, forms: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """The network in INT8 with the blocks in `forms` (by name; "chain" where none is given)."""
        forms = forms or {}
        return self._graph(forms, higher_precision(self.blocks, forms))

    def placed(self, forms: Mapping[str, str]) -> dict[str, Quantised]:
        """Every layer as it is with the blocks in `forms`, those in higher precision too."""
        return self._chained(forms, higher_precision(self.blocks, forms))[0]

    def alone(self, block: Block, form: str) -> onnx.ModelProto:
        """The network in FP32 but for `block` in `form`."""
        kept = {*self.layers} - ({*block.layers} - {*block.higher(form)})
        return self._graph({other.name: form if other == block else "fp16" for other in self.blocks}, kept)

    def settled(self) -> Prepared:
        """Every block in chain for good, with layers as they are there."""
        layers, floats = self._chained({}, ())
        for name, found in self.equalised.items():
            for layer, by in ((self.network.layer(found.before), found.factor), (self.network.layer(name), found.back)):
                floats[layer.weight] = self.network.weights[layer.weight] * by.reshape(-1, 1, 1, 1)
        return replace(self, layers=layers, floats=floats)

    def _graph(self, forms: Mapping[str, str], kept: Collection[str]) -> onnx.ModelProto:
        layers, floats = self._chained(forms, kept)
        branches = {residual.name: residual.branch for residual in self.network.residuals}
        form_of = {block.project: FORMS[forms.get(block.name, "chain")] for block in self.blocks}
        identities = {
            name: found
            for name, found in self.identities.items()
            if branches[name] in form_of and form_of[branches[name]].identity
        }
        return quantised_graph(self.network, layers, identities, kept, self.outputs, floats)

    def _chained(
        self, forms: Mapping[str, str], kept: Collection[str]
    ) -> tuple[dict[str, Quantised], dict[str, np.ndarray]]:
        """(layers, weights of layers in higher precision) with what changes in blocks that are in chain."""
        if self.floats is not None:
            return dict(self.layers), dict(self.floats)
        layers: dict[str, Quantised] = dict(self.layers)
        floats: dict[str, np.ndarray] = {}
        for block in self.blocks:
            if block.project in kept or forms.get(block.name, "chain") != "chain":
                continue
            if (found := self.equalised.get(block.depthwise)) is not None:
                before, maker = self.network.layer(found.before), layers[found.before]
                if found.before in kept:
                    weight = self.network.weights[before.weight]
                    floats[before.weight] = weight * found.factor.reshape(-1, 1, 1, 1)
                    floats[before.bias] = self.network.weights[before.bias] * found.factor + found.shift
                else:
                    scale = half_precision(maker.scale * found.factor)
                    layers[found.before] = replace(maker, scale=scale, bias=maker.bias * found.factor + found.shift)
                plain = self.with_range(block.depthwise, found.range, error=found.error)
                layers[block.depthwise] = replace(plain, scale=half_precision(plain.scale * found.back))
            if block.depthwise in self.outputs:
                self._correct_squeezed(block, floats)
            if (chained := self.chained.get(block.name)) is not None:
                plain = self.with_range(block.project, chained.range)
                layers[block.project] = replace(plain, bias=plain.bias - chained.error.astype(np.float32))
        return layers, floats

    def _correct_squeezed(self, block: Block, floats: dict[str, np.ndarray]) -> None:
        """Takes the mean error of `d` off again in the bias of what squeezes the pooled map."""
        network = self.network
        tensor = depthwise_end(network, network.layer(block.depthwise))
        if (histogram := self.histograms.get(tensor)) is None:
            return
        error = histogram.errors([self.outputs[block.depthwise].scale], [0.0])[0][0]
        pools = {node.output[0] for node in network.consumers[tensor] if node.op_type in _POOLS}
        for layer in network.layers:
            if layer.input in pools and layer.bias and layer.pooled:
                weight = network.weights[layer.weight].reshape(len(network.weights[layer.weight]), -1)
                floats[layer.bias] = network.weights[layer.bias] - weight @ error

    def with_range(self, name: str, chosen: Range, error: np.ndarray | None = None) -> Quantised:
        """Layer `name` with another range of its input, its bias corrected for that.

        `error` [C]: the mean error of each of its input's channels, where the range alone does not tell it.
        """
        layer, quantised = self.network.layer(name), self.layers[name]
        if error is None:
            error = self.histograms[layer.input].errors([chosen.scale], [chosen.offset])[0][0]
        weight = self.network.weights[layer.weight]
        bias = self.network.weights.get(layer.bias, np.zeros(len(weight), np.float32))
        height = (*self.network.shapes[layer.input], 1, 1)[2]
        bias = corrected_bias(layer, weight, quantised.floats, bias, self.means[name], error, height)
        return replace(quantised, range=chosen, bias=bias)


def prepare(
    network: LayerGraph,
    batches: Batches,
    threads: int = 0,
    progress: Report = silent,
    fewer: Batches | None = None,
) -> Prepared:
    """Ranges and weights for all layers that INT8 is made for, but those on one vector an image: a forward pass over the
    images, and one over `fewer` of them (default: all), which are enough to round weights by."""
    layers = [layer for layer in network.layers if not layer.unfit and not layer.pooled]
    residuals = network.residuals
    users = by_input(layers)
    streams = {residual.identity for residual in residuals}
    ends = shared_ends(network, layers)
    histograms = collect(network, sorted({*users, *streams, *ends.values()}), batches(), threads)
    ranges = {}
    for tensor, histogram in histograms.items():
        gains = [_gain(network, layer) for layer in users.get(tensor, [])]
        if tensor in streams or not gains:
            gains.append(np.ones(len(histogram.counts)))
        shifted = any(offset_site(network, layer) for layer in users.get(tensor, []))
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


_POOLS = ("ReduceMean", "GlobalAveragePool")
_EQUALISED = ("factor", "shift", "back", "error")


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
    for name, found in prepared.equalised.items():
        arrays[f"equalised/{name}/range"] = np.array([found.range.scale, found.range.offset])
        arrays[f"equalised/{name}/before"] = np.array(found.before)
        for part in _EQUALISED:
            arrays[f"equalised/{name}/{part}"] = getattr(found, part)
    for name, chained in prepared.chained.items():
        arrays[f"chained/{name}/range"] = np.array([chained.range.scale, chained.range.offset])
        arrays[f"chained/{name}/error"] = chained.error
    for name, histogram in prepared.histograms.items():
        arrays[f"histogram/{name}/counts"] = histogram.counts
        arrays[f"histogram/{name}/extremes"] = np.array([histogram.low, histogram.high])
    return arrays


def chain_arrays(prepared: Prepared) -> dict[str, np.ndarray]:
    """Those of `to_arrays` that only blocks in chain have."""
    kinds = ("output", "equalised", "chained")
    return {name: value for name, value in to_arrays(prepared).items() if name.split("/", 1)[0] in kinds}


def from_arrays(network: LayerGraph, arrays: dict[str, np.ndarray]) -> Prepared:
    """What `to_arrays` was given."""
    names: dict[str, list[str]] = {
        "layer": [],
        "identity": [],
        "output": [],
        "equalised": [],
        "chained": [],
        "histogram": [],
    }
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
    for name in names["equalised"]:
        prepared.equalised[name] = Equalised(
            str(arrays[f"equalised/{name}/before"]),
            Range(*map(float, arrays[f"equalised/{name}/range"])),
            *(arrays[f"equalised/{name}/{part}"] for part in _EQUALISED),
        )
    for name in names["chained"]:
        prepared.chained[name] = Chained(
            Range(*map(float, arrays[f"chained/{name}/range"])), arrays[f"chained/{name}/error"]
        )
    for name in names["histogram"]:
        histogram = Histogram(0)
        histogram.counts = arrays[f"histogram/{name}/counts"]
        histogram.low, histogram.high = map(float, arrays[f"histogram/{name}/extremes"])
        prepared.histograms[name] = histogram
    return prepared
