"""Training with int8's roundings: torch computes what the Q/DQ graph says, and the graph is nearer to FP32 afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.collect.images import CalibrationImages, read_folder, split
from calibration.collect.ranges import half_precision
from calibration.layer_graph import LayerGraph, logits_of, open_session, sqnr
from calibration.quantise.placement import quantised_graph
from calibration.quantise.prepare import Prepared, prepare
from calibration.quantise.torch_graph import TorchGraph
from calibration.search.sensitivity import simulate
from calibration.train.training import Schedule, train
from tests.calibration.small_network import CLASSES, PREPROCESSING, small_model, write_images


@pytest.fixture(params=[False, True], ids=["gated", "relu6"])
def prepared(request: pytest.FixtureRequest, images: CalibrationImages) -> Prepared:
    """All layers as calibration leaves them; in either form some have an offset."""
    network = LayerGraph(small_model(relu6=request.param))
    found = prepare(network, lambda: images.batches(split(40)[0]), 1)
    assert any(layer.range.offset for layer in found.layers.values())
    return found


@pytest.fixture
def images(tmp_path: Path) -> CalibrationImages:
    return read_folder(write_images(tmp_path / "photos", 40), PREPROCESSING, CLASSES)


def int8_logits(prepared: Prepared, images: CalibrationImages, kept: tuple[str, ...] = ()) -> np.ndarray:
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities, kept, prepared.outputs)
    return simulate(graph, images.batches(), 1)


@pytest.mark.parametrize("kept", [(), ("first/depthwise", "stem")])
def test_torch_computes_what_the_graph_says(
    prepared: Prepared, images: CalibrationImages, kept: tuple[str, ...]
) -> None:
    with torch.no_grad():
        ours = TorchGraph(prepared, kept)(torch.from_numpy(np.concatenate(list(images.batches())))).numpy()
    theirs = int8_logits(prepared, images, kept)
    exact = logits_of(open_session(prepared.network.to_model(), 1), images.batches())
    assert sqnr(theirs, ours) > sqnr(exact, ours) + 20  # sums in another order turn single roundings


def test_training_brings_the_logits_nearer_also_on_pictures_not_trained_on(
    prepared: Prepared, images: CalibrationImages
) -> None:
    fit, held_out = split(len(images))
    exact = logits_of(open_session(prepared.network.to_model(), 1), images.batches())
    for name, layer in prepared.layers.items():  # far too wide: something to win back
        low = prepared.histograms[prepared.network.layer(name).input].low
        prepared.layers[name] = prepared.with_range(name, layer.range.stretched(12, low))
    trained = train(prepared, images, fit, (), Schedule(epochs=8, batch=6, weights=0.02, least_crop=0.8), 1)
    before, after = int8_logits(prepared, images), int8_logits(trained, images)
    assert sqnr(exact[fit], after[fit]) > sqnr(exact[fit], before[fit]) + 0.3
    assert sqnr(exact[held_out], after[held_out]) > sqnr(exact[held_out], before[held_out]) + 0.2


def test_what_is_trained_keeps_the_rules_of_the_graph(prepared: Prepared, images: CalibrationImages) -> None:
    trained = train(prepared, images, range(6), ("stem",), Schedule(epochs=2, batch=6, weights=0.1, scales=0.05), 1)
    assert trained.layers["stem"] is prepared.layers["stem"]
    changed = 0
    for name, layer in trained.layers.items():
        before = prepared.layers[name]
        assert layer.weight.dtype == np.int8 and layer.weight.min() >= -127 and layer.range == before.range
        assert (half_precision(layer.scale) == layer.scale).all()  # the same integers beside FP16
        changed += int((layer.weight != before.weight).sum())
    assert changed > 0


def test_the_same_seed_gives_the_same_weights(prepared: Prepared, images: CalibrationImages) -> None:
    first, second = (train(prepared, images, range(8), (), Schedule(epochs=1, batch=4), 1) for _ in range(2))
    for name in first.layers:
        assert (first.layers[name].weight == second.layers[name].weight).all()
        assert (first.layers[name].bias == second.layers[name].bias).all()


def test_unless_asked_training_leaves_the_integers_that_calibration_chose(
    prepared: Prepared, images: CalibrationImages
) -> None:
    trained = train(prepared, images, range(8), (), Schedule(epochs=2, batch=4), 1)
    for name, layer in trained.layers.items():
        assert (layer.weight == prepared.layers[name].weight).all()
    assert any((layer.bias != prepared.layers[name].bias).any() for name, layer in trained.layers.items())
    assert any((layer.scale != prepared.layers[name].scale).any() for name, layer in trained.layers.items())
