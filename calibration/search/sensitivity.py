"""What each block costs in INT8 and what it gains, and the forms that gain most for the damage that is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from calibration.budget import Budget, Point
from calibration.layer_graph import logits_of, open_session, sqnr, top1_agreement
from calibration.quantise.blocks import higher_precision
from calibration.quantise.placement import share_in_int8
from calibration.quantise.prepare import Prepared
from calibration.run import Run
from calibration.search.predicted import shares, time_in_float, time_of
from calibration.search.trials import Trials

Measured = tuple[float, float, float, int]  # agreement, lost, sqnr and images of a Point


def damage(trials: Trials, model: onnx.ModelProto, threads: int = 0) -> float:
    """Error power at the logits of `trials`, as a share of theirs, of `model`: the network with one block in INT8."""
    error = simulate(trials.rest(model), trials.batches, threads) - trials.reference
    return float(np.square(error, dtype=np.float64).sum() / np.square(trials.reference, dtype=np.float64).sum())


def simulate(model: onnx.ModelProto, batches: Iterable[np.ndarray], threads: int = 0) -> np.ndarray:
    """Logits of a Q/DQ graph."""
    return logits_of(open_session(model, threads, integer=False), batches)


@dataclass(frozen=True)
class Move:
    """A block taken out of the chain, or further out: what it costs and what that takes off the damage."""

    block: str
    form: str
    price: float  # microseconds of a run, predicted
    gain: float  # damage less, as a share of the logits' power

    @property
    def worth(self) -> float:
        return self.gain / self.price if self.price > 0 else float("inf")


def moves(prepared: Prepared, damages: Mapping[str, Mapping[str, float]], target: str) -> list[Move]:
    """What may be moved out of the chain, in the order in which to do it: most damage for the predicted time first.

    Damages of blocks add up at the logits (within 1 dB on the networks tried), and so nearly do times, so this is the
    knapsack's greedy answer. A block's own moves come in the order of their price.
    """
    whole = time_of(prepared, {}, target)
    found: list[Move] = []
    for block in prepared.blocks:
        forms = [form for form in block.forms() if form != "chain"]
        left = {"fp16": 0.0, **damages[block.name]}
        prices = {form: time_of(prepared, {block.name: form}, target) - whole for form in forms}
        price, harm = 0.0, left["chain"]
        while steps := [
            Move(block.name, form, prices[form] - price, harm - left[form])
            for form in forms
            if left[form] < harm and (prices[form] > price or not price)
        ]:
            step = max(steps, key=lambda move: move.worth)
            found.append(step)
            price, harm = prices[step.form], left[step.form]
            forms.remove(step.form)
    return sorted(found, key=lambda move: -move.worth)


def search(
    prepared: Prepared,
    ordered: list[Move],
    budget: Budget,
    measure: Callable[[onnx.ModelProto], Measured],
    target: str,
) -> tuple[Point, list[Point], bool]:
    """(the fewest of the moves `ordered` that meet `budget`, every point measured, whether it is met).

    `measure` measures a graph. Doubles their number until the budget is met and halves the step from there. If it can't be
    met, the best point.
    """
    points: dict[int, Point] = {}

    def at(count: int) -> Point:
        if count not in points:
            points[count] = point_of(prepared, {move.block: move.form for move in ordered[:count]}, measure, target)
        return points[count]

    low, high = -1, 0
    while not budget.met(at(high)) and high < len(ordered):
        low, high = high, min(max(1, 2 * high), len(ordered))
    met = budget.met(at(high))
    while met and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.met(at(middle)) else (middle, high)
    if met:  # and for the frontier what twice as many would give
        at(min(max(1, 2 * high), len(ordered)))
    found = [points[count] for count in sorted(points)]
    if met:
        return points[high], found, True
    return max(found, key=budget.nearness), found, False


def point_of(
    prepared: Prepared, forms: Mapping[str, str], measure: Callable[[onnx.ModelProto], Measured], target: str
) -> Point:
    """What the blocks in `forms` (by name; \"chain\" where none is given) cost and give."""
    network, kept = prepared.network, tuple(higher_precision(prepared.blocks, forms))
    never = {layer.name for layer in network.layers} - set(prepared.layers)
    graph = prepared.graph(forms)
    return Point(
        kept,
        share_in_int8(network, never | set(kept)),
        *measure(graph),
        forms=dict(forms),
        activations=shares(network, graph)["activations"],
        time=time_of(prepared, forms, target) / time_in_float(network, target),
    )


def measured(run: Run, budget: Budget) -> Callable[[onnx.ModelProto], Measured]:
    """What `search` measures with: the images held out, or all, if `budget` counts images."""
    rows = np.arange(len(run.images)) if budget.counts else np.asarray(run.held_out)
    judged = np.isin(rows, run.held_out)
    labels, reference = run.images.labels, run.reference[rows]

    def measure(model: onnx.ModelProto) -> Measured:
        logits = simulate(model, run.batches("trying a choice of forms", rows), run.threads)
        lost = 0.0
        if labels is not None:
            right = [(one.argmax(1) == labels[rows]).mean() for one in (reference, logits)]
            lost = 100 * float(right[0] - right[1])
        return top1_agreement(reference, logits), lost, sqnr(reference[judged], logits[judged]), len(rows)

    return measure
