"""Rounded weights: closer at the output than to the nearest, unbiased, and safe for dead channels."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.layer_graph import LayerGraph, chunks, open_session
from calibration.quantise.rounding import Moments, collect_moments, corrected_bias, round_weights
from export.graphs import with_outputs


@pytest.mark.parametrize("depthwise", [False, True])
def test_output_error_is_less_than_to_the_nearest(depthwise: bool) -> None:
    random = np.random.default_rng(0)
    signals = random.normal(0, 1, (12, 9, 4)) @ random.normal(0, 1, (12, 4, 2000))  # nine inputs that four things move
    covariances = np.stack([np.cov(signal) for signal in signals])
    weight = random.normal(0, 1, (12, 1, 3, 3) if depthwise else (12, 9, 1, 1)).astype(np.float32)
    moments = Moments(np.zeros((12, 9)), covariances) if depthwise else Moments(np.zeros(9), covariances[0])

    def error(rounded: np.ndarray, scale: np.ndarray) -> float:
        off = (rounded * scale[:, None, None, None] - weight).reshape(12, 9)
        return float(np.einsum("ci,cij,cj->", off, np.broadcast_to(moments.covariance, (12, 9, 9)), off))

    assert error(*round_weights(weight, moments)) < 0.5 * error(*round_weights(weight, None))


def test_moments_are_those_of_the_input(network: LayerGraph, batch: np.ndarray) -> None:
    layer = network.layer("second/project")
    found = collect_moments(network, [layer], chunks(batch), 1)[layer.name]
    values = open_session(with_outputs(network.to_model(), [layer.input]), 1).run([layer.input], {"images": batch})[0]
    np.testing.assert_allclose(found.mean, values.mean((0, 2, 3)), atol=0.15 * values.std())
    assert (np.linalg.eigvalsh(found.covariance) > -1e-3).all()


def test_moments_of_a_larger_kernel_count_its_padding(network: LayerGraph, batch: np.ndarray) -> None:
    """At a map's corner a kernel sees padding: its corner's mean is less than its middle's by that share."""
    layers, batch = [layer for layer in network.layers if layer.kernel > 1], batch + 1  # a mean other than padding's
    assert any(layer.depthwise for layer in layers) and not all(layer.depthwise for layer in layers)
    tensors = sorted({layer.input for layer in layers} - {"images"})
    session = open_session(with_outputs(network.to_model(), tensors), 1)
    maps = {"images": batch, **dict(zip(tensors, session.run(tensors, {"images": batch})))}
    found = collect_moments(network, layers, [batch] * 60, 1)
    for layer in layers:
        values = np.pad(maps[layer.input], [(0, 0), (0, 0), layer.pads[0::2], layer.pads[1::2]])
        windows = np.lib.stride_tricks.sliding_window_view(values, [layer.kernel] * 2, (2, 3))
        expected = windows[:, :, :: layer.stride, :: layer.stride].mean((0, 2, 3)).reshape(values.shape[1], -1)
        got = found[layer.name].mean.reshape(expected.shape)
        assert np.abs(got - expected).mean() < 0.1 * np.abs(expected).mean(), layer.name
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.95, layer.name


def test_dead_channel_and_layer_without_signal() -> None:
    weight = np.ones((3, 4, 1, 1), np.float32)
    weight[1] = 0
    rounded, scale = round_weights(weight, None)
    assert (rounded[1] == 0).all() and (scale > 0).all() and (rounded[0] == 127).all()
    rounded, scale = round_weights(weight, Moments(np.zeros(4), np.zeros((4, 4))))
    assert (rounded[2] == 127).all() and np.isfinite(scale).all()


@pytest.mark.parametrize("name", ["first/depthwise", "stem"])
def test_bias_counts_no_error_where_the_kernel_sees_padding(network: LayerGraph, name: str) -> None:
    """An input that is 0.1 too large everywhere: padding is zero, and is not."""
    layer = network.layer(name)
    weight, side = network.weights[layer.weight], network.shapes[layer.input][2]
    off = np.pad(np.full((side, side), 0.1), [layer.pads[0::2], layer.pads[1::2]])
    windows = np.lib.stride_tricks.sliding_window_view(off, [layer.kernel] * 2)[:: layer.stride, :: layer.stride]
    expected = np.einsum("hwij,ocij->o", windows, weight) / np.prod(windows.shape[:2])
    inputs = network.shapes[layer.input][1]
    mean = np.zeros((len(weight), layer.kernel**2) if layer.depthwise else inputs * layer.kernel**2)
    bias = corrected_bias(layer, weight, weight, np.zeros(len(weight)), mean, np.full(inputs, 0.1), side)
    np.testing.assert_allclose(bias, -expected, rtol=1e-4, atol=1e-6)


def test_bias_takes_off_the_mean_error(network: LayerGraph) -> None:
    layer = network.layer("first/expand")
    random = np.random.default_rng(0)
    weight = network.weights[layer.weight]
    values = random.normal(1, 1, (5000, weight.shape[1]))
    rounded = np.round(weight * 8) / 8
    error = 0.25 * random.random(weight.shape[1])  # of each channel, on average
    bias = corrected_bias(layer, weight, rounded, np.zeros(len(weight)), values.mean(0), error, 16)
    flat, flat_rounded = (w.reshape(len(w), -1) for w in (weight, rounded))
    off = (values + error) @ flat_rounded.T + bias - values @ flat.T
    np.testing.assert_allclose(off.mean(0), 0, atol=1e-5)
