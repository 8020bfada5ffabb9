"""Which layers stay in higher precision: those that do most damage for their MACs, and as few as the budget takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from calibration.budget import DEFAULT_BUDGET, Budget
from calibration.layer_graph import LayerGraph, chunks, logits_of, open_session
from calibration.quantise.placement import TARGETS, share_in_int8
from calibration.quantise.prepare import Prepared, prepare
from calibration.search.sensitivity import damage, order, refine, search
from calibration.search.trials import Trials


@pytest.fixture
def prepared(network: LayerGraph, batch: np.ndarray) -> Prepared:
    return prepare(network, TARGETS["tensorrt"], lambda: chunks(batch), 1)


def flat(prepared: Prepared) -> dict[str, float]:
    """Damages that make the order that of the layers' MACs, the smallest first."""
    return dict.fromkeys(prepared.layers, 1e-3)


def test_order_weighs_damage_against_macs(network: LayerGraph, prepared: Prepared) -> None:
    taken = order(network, flat(prepared), 1.0)
    costs = [network.layer(name).macs for name in taken]
    assert costs == sorted(costs) and set(taken) == set(prepared.layers)
    worst = {**flat(prepared), taken[-1]: 1e6}
    assert order(network, worst, 1.0)[0] == taken[-1]


@pytest.mark.parametrize("allowance", [0.0, 0.05, 0.2])
def test_order_keeps_within_the_allowance(network: LayerGraph, prepared: Prepared, allowance: float) -> None:
    never = {layer.name for layer in network.layers} - set(prepared.layers)
    taken = order(network, flat(prepared), allowance)
    if taken:
        assert 1 - share_in_int8(network, never | set(taken)) <= allowance + 1e-9


def test_search_finds_the_fewest_that_meet_the_budget(prepared: Prepared) -> None:
    def measure(model: onnx.ModelProto) -> tuple[float, float, float, int]:
        kept = len(prepared.layers) - sum(
            node.op_type == "DequantizeLinear" and node.name.endswith("weight_dq") for node in model.graph.node
        )
        return min(1.0, 0.9 + 0.02 * kept), 0.0, 10.0 + kept, 0

    best, points, met = search(prepared, flat(prepared), Budget(agreement=0.96), measure)
    assert met and len(best.kept) == 3
    assert points == sorted(points, key=lambda point: len(point.kept))
    best, _, met = search(prepared, flat(prepared), Budget(sqnr=99), measure)
    assert not met and best.sqnr == max(10.0 + len(prepared.layers), best.sqnr)


def test_what_does_much_damage_for_its_macs_stays_in_higher_precision_though_the_budget_is_met(
    network: LayerGraph, prepared: Prepared
) -> None:
    cheapest = order(network, flat(prepared), 1.0)[0]
    share = network.layer(cheapest).macs / network.macs
    quiet = dict.fromkeys(prepared.layers, 1e-9)

    def measure(model: onnx.ModelProto) -> tuple[float, float, float, int]:
        return 1.0, 0.0, 30.0, 0

    for decibel_for_a_percent, kept in ((0.3, ()), (0.7, (cheapest,))):
        taken_off = 10**-2.5 * (1 - 10 ** (-decibel_for_a_percent / 10)) / 0.01 * share
        wanted = replace(DEFAULT_BUDGET, allowance=1.0)
        best, points, met = search(prepared, {**quiet, cheapest: taken_off}, wanted, measure)
        assert met and best.kept == kept
        assert points[0].kept == ()  # the curve begins with everything in int8
        assert len(points[-1].kept) == max(1, 2 * len(kept))  # and goes beyond the choice
    best, _, _ = search(prepared, {**quiet, cheapest: 1.0}, Budget(agreement=0.9), measure)
    assert best.kept == ()  # whoever gives a budget gets the fewest


def test_refining_never_does_more_damage(network: LayerGraph, prepared: Prepared, batch: np.ndarray) -> None:
    trials = Trials(network, batch, logits_of(open_session(network.to_model(), 1), [batch]))
    name = "first/depthwise"
    narrow = prepared.layers[name].range.stretched(0.2, 0)
    prepared.layers[name] = prepared.with_range(name, narrow)
    before = damage(prepared, name, prepared.layers[name], trials, 1)
    found = refine(prepared, name, prepared.layers[name], trials, 1)
    assert damage(prepared, name, found, trials, 1) < 0.5 * before
    assert found.range.scale > narrow.scale
