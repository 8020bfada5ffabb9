"""A trial that starts in the middle of the network tells what one of the whole network tells."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibration.layer_graph import LayerGraph, chunks, logits_of, open_session
from calibration.quantise.placement import quantised_graph
from calibration.quantise.prepare import prepare
from calibration.search.sensitivity import damage
from calibration.search.trials import Trials, cuts
from tests.calibration.small_network import small_model


@pytest.mark.parametrize("relu6", [False, True])
def test_every_block_does_the_same_damage_from_the_middle_on(batch: np.ndarray, relu6: bool) -> None:
    network = LayerGraph(small_model(relu6=relu6))
    prepared = prepare(network, lambda: chunks(batch), 1)
    reference = logits_of(open_session(network.to_model(), 1), [batch])
    whole, moving = Trials(network, batch, reference), Trials(network, batch, reference)
    starts = []
    for block in prepared.blocks:
        moving.move(network.layer(block.layers[0]), 1)
        starts.append(moving.tensor)
        for form in block.forms():
            model = prepared.alone(block, form)
            expected = damage(whole, model, 1)
            assert (expected < 1e-9) == (form == "fp16")
            assert damage(moving, model, 1) == pytest.approx(expected, rel=0.02, abs=1e-9)
    assert whole.tensor == "images"
    # The offset before first/expand goes through the stem's ReLU6.
    assert starts == ["images", "images" if relu6 else "stem_out_act", "first/project_out", "second_sum"]
    rest = moving.rest(quantised_graph(network, {}, {}))
    onnx.checker.check_model(rest, full_check=True)
    assert not {"stem", "second/project"} & {node.name for node in rest.graph.node}
    assert not any(tensor.name.startswith("second") for tensor in rest.graph.initializer)


def test_nothing_goes_past_a_cut() -> None:
    network = LayerGraph(small_model())
    found = dict(cuts(network))
    nodes = network.model.graph.node
    for at, tensor in found.items():
        before = {name for node in nodes[:at] for name in node.output}
        assert {name for node in nodes[at:] for name in node.input} & (before | {"images"}) == {tensor}
    assert {"stem_out", "stem_out_act", "first/project_out", "second_sum", "pool"} <= set(found.values())
    assert "second/project_out" not in found.values()
