"""What every layer would be in int8, and the damage it would do: the long steps of a calibration, each kept in its cache."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from calibration.budget import NOISE
from calibration.collect.ranges import Range
from calibration.quantise.placement import TARGETS, Quantised, smoothing_site
from calibration.quantise.prepare import Prepared, from_arrays, prepare, to_arrays
from calibration.run import Run
from calibration.search.sensitivity import damage, refine
from calibration.search.trials import Trials

# Images that weights are rounded on: the pass over them takes two to three times as long as plain inference.
ROUNDED_ON = 96
# Images that a layer's damage is measured on: as many as this many MACs in a run allow, so that B4 takes
# tens of minutes.
TRIAL_COST, FEWEST_TRIALS, MOST_TRIALS = 48e9, 12, 64


@dataclass(frozen=True)
class Refined:
    """What became of a layer."""

    damage: float
    scale: float  # of the input's range
    offset: float
    smoothed: bool


def prepared_layers(run: Run) -> Prepared:
    """Every layer with ranges and weights from the images `run.fit`."""
    arrays = run.cache.read_arrays("statistics.npz")
    if arrays is not None:
        return from_arrays(run.network, arrays)
    some = _spread(run.fit, ROUNDED_ON)
    prepared = prepare(
        run.network,
        TARGETS[run.target],
        lambda: run.batches("ranges of activations", run.fit),
        run.threads,
        run.progress,
        lambda: run.batches("moments of activations", some),
    )
    run.cache.write_arrays("statistics.npz", to_arrays(prepared))
    return prepared


def refined(run: Run, prepared: Prepared) -> dict[str, float]:
    """Damage of each layer on held-out images, after giving it the range that the logits like best on images that are
    not held out, and smoothing where that halves what would else be much. Picks up where an interrupted run stopped."""
    network, threads = run.network, run.threads
    count = int(np.clip(TRIAL_COST / network.macs, FEWEST_TRIALS, MOST_TRIALS))
    judging, choosing = (_trials(run, _spread(rows, count)) for rows in (run.held_out, run.fit))
    known: dict[str, Refined] = {}
    if (with_cache := run.cache.read("damages.json")) is not None:
        known = {name: Refined(**found) for name, found in json.loads(with_cache).items()}
    for name, found in known.items():
        factors = prepared.smoothed(name).factors if found.smoothed else None
        prepared.layers[name] = prepared.with_range(name, Range(found.scale, found.offset), factors)
    # A tensor that is also a residual's identity keeps one range, so that its users share one Q/DQ pair.
    streams = {residual.identity for residual in network.residuals}

    def fitted(name: str, start: Quantised) -> Quantised:
        return refine(prepared, name, start, choosing, threads)

    def judged(name: str, layer: Quantised) -> float:
        return damage(prepared, name, layer, judging, threads)

    for name in [name for name in prepared.layers if name not in known]:
        run.progress(len(known), len(prepared.layers), "damage of each layer")
        layer = network.layer(name)
        for trials in (judging, choosing):
            trials.move(layer, threads)
        if layer.input not in streams:
            prepared.layers[name] = fitted(name, prepared.layers[name])
        least = judged(name, prepared.layers[name])
        site = TARGETS[run.target].smoothing and layer.input not in streams and smoothing_site(network, layer)
        if site and least > NOISE / len(prepared.layers):  # an even share of what is enough
            smoothed = fitted(name, prepared.smoothed(name))
            if (found_damage := judged(name, smoothed)) < least / 2:
                prepared.layers[name], least = smoothed, found_damage
        chosen = prepared.layers[name]
        known[name] = Refined(least, chosen.range.scale, chosen.range.offset, chosen.factors is not None)
        run.cache.write("damages.json", json.dumps({name: asdict(found) for name, found in known.items()}).encode())
    return {name: found.damage for name, found in known.items()}


def _trials(run: Run, rows: np.ndarray) -> Trials:
    return Trials(run.network, np.concatenate(list(run.images.batches(rows))), run.reference[rows])


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `rows`, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
