"""Every layer gets the range and the smoothing that the logits like best, and a second call takes them from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import calibration.search.fitting
from calibration.cache import Cache
from calibration.collect.images import read_folder, split
from calibration.layer_graph import LayerGraph, logits_of, open_session
from calibration.quantise.placement import TARGETS
from calibration.quantise.prepare import prepare
from calibration.run import Run
from calibration.search.fitting import refined
from calibration.search.sensitivity import damage
from calibration.search.trials import Trials
from tests.calibration.small_network import CLASSES, PREPROCESSING, small_model, write_images


def test_a_range_far_too_wide_shrinks_and_channels_that_differ_are_smoothed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, smoothed, wide = LayerGraph(small_model()), "second/depthwise", "first/project"
    before, layer = network.layer("second/expand"), network.layer(smoothed)
    by_channel = np.geomspace(0.1, 10, len(network.weights[layer.weight]), dtype=np.float32).reshape(-1, 1, 1, 1)
    for weight, factor in ((before.weight, by_channel), (layer.weight, 1 / by_channel)):
        network.weights[weight] = network.weights[weight] * factor
    network.weights[before.bias] = network.weights[before.bias] * by_channel.ravel()
    images = read_folder(write_images(tmp_path / "photos", 24), PREPROCESSING, CLASSES)
    fit, held_out = split(len(images))
    reference = logits_of(open_session(network.to_model(), 1), images.batches())
    cache, found = Cache(tmp_path / "cache", "0" * 64), []
    run = Run(network, "tensorrt", images, fit, held_out, reference, cache, 1)
    for _ in range(2):
        prepared = prepare(network, TARGETS["tensorrt"], lambda: images.batches(fit), 1)
        stretched = prepared.layers[wide].range.stretched(12, prepared.histogram_low(wide))
        prepared.layers[wide] = prepared.with_range(wide, stretched)
        damages = refined(run, prepared)
        found.append((damages, prepared.layers))
        monkeypatch.setattr(calibration.search.fitting, "damage", None)  # the second time, nothing is tried
    (damages, layers), (again, same) = found
    trials = Trials(network, np.concatenate(list(images.batches(held_out))), reference[held_out])
    for name, layer in layers.items():  # judged on images that nothing was fitted on
        assert damages[name] == pytest.approx(damage(prepared, name, layer, trials, 1), rel=1e-3), name
    assert layers[wide].range.scale < stretched.scale / 4
    assert layers[smoothed].factors is not None
    assert damages == again and list(damages) == list(layers)
    for name, chosen in layers.items():
        assert chosen.range == same[name].range and np.array_equal(chosen.bias, same[name].bias), name
        assert (chosen.factors is None) == (same[name].factors is None)
