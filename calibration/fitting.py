"""What every layer would be in int8, and the damage it would do: the long steps of a calibration, each kept in its cache."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from calibration.cache import Cache
from calibration.images import Photographs
from calibration.network import Network, chunks
from calibration.placement import TARGETS, Quantised, smoothing_site
from calibration.prepare import Prepared, from_arrays, prepare, to_arrays
from calibration.ranges import Range
from calibration.sensitivity import SMOOTHED_FROM, damage, refine

# Pictures that weights are rounded on: the pass over them takes two to three times as long as plain inference.
ROUNDED_ON = 96
# Pictures that a layer's damage is measured on: as many as this many multiply-adds in a run allow, so that B4 takes
# tens of minutes.
TRIAL_COST, FEWEST_TRIALS, MOST_TRIALS = 48e9, 12, 64

Say = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


def prepared_layers(
    network: Network, target: str, photographs: Photographs, fit: np.ndarray, cache: Cache, threads: int, say: Say
) -> Prepared:
    """Every layer with ranges and weights from the pictures `fit`."""
    arrays = cache.read_arrays("statistics.npz")
    if arrays is not None:
        return from_arrays(network, arrays)
    steps = iter(range(3))
    some = fit[np.linspace(0, len(fit) - 1, min(ROUNDED_ON, len(fit))).astype(int)]
    prepared = prepare(
        network, TARGETS[target], lambda: photographs.batches(fit), threads, lambda step: say(step, next(steps), 3),
        lambda: photographs.batches(some),
    )  # fmt: skip
    cache.write_arrays("statistics.npz", to_arrays(prepared))
    return prepared


def refined(
    prepared: Prepared, target: str, photographs: Photographs, reference: np.ndarray, fit: np.ndarray,
    held_out: np.ndarray, cache: Cache, threads: int, say: Say,
) -> dict[str, float]:  # fmt: skip
    """Damage of each layer on held-out pictures, after giving it the range that the logits like best on pictures that are
    not held out, and smoothing where that halves what would else be much. Picks up where an interrupted run stopped."""
    count = int(np.clip(TRIAL_COST / prepared.network.multiply_adds, FEWEST_TRIALS, MOST_TRIALS))
    trial, other = (rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)] for rows in (held_out, fit))
    trials, others = (np.concatenate(list(photographs.batches(rows))) for rows in (trial, other))
    damages: dict[str, float] = {}
    ranges: dict[str, list[float]] = {}
    with_cache = cache.read("damages.json")
    if with_cache is not None:
        known = json.loads(with_cache)
        damages, ranges = known["damages"], known["ranges"]
    for name, (scale, offset, with_factors) in ranges.items():
        factors = prepared.smoothed(name).factors if with_factors else None
        prepared.layers[name] = prepared.with_range(name, Range(scale, offset), factors)
    streams = {residual.identity for residual in prepared.network.residuals}
    total = len(prepared.layers) + sum(prepared.network.layer(name).input not in streams for name in prepared.layers)
    for name, layer in prepared.layers.items():
        if name not in damages:
            say("damage of each layer", len(damages), total)
            damages[name] = damage(prepared, name, layer, lambda: chunks(trials), reference[trial], threads)
            cache.write("damages.json", json.dumps({"damages": damages, "ranges": ranges}).encode())
    # A tensor that is also a residual's identity keeps one range, so that its users share one Q/DQ pair.
    free = [name for name in damages if prepared.network.layer(name).input not in streams]

    def fitted(name: str, start: Quantised) -> Quantised:
        return refine(prepared, name, start, lambda: chunks(others), reference[other], threads)

    def judged(name: str, layer: Quantised) -> float:
        return damage(prepared, name, layer, lambda: chunks(trials), reference[trial], threads)

    while len(ranges) < len(free):
        name = max((name for name in free if name not in ranges), key=lambda name: damages[name])
        say("ranges by damage", len(prepared.layers) + len(ranges), total)
        layer = fitted(name, prepared.layers[name])
        if layer is not prepared.layers[name]:
            prepared.layers[name], damages[name] = layer, judged(name, layer)
        smoothing = TARGETS[target].smoothing and smoothing_site(prepared.network, prepared.network.layer(name))
        if smoothing and damages[name] > SMOOTHED_FROM / len(prepared.layers):
            smoothed = fitted(name, prepared.smoothed(name))
            if (found := judged(name, smoothed)) < damages[name] / 2:
                prepared.layers[name], damages[name] = smoothed, found
        chosen = prepared.layers[name]
        ranges[name] = [chosen.range.scale, chosen.range.offset, float(chosen.factors is not None)]
        cache.write("damages.json", json.dumps({"damages": damages, "ranges": ranges}).encode())
    return damages
