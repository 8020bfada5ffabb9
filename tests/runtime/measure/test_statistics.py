"""What is said of a series of timings, on distributions whose median is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runtime.measure.statistics import paired_ratio, summary


def test_percentiles_of_known_samples() -> None:
    found = summary([float(value) for value in range(101)])
    assert (found.n, found.p50, found.p90, found.p99, found.mean) == (101, 50, 90, 99, 50)
    assert found.std == pytest.approx(np.std(range(101), ddof=1))


@pytest.mark.parametrize("n", [20, 75, 1500])
def test_interval_holds_the_median_nineteen_times_of_twenty(n: int) -> None:
    """Skewed, as latencies are. Of 400 experiments binomially 380 +- 4.4; discrete ranks make the interval a little wide."""
    random = np.random.default_rng(n)
    median = np.exp(1.0)  # of a log-normal distribution: e to the power of its mean
    held = 0
    for _ in range(400):
        found = summary(random.lognormal(1.0, 0.5, n))
        held += found.low <= median <= found.high
    assert 366 <= held <= 397


def test_interval_by_the_published_ranks() -> None:
    """Conover's table of the binomial: of 10 samples the 2nd and the 9th, of 20 the 6th and the 15th, of 1001 the 470th."""
    assert summary(range(1, 11))[6:] == (2, 9)  # type: ignore[arg-type]
    assert summary(range(1, 21))[6:] == (6, 15)  # type: ignore[arg-type]
    assert summary(range(1, 1002)).low == pytest.approx(470, abs=1)  # type: ignore[arg-type]


def test_noisy_above_two_percent() -> None:
    random = np.random.default_rng(0)
    assert not summary(random.normal(10, 0.2, 200)).noisy
    assert summary(random.normal(10, 4.0, 50)).noisy


@pytest.mark.parametrize("n", [1, 3, 5])
def test_few_samples_are_noisy_whatever_they_say(n: int) -> None:
    found = summary([10.0] * n)
    assert found.noisy and (found.low, found.high) == (10, 10)
    assert "Infinity" not in json.dumps(found._asdict()) and "NaN" not in json.dumps(found._asdict())


def test_pairs_cancel_what_drifts_in_both() -> None:
    random = np.random.default_rng(0)
    drift = np.linspace(1, 3, 200)  # the machine grows three times as slow
    a, b = 1.5 * drift * random.normal(1, 0.01, 200), drift * random.normal(1, 0.01, 200)
    median, low, high = paired_ratio(a, b)
    assert low < 1.5 < high and high - low < 0.02 and low <= median <= high
    assert summary(a).high - summary(a).low > 0.2  # unpaired it would be lost


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summary([])
    with pytest.raises(ValueError, match="3 samples"):
        paired_ratio([1, 2, 3], [1, 2])
