"""Latency from encoded images to classes, and of each stage; several models in turns."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from ..images.decode import open_image
from ..images.preprocess import normalize, resize_crop
from ..networks.network import Network
from .statistics import Summary, paired_ratio, summary

TOTAL = "total"
STAGES = ("decode", "resize", "normalise", "copy in", "compute", "copy out", "launch", "softmax")
TOP = 5
_LEAST = 50  # repetitions, however quiet the machine: p99 of fewer says nothing
_WARM = 5  # repetitions that don't count: caches, clocks, CUDA graphs (captured at the third)
_SETTLING = 0.05  # of the time, that is spent on them at least: a GPU takes its time to raise its clocks
_PAUSE = 10  # s, between two lines that say how far a long measurement is
_GROWTH = 1.2  # between two looks at whether it is enough; looking every time would stop at lucky moments

Pass = Callable[[Network, Sequence[bytes]], Dict[str, float]]


class Measured(NamedTuple):
    """One model at one batch size. Milliseconds for the whole batch."""

    subject: Network
    batch: int
    total: Summary
    stages: Dict[str, Summary]  # those of STAGES that the backend tells apart
    ratio_to_first: Tuple[float, float, float]  # of totals, to the first subject's, pair by pair: median, low, high

    @property
    def throughput(self) -> float:
        """Images a second, one batch after another."""
        return self.batch * 1e3 / self.total.mean


def one_pass(
    network: Network, images: Sequence[bytes], clock: Callable[[], float] = time.perf_counter
) -> Dict[str, float]:
    """Milliseconds by stage, and TOTAL, from encoded `images` to the five likeliest classes of each.

    A backend with `timed` (TensorRT) tells copies and compute apart by the GPU's clock; what the wall clock saw beyond
    them is "launch". Elsewhere "compute" is the whole call of the backend.
    """
    recipe = network.artifact.preprocessing
    batch = recipe.empty(len(images))
    spent = dict.fromkeys(("decode", "resize", "normalise"), 0.0)
    began = last = clock()
    for row, source in zip(batch, images):
        image = open_image(source, at_least=recipe.resize_to)
        decoded = clock()
        image = resize_crop(image, recipe)
        resized = clock()
        normalize(image, recipe, row)
        now = clock()
        spent["decode"] += decoded - last
        spent["resize"] += resized - decoded
        spent["normalise"] += now - resized
        last = now
    timed: Any = getattr(network.backend, "timed", None)
    logits, on_gpu = timed(batch) if timed else (network.logits(batch), None)
    computed = clock()
    predictions: Any = getattr(network, "predictions", None)  # another head than a classifier's ends here
    if predictions:
        predictions(logits, TOP)
    ended = clock()
    milliseconds = {stage: value * 1e3 for stage, value in spent.items()}
    call = (computed - last) * 1e3
    if on_gpu is None:
        milliseconds["compute"] = call
    else:
        milliseconds["copy in"], milliseconds["compute"], milliseconds["copy out"] = on_gpu
        milliseconds["launch"] = max(0.0, call - sum(on_gpu))
    if predictions:
        milliseconds["softmax"] = (ended - computed) * 1e3
    return {**milliseconds, TOTAL: (ended - began) * 1e3}


def settled(most: float = 0.3, step: float = 0.012) -> None:
    """Returns when this process's threads are idle, or `most` seconds have passed.

    onnxruntime's workers go on spinning for 25 to 50 ms after a run (1.19 and 1.31: CPU time that the process used while
    its one Python thread slept), on cores that the model whose turn is next needs. Kernels count the time of other threads
    by ticks of 4 or 10 ms: in a shorter `step` a spinning worker looks idle.
    """
    until = time.perf_counter() + most
    while time.perf_counter() < until:
        used, began = time.process_time(), time.perf_counter()
        time.sleep(step)
        if time.process_time() - used < 0.2 * (time.perf_counter() - began):
            return


def measure(
    subjects: Sequence[Network],
    batches: Sequence[int],
    images: Sequence[bytes],
    seconds: float,
    run: Pass = one_pass,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], None] = settled,
    say: Callable[[str], None] = lambda text: None,
) -> List[Measured]:
    """A row for each subject and batch size, in that order for each batch size.

    The subjects take turns (A B A B), so that whatever drifts hits all alike, until the median of each is known to 2 %,
    or `seconds` for each have passed: then `Summary.noisy` says which is not. `images`: as many as the largest batch.
    `settle` is called before each turn where there are several.
    """
    rows: List[Measured] = []
    for batch in batches:
        say(f"batch {batch}: {len(subjects)} in turns, at most {seconds * len(subjects):.0f} s")
        times = _in_turns(subjects, images[:batch], seconds * len(subjects), run, clock, settle, say)
        totals = [[each[TOTAL] for each in own] for own in times]
        for subject, own, total in zip(subjects, times, totals):
            stages = {name: summary([each[name] for each in own]) for name in STAGES if name in own[0]}
            rows.append(Measured(subject, batch, summary(total), stages, paired_ratio(total, totals[0])))
    return rows


def _in_turns(
    subjects: Sequence[Network],
    images: Sequence[bytes],
    seconds: float,
    run: Pass,
    clock: Callable[[], float],
    settle: Callable[[], None],
    say: Callable[[str], None],
) -> List[List[Dict[str, float]]]:
    """Stage times of each subject, equally many of each: the n-th of all stand for one moment."""

    def turn(subject: Network) -> Dict[str, float]:
        if len(subjects) > 1:
            settle()
        return run(subject, images)

    began, warm = clock(), 0
    while warm < _WARM or clock() - began < _SETTLING * seconds:
        for subject in subjects:
            turn(subject)
        warm += 1
        if clock() - began > seconds:
            break
    times: List[List[Dict[str, float]]] = [[] for _ in subjects]
    began, enough = clock(), _LEAST
    told = began
    while True:
        for subject, own in zip(subjects, times):
            own.append(turn(subject))
        count = len(times[0])
        if clock() - told >= _PAUSE:  # between two turns
            told = clock()
            say(f"batch {len(images)}: {clock() - began:.0f} of at most {seconds:.0f} s")
        if count >= enough:
            if not any(summary([each[TOTAL] for each in own]).noisy for own in times):
                return times
            enough = int(count * _GROWTH)
        if clock() - began >= seconds:
            return times
