"""What a budget asks for, what so many images can tell of it, and what it will cost."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.budget import DEFAULT_BUDGETS, Budget, Point, forecast, read_budget
from runtime.errors import UserError


def point(agreement: float = 1.0, lost: float = 0.0, sqnr: float = 20.0, images: int = 0) -> Point:
    return Point((), 1.0, agreement, lost, sqnr, images)


def test_budget_in_points_in_agreement_and_in_decibels() -> None:
    assert Budget(points=0.4).met(point(0.99, 0.4)) and not Budget(points=0.3).met(point(0.99, 0.4))
    assert Budget(agreement=0.99).met(point(0.99)) and not Budget(agreement=0.995).met(point(0.99))
    assert Budget(sqnr=20).met(point()) and not Budget(sqnr=21).met(point())


def test_images_that_cannot_tell_the_difference_do_not_cost_layers() -> None:
    """252 of 256 may well be 99.3 %, 2520 of 2560 is not."""
    wanted = Budget(agreement=0.993)
    assert wanted.met(point(252 / 256, images=256))
    assert not wanted.met(point(2520 / 2560, images=2560))
    assert not wanted.met(point(240 / 256, images=256))
    lossless = Budget(points=0)
    assert lossless.met(point(252 / 256, 100 * 2 / 256, images=256))  # three lost, one gained
    assert not lossless.met(point(246 / 256, 100 * 10 / 256, images=256))  # ten lost, none gained
    assert not Budget(sqnr=25).met(point(sqnr=24.9, images=16))  # decibels have no such noise


@pytest.mark.parametrize(
    "text, budget",
    [
        ("25dB", Budget(sqnr=25)),
        ("25 DB", Budget(sqnr=25)),
        ("99.5%", Budget(agreement=0.995)),
        ("0.5", Budget(points=0.5)),
    ],
)
def test_read(text: str, budget: Budget) -> None:
    assert read_budget(text) == budget


@pytest.mark.parametrize("text", ["much", "101%", "-1", "25dBm", ""])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UserError, match="as 25dB"):
        read_budget(text)


def test_goal_in_words() -> None:
    assert DEFAULT_BUDGETS["tensorrt"].goal == "28 dB at the logits"
    assert read_budget("99%").goal == "99 % top-1 agreement"
    assert read_budget("0.5").goal == "at most 0.5 points of top-1 lost"


def test_forecast_of_decibels_takes_the_worst_blocks_for_their_time() -> None:
    damages, costs = {"a": 0.01, "b": 0.001, "c": 0.004}, {"a": 0.1, "b": 0.1, "c": 0.8}
    reference = np.random.default_rng(0).normal(size=(100, 10))
    assert forecast(Budget(sqnr=10), damages, costs, reference) == (0, 0.0)
    assert forecast(Budget(sqnr=20), damages, costs, reference) == (1, 0.1)  # 0.005 is left, 23 dB
    assert forecast(Budget(sqnr=60), damages, costs, reference)[0] == 3


def test_forecast_of_agreement_is_what_noise_of_that_size_does() -> None:
    random = np.random.default_rng(0)
    reference, power = random.normal(size=(4000, 10)), 1.0
    costs = {str(i): 0.01 for i in range(50)}
    damages = dict.fromkeys(costs, 1e-3)  # 13 dB for all together
    layers, share = forecast(Budget(agreement=0.95), damages, costs, reference)
    left = (50 - layers) * 1e-3 * power
    noisy = reference + random.normal(size=reference.shape) * np.sqrt(left)
    assert 0 < layers < 50 and share == pytest.approx(layers * 0.01)
    assert np.mean(noisy.argmax(1) == reference.argmax(1)) == pytest.approx(0.95, abs=0.015)
    assert forecast(Budget(points=5), damages, costs, reference)[0] == layers  # no more can be lost than changes
