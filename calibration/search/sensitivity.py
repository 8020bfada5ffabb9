"""What each layer costs in int8, and the layers that are best left in higher precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx

from calibration.budget import Budget, Point
from calibration.layer_graph import LayerGraph, logits_of, open_session, sqnr, top1_agreement
from calibration.quantise.placement import Quantised, quantised_graph, share_in_int8
from calibration.quantise.prepare import Prepared
from calibration.run import Run
from calibration.search.trials import Trials

FACTOR = 1.3  # between the ranges that `refine` tries
Measured = tuple[float, float, float, int]  # agreement, lost, sqnr and images of a Point


def damage(prepared: Prepared, name: str, quantised: Quantised, trials: Trials, threads: int = 0) -> float:
    """Error power at the logits of `trials`, as a share of theirs, with layer `name` alone in int8, as `quantised`."""
    model = trials.rest(quantised_graph(prepared.network, {name: quantised}, prepared.identities))
    error = simulate(model, trials.batches, threads) - trials.reference
    return float(np.square(error, dtype=np.float64).sum() / np.square(trials.reference, dtype=np.float64).sum())


def refine(prepared: Prepared, name: str, start: Quantised, trials: Trials, threads: int = 0) -> Quantised:
    """Layer `name` with the range that does least damage at the logits: climbs from `start`, in steps of FACTOR either way."""
    best, low = start, prepared.histogram_low(name)
    least = damage(prepared, name, start, trials, threads)
    for factor in (1 / FACTOR, FACTOR):
        while True:
            trial = prepared.with_range(name, best.range.stretched(factor, low), start.factors)
            found = damage(prepared, name, trial, trials, threads)
            if found >= least * 0.98:
                break
            best, least = trial, found
    return best


def simulate(model: onnx.ModelProto, batches: Iterable[np.ndarray], threads: int = 0) -> np.ndarray:
    """Logits of a Q/DQ graph."""
    return logits_of(open_session(model, threads, integer=False), batches)


def order(network: LayerGraph, damages: Mapping[str, float], allowance: float) -> list[str]:
    """Layers in the order in which to leave them in higher precision: most damage for its MACs first.

    The damages of layers add up at the logits (within 1 dB on the networks tried), so this is the knapsack's greedy
    answer. A layer that would take the whole above `allowance` is passed over.
    """
    cost = costs(network)
    left = allowance - sum(share for name, share in cost.items() if name not in damages)
    taken = []
    for name in sorted(damages, key=lambda name: -damages[name] / cost[name]):
        if cost[name] <= left + 1e-12:
            left -= cost[name]
            taken.append(name)
    return taken


def costs(network: LayerGraph) -> dict[str, float]:
    """Each layer's share of the MACs."""
    return {layer.name: layer.macs / network.macs for layer in network.layers}


def search(
    prepared: Prepared,
    damages: Mapping[str, float],
    budget: Budget,
    measure: Callable[[onnx.ModelProto], Measured],
) -> tuple[Point, list[Point], bool]:
    """(the fewest layers in higher precision that meet `budget`, every point measured, whether it is met).

    `measure` measures a graph. Begins with the layers that are worth it, doubles their number until
    the budget is met and halves the step from there. If it can't be met, the best point.
    """
    network = prepared.network
    taken = order(network, damages, budget.allowance)
    never = {layer.name for layer in network.layers} - set(prepared.layers)
    points: dict[int, Point] = {}

    def at(count: int) -> Point:
        if count not in points:
            kept = tuple(taken[:count])
            values = measure(quantised_graph(network, prepared.layers, prepared.identities, kept))
            points[count] = Point(kept, share_in_int8(network, never | set(kept)), *values)
        return points[count]

    cost = costs(network)
    high = 0 if budget.worth is None else sum(damages[name] > budget.worth * cost[name] for name in taken)
    low = high - 1
    at(0)  # for the curve
    while not budget.met(at(high)) and high < len(taken):
        low, high = high, min(max(1, 2 * high), len(taken))
    met = budget.met(at(high))
    while met and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.met(at(middle)) else (middle, high)
    if met:  # and for the curve what half of these layers would give, and what twice as many would
        at(high // 2)
        at(min(max(1, 2 * high), len(taken)))
    found = [points[count] for count in sorted(points)]
    if met:
        return points[high], found, True
    return max(found, key=budget.nearness), found, False


def measured(run: Run) -> Callable[[onnx.ModelProto], Measured]:
    """What `search` measures with: over all images."""
    labels, reference = run.images.labels, run.reference

    def measure(model: onnx.ModelProto) -> Measured:
        logits = simulate(model, run.batches("trying a choice of layers"), run.threads)
        lost = 0.0
        if labels is not None:
            lost = 100 * float((reference.argmax(1) == labels).mean() - (logits.argmax(1) == labels).mean())
        held_out = sqnr(reference[run.held_out], logits[run.held_out])
        return top1_agreement(reference, logits), lost, held_out, len(reference)

    return measure
