"""Histograms count right, whatever their number of images, and the ranges chosen from them do the least harm."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.collect.ranges import (
    LEVELS,
    METHODS,
    Histogram,
    Range,
    choose,
    collect,
    half_precision,
    percentile,
)
from calibration.layer_graph import LayerGraph, chunks, open_session
from export.graphs import with_outputs


def quantised(values: np.ndarray, chosen: Range) -> np.ndarray:
    whole = np.clip(np.round((values + chosen.offset) / chosen.scale), -LEVELS, LEVELS)
    return whole * chosen.scale - chosen.offset


def heavy_tailed(channels: int = 4, count: int = 40000) -> np.ndarray:
    return np.random.default_rng(0).standard_t(3, (count, channels)).astype(np.float32)


@pytest.mark.parametrize("chosen", [Range(0.05), Range(0.01), Range(0.3), Range(0.02, -1.0), Range(0.02, 2.0)])
def test_errors_are_those_of_quantising(chosen: Range) -> None:
    values = heavy_tailed()
    histogram = Histogram(4)
    histogram.add(values)
    mean, square = histogram.errors([chosen.scale], [chosen.offset])
    error = quantised(values, chosen) - values
    np.testing.assert_allclose(square[0], np.square(error).mean(0), rtol=0.1)
    np.testing.assert_allclose(mean[0], error.mean(0), atol=0.03 * np.sqrt(square[0]).max())


def test_memory_does_not_depend_on_the_number_of_pictures(network: LayerGraph, batch: np.ndarray) -> None:
    def after(pictures: int) -> int:
        found = collect(network, ["first_gated", "images"], chunks(np.tile(batch, (pictures // 16, 1, 1, 1))), 1)
        assert found["images"].counts.sum() > 0
        return sum(histogram.counts.nbytes for histogram in found.values())

    assert after(64) == after(1024)


def test_collect_sees_extremes_wherever_they_are(network: LayerGraph, batch: np.ndarray) -> None:
    names = ["images", *(layer.input for layer in network.layers), *(r.identity for r in network.residuals)]
    names = sorted(set(names))
    outputs = [name for name in names if name != "images"]
    session = open_session(with_outputs(network.to_model(), outputs), 1)
    values = {"images": batch, **dict(zip(outputs, session.run(outputs, {"images": batch})))}
    for name, histogram in collect(network, names, chunks(batch), 1).items():
        assert histogram.high == pytest.approx(values[name].max(), rel=1e-5), name
        # an activation's lowest value is that of its sample: its bound is near
        assert values[name].min() - 1e-6 <= histogram.low <= max(values[name].min() + 0.3, 0), name
        assert histogram.counts.sum() > 0 and len(histogram.counts) == values[name].shape[1]


def test_percentile_and_extremes() -> None:
    histogram = Histogram(1)
    histogram.add(np.linspace(-2, 1, 30001, dtype=np.float32)[:, None])
    assert METHODS["max"](histogram) == 2
    assert percentile(histogram, 0.9) == pytest.approx(1.7, rel=0.02)


@pytest.mark.parametrize("name", ["99.9", "99.99", "99.999"])
def test_percentiles_are_those_that_they_are_called_by(name: str) -> None:
    values = np.random.default_rng(0).standard_t(3, (400_000, 1)).astype(np.float32)
    histogram = Histogram(1)
    histogram.add(values)
    above = np.mean(np.abs(values) > METHODS[name](histogram))
    assert above == pytest.approx(1 - float(name) / 100, rel=0.5), above


def test_entropy_cuts_a_long_tail_off_and_no_more() -> None:
    """Bell-shaped values of deviation 1 and a few that lie far out: a limit near the bell's edge keeps its shape best."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 200_000), random.uniform(60, 100, 20)]).astype(np.float32)
    histogram = Histogram(1)
    histogram.add(values[:, None])
    assert 3 < METHODS["entropy"](histogram) < 20


def test_an_error_that_the_bias_takes_off_costs_no_range() -> None:
    """A channel that always has the same large value is wrong by the same amount in every image, if it is cut off."""
    random = np.random.default_rng(0)
    values = np.stack([np.full(20_000, 10.0), random.normal(0, 0.1, 20_000)], 1).astype(np.float32)
    histogram = Histogram(2)
    histogram.add(values)
    assert choose(histogram, [np.ones(2)]).limit < 1
    shifted = choose(histogram, [np.ones(2)], shifted=True)
    assert shifted.scale < 1 / LEVELS


def test_every_method_gives_a_range_within_the_values() -> None:
    histogram = Histogram(4)
    histogram.add(heavy_tailed())
    for name, method in METHODS.items():
        assert 0 < method(histogram) <= histogram.max, name


def test_choice_is_no_worse_than_any_method() -> None:
    values, gain = heavy_tailed(), np.array([1.0, 0.1, 3.0, 0.0])
    histogram = Histogram(4)
    histogram.add(values)

    def harm(chosen: Range) -> float:
        return float((quantised(values, chosen) - values).var(0) @ gain)

    ours = harm(choose(histogram, [gain]))
    assert ours < 0.7 * harm(Range(histogram.max / LEVELS))
    for name, method in METHODS.items():
        assert ours <= 1.05 * harm(Range(method(histogram) / LEVELS)), name


def test_an_offset_halves_the_step_of_one_sided_values() -> None:
    values = np.random.default_rng(0).uniform(0, 6, (20000, 3)).astype(np.float32)
    histogram = Histogram(3)
    histogram.add(values)
    plain, moved = (choose(histogram, [np.ones(3)], shifted) for shifted in (False, True))
    assert moved.scale == pytest.approx(plain.scale / 2, rel=0.02)
    assert (
        np.square(quantised(values, moved) - values).mean() < 0.3 * np.square(quantised(values, plain) - values).mean()
    )


def test_zero_stays_zero_behind_an_offset() -> None:
    """Most of what stands behind a gate is zero: an error there would be the same all over the map."""
    histogram = Histogram(3)
    histogram.add(np.random.default_rng(0).uniform(-0.37, 5.1, (20000, 3)).astype(np.float32))
    for found in (choose(histogram, [np.ones(3)], shifted=True), Range(0.017, -2.3).stretched(1.3, -0.37)):
        assert found.offset and np.abs(quantised(np.zeros(1), found)) < 0.1 * found.scale


def test_a_tensor_that_is_always_zero_gets_a_scale_that_divides() -> None:
    histogram = Histogram(2)
    histogram.add(np.zeros((100, 2), np.float32))
    assert choose(histogram, [np.ones(2)]).scale == 1
    assert choose(histogram, [np.ones(2)], shifted=True) == Range(1.0)


def test_half_precision_is_exact_in_fp16_and_never_zero() -> None:
    values = np.array([1e-12, -1e-12, 0.0, 0.1, 1e9])
    got = half_precision(values)
    np.testing.assert_array_equal(got.astype(np.float16).astype(np.float32), got)
    assert (got[[0, 1]] != 0).all() and got[2] == 0 and np.isfinite(got).all()
