"""What an error at a tensor does to the logits is foretold from one backward pass."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.collect.ranges import LEVELS, Range
from calibration.layer_graph import LayerGraph, logits_of, open_session
from calibration.quantise.placement import quantised_graph
from calibration.quantise.prepare import prepare
from calibration.search.response import error_of, respond
from calibration.search.sensitivity import damage
from calibration.search.trials import Trials
from tests.calibration.small_network import SIDE, small_model


@pytest.mark.parametrize("relu6", [False, True])
@pytest.mark.parametrize("name", ["first/depthwise", "first/project", "second/depthwise", "head"])
def test_the_range_that_is_foretold_to_be_best_is(name: str, relu6: bool) -> None:
    """Within 2 dB, among ranges that cut much off and ranges that turn most values into zero."""
    images = np.random.default_rng(3).normal(0, 0.7, (48, 3, SIDE, SIDE)).astype(np.float32)
    network = LayerGraph(small_model(relu6=relu6))
    batches = np.split(images, 6)
    tensor = network.layer(name).input
    response = respond(network, [tensor], batches)[tensor]
    prepared = prepare(network, lambda: batches, 1)
    trials = Trials(network, images, logits_of(open_session(network.to_model(), 1), batches))
    values, foretold, real = response.outputs(), [], []
    for share in (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 2.0, 8.0):
        chosen = Range(prepared.histograms[tensor].max / LEVELS * share)
        foretold.append(response.damage(error_of(values, chosen)))
        real.append(damage(trials, quantised_graph(network, {name: prepared.with_range(name, chosen)}, {}), 1))
    assert real[int(np.argmin(foretold))] < 10**0.2 * min(real)
    assert np.corrcoef(np.log(foretold), np.log(real))[0, 1] > 0.8
