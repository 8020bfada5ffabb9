"""The statistics that `runtime.evaluate` prints, against values computed elsewhere."""

import pytest

from runtime.measure.accuracy import mcnemar, paired_difference, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # R: prop.test(..., correct = FALSE)$conf.int
    [(94, 100, 0.875234, 0.972210), (0, 20, 0.0, 0.161125), (20, 20, 0.838875, 1.0), (471, 500, 0.917975, 0.959307)],
)
def test_wilson(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=2e-4)


def test_no_pictures_tell_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert paired_difference(0, 0, 0) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    # twice the binomial's tail: R's binom.test(min, gained + lost)$p.value
    [(0, 0, 1.0), (0, 5, 0.0625), (1, 9, 0.021484), (10, 10, 1.0), (300, 200, 8.96e-06)],
)
def test_mcnemar(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, rel=0.02)


def test_a_paired_difference_is_surer_than_two_separate_accuracies_and_never_certain():
    difference, low, high = paired_difference(3, 6, 500)
    assert difference == pytest.approx(-0.006) and low < difference < high
    single = wilson(470, 500)
    assert high - low < single[1] - single[0]
    assert paired_difference(0, 0, 500)[2] > 0 > paired_difference(0, 0, 500)[1]
