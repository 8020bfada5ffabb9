"""The line that says how far long work is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from runtime import progress
from runtime.progress import Progress


@pytest.fixture()
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds go by between two looks at the clock."""
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def test_time_left_counts_what_this_run_did(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted run had done 80 of 100 already: that cost this one nothing, and 10 more do not mean nearly done."""
    evaluating = Progress("evaluating", pause=0.0)
    evaluating(80, 100)
    evaluating(90, 100)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "evaluating 80 of 100"
    minutes, seconds = second.partition("of 100, ")[2].split()[0].split(":")
    assert 20 <= 60 * int(minutes) + int(seconds) <= 60  # the 10 that are left take what the 10 before took


def test_steps_are_timed_anew_and_shown_at_once(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    calibrating = Progress("lite0:", pause=float("inf"))  # a log gets a line for each step
    for step in ("ranges", "rounding"):
        for done in range(3):
            calibrating(done, 4, step)
    assert capsys.readouterr().err.splitlines() == ["lite0: ranges, 0 of 4", "lite0: rounding, 0 of 4"]
