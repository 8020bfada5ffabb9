"""What every layer would be in INT8, and the damage that each form of a block would do: the long steps of a calibration, each
kept in its cache."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from calibration.collect.ranges import LEVELS, Range
from calibration.layer_graph import Layer, batch_size
from calibration.quantise.blocks import Block
from calibration.quantise.placement import offset_site
from calibration.quantise.prepare import Prepared, chain_arrays, from_arrays, prepare, to_arrays
from calibration.quantise.torch_graph import missing_operators
from calibration.run import Run
from calibration.search.chains import fit_chains
from calibration.search.equalise import border_of, equalise
from calibration.search.response import Response, error_of, respond
from calibration.search.sensitivity import damage
from calibration.search.trials import Trials

# Images that weights are rounded on: the pass over them takes two to three times as long as plain inference.
ROUNDED_ON = 96
# Images that the logits' response is learned from, and that a block's damage is measured on: as many as this many MACs
# allow, so that B4 takes tens of minutes.
RESPONSE_COST, FEWEST_RESPONSES, MOST_RESPONSES = 24e9, 16, 48
TRIAL_COST, FEWEST_TRIALS, MOST_TRIALS = 24e9, 12, 32
_LIMITS = np.geomspace(0.15, 1.0, 14)  # of the largest value: the ranges that are tried


def fitted(run: Run) -> Prepared:
    """Every layer with ranges and weights from the images `run.fit`."""
    arrays, chains = run.cache.read_arrays("statistics.npz"), run.cache.read_arrays("chains.npz")
    if arrays is not None and chains is not None:
        return from_arrays(run.network, {**arrays, **chains})
    responses: dict[str, Response] = {}
    if arrays is not None:
        prepared = from_arrays(run.network, arrays)
        if prepared.equalised:
            responses = _responses(run, {run.network.layer(name).input for name in prepared.equalised})
    else:
        some = _spread(run.fit, ROUNDED_ON)
        prepared = prepare(
            run.network,
            lambda: run.batches("ranges of activations", run.fit),
            run.threads,
            run.progress,
            lambda: run.batches("moments of activations", some),
        )
        if not missing_operators(run.network):
            responses = _fit_to_logits(run, prepared)
        run.cache.write_arrays("statistics.npz", to_arrays(prepared))
    fit_chains(run, prepared, responses)
    run.cache.write_arrays("chains.npz", chain_arrays(prepared))
    return prepared


def _fit_to_logits(run: Run, prepared: Prepared) -> dict[str, Response]:
    """Gives each tensor the range that the logits like best, and chains an equalised input of their depthwise layers. Returns
    the responses at those inputs."""
    network = run.network
    layers = [network.layer(name) for name in prepared.layers]
    ends = prepared.ends
    tensors = {
        layer.input for layer in layers if layer.input != network.input and len(network.shapes[layer.input]) == 4
    }
    responses = _responses(run, {*tensors, *ends.values()})
    run.progress(0, 1, "ranges by the logits")
    chosen: dict[str, Range] = {}
    for tensor, response in responses.items():
        users = [layer for layer in layers if layer.input == tensor]
        shifted = any(offset_site(network, layer) for layer in users)
        histogram = prepared.histograms[tensor]
        chosen[tensor] = _best(response, histogram.low if shifted else None, histogram.max)
    for layer in layers:
        if layer.input in chosen:
            prepared.layers[layer.name] = prepared.with_range(layer.name, chosen[layer.input])
    for residual in network.residuals:
        if residual.name in prepared.identities and residual.identity in chosen:
            prepared.identities[residual.name] = chosen[residual.identity]
    prepared.outputs = {name: chosen.get(tensor, prepared.outputs[name]) for name, tensor in ends.items()}
    for block in prepared.blocks:
        before = _equalisable(prepared, block, responses)
        if before is not None:
            layer = network.layer(block.depthwise)
            response = responses[layer.input]
            found, least = equalise(response, before.name, border_of(network, layer))
            if least < response.damage(error_of(response.outputs(), chosen[layer.input])):
                prepared.equalised[block.depthwise] = found
    return {name: responses[name] for name in (network.layer(each).input for each in prepared.equalised)}


def _responses(run: Run, tensors: Collection[str]) -> dict[str, Response]:
    count = int(np.clip(RESPONSE_COST / run.network.macs, FEWEST_RESPONSES, MOST_RESPONSES))
    rows = _spread(run.fit, count)
    size = max(1, batch_size(run.network.shapes[run.network.input][2]) // 2)

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), size):
            run.progress(start, len(rows), "response of the logits")
            yield from run.images.batches(rows[start : start + size])

    return respond(run.network, tensors, batches())


def _best(response: Response, low: float | None, high: float) -> Range:
    """The range up to `high` or less that does least damage; from `low` on, with an offset, if it is given."""
    if not high > 0:
        return Range(1.0)
    plain = Range(high / LEVELS)
    choices = [plain.stretched(limit, 0.0) for limit in _LIMITS]
    if low is not None:
        whole = Range((high - low) / (2 * LEVELS), -(high + low) / 2)
        choices = [whole.stretched(limit, low) for limit in _LIMITS] if whole.offset else choices
    values = response.outputs()
    return min(choices, key=lambda choice: response.damage(error_of(values, choice)))


def _equalisable(prepared: Prepared, block: Block, responses: Mapping[str, Response]) -> Layer | None:
    """The layer whose outputs may be scaled for the depthwise layer of `block`, which alone reads them behind an activation."""
    network = prepared.network
    if not block.depthwise:
        return None
    tensor = network.layer(block.depthwise).input
    response = responses.get(tensor)
    if response is None or response.source == tensor or len(network.consumers[tensor]) > 1:
        return None
    before = next((layer for layer in network.layers if layer.output == response.source), None)
    if before is None or before.name not in prepared.layers or not before.bias or before.op != "Conv":
        return None
    between = {name for node in network.consumers[before.output] for name in node.output} - {tensor}
    others = [node for name in (before.output, *between) for node in network.consumers.get(name, [])]
    return before if all(node.output[0] in {tensor, *between} for node in others) else None


def damages_of(run: Run, prepared: Prepared) -> dict[str, dict[str, float]]:
    """Damage of each block in each of its forms, alone in INT8, on images held out: by block, then by form. Picks up where an
    interrupted run stopped."""
    network = run.network
    count = int(np.clip(TRIAL_COST / network.macs, FEWEST_TRIALS, MOST_TRIALS))
    rows = _spread(run.held_out, count)
    trials = Trials(network, np.concatenate(list(run.images.batches(rows))), run.reference[rows])
    known: dict[str, dict[str, float]] = json.loads(run.cache.read("damages.json") or "{}")
    for done, block in enumerate(prepared.blocks):
        if block.name in known:
            continue
        run.progress(done, len(prepared.blocks), "damage of each block")
        trials.move(network.layer(prepared.first(block)), run.threads)
        known[block.name] = {
            form: damage(trials, prepared.alone(block, form), run.threads) for form in block.forms() if form != "fp16"
        }
        run.cache.write("damages.json", json.dumps(known).encode())
    return known


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `rows`, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
