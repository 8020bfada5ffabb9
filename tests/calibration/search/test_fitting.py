"""Ranges that the logits like best, channels that differ made alike, and a second call that takes both from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import calibration.search.fitting
from calibration.cache import Cache
from calibration.collect.images import read_folder, split
from calibration.layer_graph import LayerGraph, logits_of, open_session
from calibration.run import Run
from calibration.search.fitting import damages_of, fitted
from calibration.search.sensitivity import damage
from calibration.search.trials import Trials
from tests.calibration.small_network import CLASSES, PREPROCESSING, small_model, write_images


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Of a network whose second depthwise layer gets channels that differ a hundredfold, and matter alike."""
    network = LayerGraph(small_model())
    before, layer = network.layer("second/expand"), network.layer("second/depthwise")
    by_channel = np.geomspace(0.1, 10, len(network.weights[layer.weight]), dtype=np.float32).reshape(-1, 1, 1, 1)
    for weight, factor in ((before.weight, by_channel), (layer.weight, 1 / by_channel)):
        network.weights[weight] = network.weights[weight] * factor
    network.weights[before.bias] = network.weights[before.bias] * by_channel.ravel()
    images = read_folder(write_images(tmp_path / "photos", 24), PREPROCESSING, CLASSES)
    fit, held_out = split(len(images))
    reference = logits_of(open_session(network.to_model(), 1), images.batches())
    return Run(network, "tensorrt", images, fit, held_out, reference, Cache(tmp_path / "cache", "0" * 64), 1)


def test_channels_that_differ_are_made_alike_without_a_node_more(run: Run) -> None:
    prepared = fitted(run)
    assert "second/depthwise" in prepared.equalised
    images = np.concatenate(list(run.images.batches(run.held_out)))
    trials = Trials(run.network, images, run.reference[run.held_out])
    (block,) = [block for block in prepared.blocks if block.depthwise == "second/depthwise"]
    graph = prepared.alone(block, "chain")
    quiet, count = damage(trials, graph, 1), len(graph.graph.node)
    prepared.equalised.clear()
    graph = prepared.alone(block, "chain")
    assert len(graph.graph.node) == count
    assert quiet < 0.5 * damage(trials, graph, 1)


def test_a_second_call_goes_on_from_the_cache(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = fitted(run)
    damages = damages_of(run, prepared)
    assert list(damages) == [block.name for block in prepared.blocks]
    images = np.concatenate(list(run.images.batches(run.held_out)))  # nothing was fitted on them
    trials = Trials(run.network, images, run.reference[run.held_out])
    for block in prepared.blocks:
        expected = {form: damage(trials, prepared.alone(block, form), 1) for form in block.forms() if form != "fp16"}
        assert damages[block.name] == pytest.approx(expected, rel=1e-3)
    for step in ("prepare", "respond", "damage"):
        monkeypatch.setattr(calibration.search.fitting, step, None)
    again = fitted(run)
    assert damages_of(run, again) == damages
    for forms in ({}, {"second": "pointwise"}):
        assert again.graph(forms).SerializeToString() == prepared.graph(forms).SerializeToString()
