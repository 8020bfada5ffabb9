"""Turns, stopping and stages; on made-up subjects and clocks, and once on a real model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import pytest

from runtime.images.decode import ImageError
from runtime.images.preprocess import Preprocessing
from runtime.measure.image import image_of, made_up
from runtime.measure.latency import STAGES, measure, one_pass, settled
from runtime.networks.classifier import Classifier


class Machine:
    """A clock that only subjects move on, and a record of whose turn it was."""

    def __init__(self, **milliseconds: Any) -> None:
        self.now, self.turns, self.settled = 0.0, "", 0
        self.said: List[str] = []
        self.milliseconds = {name: iter(series) for name, series in milliseconds.items()}

    def run(self, subject: Any, pictures: Sequence[bytes]) -> Dict[str, float]:
        spent = next(self.milliseconds[subject]) * len(pictures)
        self.turns += subject
        self.now += spent / 1e3
        return {"compute": spent / 2, "total": spent}

    def settle(self) -> None:
        self.settled += 1

    def measure(self, subjects: Sequence[Any], batches: Sequence[int], seconds: float) -> List[Any]:
        return measure(
            subjects,
            batches,
            [b""] * 8,
            seconds,
            run=self.run,
            clock=lambda: self.now,
            settle=self.settle,
            say=self.said.append,
        )


def constant(value: float) -> Any:
    while True:
        yield value


def test_subjects_take_turns_and_ratios_are_pair_by_pair() -> None:
    drifting = [(10.0 * (1 + i / 100), 20.0 * (1 + i / 100)) for i in range(1000)]
    machine = Machine(a=(a for a, _ in drifting), b=(b for _, b in drifting))
    first, second = machine.measure(["a", "b"], [1], 2)
    assert machine.turns == "ab" * (len(machine.turns) // 2)
    assert machine.settled == len(machine.turns)
    assert first.ratio_to_first == (1, 1, 1) and second.ratio_to_first == pytest.approx((2, 2, 2))
    assert first.total.n == second.total.n
    assert first.total.noisy  # it drifts, although the ratio does not


def test_stops_when_quiet() -> None:
    machine = Machine(a=constant(10), b=constant(30))
    first, second = machine.measure(["a", "b"], [1], 100)
    assert first.total.n == 50 and machine.now < 13  # the least that p99 can be told from; 10 s warming up
    assert (first.total.p50, second.total.p50, second.total.noisy) == (10, 30, False)
    assert second.throughput == pytest.approx(1e3 / 30)
    assert second.stages["compute"].p50 == 15 and set(second.stages) == {"compute"}


def test_goes_on_while_any_is_noisy_until_the_time_is_up() -> None:
    random = np.random.default_rng(0)
    machine = Machine(a=constant(10), b=(abs(value) + 1 for value in random.normal(0, 200, 100_000)))
    quiet, noisy = machine.measure(["a", "b"], [1], 10)
    assert not quiet.total.noisy and noisy.total.noisy and quiet.total.n == noisy.total.n > 50
    assert 20 <= machine.now < 23  # 10 s for each
    assert machine.said[:2] == ["batch 1: 2 in turns, at most 20 s", "batch 1: 10 of at most 20 s"]


def test_batches() -> None:
    machine = Machine(a=constant(10))
    rows = machine.measure(["a"], [1, 8], 2)
    assert [(row.batch, row.total.p50) for row in rows] == [(1, 10), (8, 80)]
    assert rows[1].throughput == pytest.approx(100)
    assert machine.settled == 0  # alone, nobody's threads are in its way


def test_warm_up_does_not_count() -> None:
    machine = Machine(a=iter([1000.0] * 5 + [10.0] * 10_000))
    (row,) = machine.measure(["a"], [1], 1e9 / 1e6)
    assert row.total.p99 == 10


class Ticks:
    """A clock that moves a millisecond each time it is asked."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return self.now / 1e3


def fake_classifier(**backend: Any) -> Any:
    logits = np.zeros((2, 10), np.float32)
    recipe = Preprocessing(32, 0.875, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return SimpleNamespace(
        artifact=SimpleNamespace(preprocessing=recipe),
        backend=SimpleNamespace(**backend),
        logits=lambda batch: logits,
        predictions=lambda logits, top: [],
    )


def test_stages_without_a_gpu() -> None:
    spent = one_pass(fake_classifier(), [made_up((64, 48))] * 2, Ticks())
    assert spent == pytest.approx({"decode": 2, "resize": 2, "normalise": 2, "compute": 1, "softmax": 1, "total": 8})


def test_stages_by_the_gpus_clock() -> None:
    def timed(batch: np.ndarray) -> Tuple[np.ndarray, Tuple[float, float, float]]:
        assert batch.shape == (2, 3, 32, 32)
        return np.zeros((2, 10), np.float32), (0.125, 0.5, 0.0625)

    spent = one_pass(fake_classifier(timed=timed), [made_up((64, 48))] * 2, Ticks())
    assert (spent["copy in"], spent["compute"], spent["copy out"]) == (0.125, 0.5, 0.0625)
    assert spent["launch"] == pytest.approx(1 - 0.6875)
    assert sum(spent[stage] for stage in STAGES) == pytest.approx(spent["total"])


def test_a_model_that_is_run(small_model: Path) -> None:
    with Classifier(small_model, threads=1) as classifier:
        (row,) = measure([classifier], [2], [made_up()] * 2, 0.01)
    assert row.batch == 2 and row.total.n >= 1
    assert set(row.stages) == {"decode", "resize", "normalise", "compute", "softmax"}
    assert 0 < row.stages["compute"].p50 < row.total.p50


def test_settled_gives_up() -> None:
    """A process that is never idle (here: another thread that computes) must not wait for ever."""
    import threading

    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        settled(most=0.05)
    finally:
        stop.set()
        thread.join()


def test_the_picture_of_median_size(tmp_path: Path) -> None:
    for name, size in (("large.jpg", (300, 300)), ("small.jpg", (30, 30)), ("middle.jpg", (90, 90))):
        (tmp_path / name).write_bytes(made_up(size))
    assert image_of(str(tmp_path)) == (str(tmp_path / "middle.jpg"), made_up((90, 90)))
    (tmp_path / "middle.jpg").write_bytes(made_up((90, 90))[:500] + b"\0" * 3000)
    with pytest.raises(ImageError, match="middle.jpg"):
        image_of(str(tmp_path))
