"""Which blocks leave the chain: those that do most damage for their predicted time, and as few as the budget takes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibration.budget import Budget
from calibration.layer_graph import LayerGraph, chunks
from calibration.quantise.blocks import FORMS
from calibration.quantise.prepare import Prepared, prepare
from calibration.search.predicted import BATCH, time_in_float, time_of
from calibration.search.sensitivity import Move, moves, search
from export.cost import cost


@pytest.fixture
def prepared(network: LayerGraph, batch: np.ndarray) -> Prepared:
    return prepare(network, lambda: chunks(batch), 1)


def alike(prepared: Prepared) -> dict[str, dict[str, float]]:
    """Every block does the same damage, a third of it without its depthwise layer."""
    return {
        block.name: {form: 1e-3 if form == "chain" else 3e-4 for form in block.forms() if form != "fp16"}
        for block in prepared.blocks
    }


def test_moves_weigh_damage_against_predicted_time(prepared: Prepared) -> None:
    ordered = moves(prepared, alike(prepared), "tensorrt")
    assert {move.block for move in ordered} == {block.name for block in prepared.blocks}
    assert [move.worth for move in ordered] == sorted((move.worth for move in ordered), reverse=True)
    whole = cost(prepared.graph()).microseconds(BATCH)
    for block in prepared.blocks:
        own = [move for move in ordered if move.block == block.name]
        assert own[-1].form == "fp16" and sum(move.gain for move in own) == pytest.approx(1e-3)
        assert all(move.form in FORMS and move.gain > 0 for move in own)
        total = cost(prepared.graph({block.name: "fp16"})).microseconds(BATCH) - whole
        assert sum(move.price for move in own) == pytest.approx(total)
    worst = {**alike(prepared), "second": {"chain": 1e6, "pointwise": 1e5, "project": 1e5}}
    assert moves(prepared, worst, "tensorrt")[0].block == "second"


def test_what_is_cheaper_and_better_comes_first(prepared: Prepared) -> None:
    free = [Move("a", "fp16", -1.0, 1e-9), Move("b", "fp16", 1.0, 1.0)]
    assert free[0].worth > free[1].worth


def test_search_finds_the_fewest_moves_that_meet_the_budget(prepared: Prepared) -> None:
    ordered = moves(prepared, alike(prepared), "tensorrt")

    def measure(model: onnx.ModelProto) -> tuple[float, float, float, int]:
        kept = len(prepared.layers) - sum(
            node.op_type == "DequantizeLinear" and node.name.endswith("weight_dq") for node in model.graph.node
        )
        return min(1.0, 0.9 + 0.02 * kept), 0.0, 10.0 + kept, 0

    best, points, met = search(prepared, ordered, Budget(agreement=0.96), measure, "tensorrt")
    assert met and len(best.kept) >= 3
    for fewer in range(len(best.forms)):
        forms = {move.block: move.form for move in ordered[:fewer]}
        assert measure(prepared.graph(forms))[0] < 0.96
    assert points[0].forms == {} and points[0].kept == (), "the frontier begins with everything in INT8"
    assert points[0].activations < points[-1].activations < 1.5
    best, _, met = search(prepared, ordered, Budget(sqnr=99), measure, "tensorrt")
    assert not met and best.sqnr == 10.0 + len(prepared.layers)


def test_on_a_processor_depthwise_layers_leave_int8_first(prepared: Prepared) -> None:
    """They gain next to nothing there, whatever bytes they save on a GPU."""
    first = {move.block: move.form for move in reversed(moves(prepared, alike(prepared), "cpu"))}
    assert first["second"] == "pointwise"
    whole, without = (time_of(prepared, forms, "cpu") for forms in ({}, {"second": "pointwise"}))
    assert whole < without < 1.1 * whole < time_in_float(prepared.network, "cpu")
