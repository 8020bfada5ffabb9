"""How many images Triton runs at once and how long one may wait for others: from a measured sweep, else a stated default."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..measure.timing import Timing
from ..sweep.rows import Report

_GAIN = 0.97  # a batch is worth it where an image takes at most this share of what it takes in the next smaller one
_NETWORK = ("copy in", "compute", "copy out", "launch")  # stages of a sweep's row that are the network's


class Batching(NamedTuple):
    """What a model's dynamic batcher is told."""

    most: int  # images at once, and in one request
    preferred: Tuple[int, ...]  # () leaves it to Triton: whatever waits, up to `most`
    delay_us: int  # that an image waits at most for others
    dynamic: bool  # whether images of several requests are run together
    why: str  # in words, for the comment in config.pbtxt


class _Point(NamedTuple):
    """A batch size that was measured."""

    batch: int
    ms: float  # for the whole batch
    timing: Timing

    @property
    def each(self) -> float:
        """ms an image."""
        return self.ms / self.batch


# Batches that engines are built for unless told otherwise (runtime.backends.tensorrt.options), and more than which the
# CPU gains nothing from. The delay is below a tenth of what one image takes in all on any machine seen here.
DEFAULT = Batching(
    8, (), 500, True, "a default, not measured: a sweep with BATCHES=1,8 and SWEEP=reports/NAME gives measured ones"
)


def batching_of(
    report: Optional[Report], variant: str, precision: str, backends: Sequence[str], network: bool
) -> Batching:
    """From the rows of `variant` in `precision` on one of `backends` (of several the one with the most throughput).

    `network`: by the time of the network alone, not from JPEG bytes to classes. Without rows of at least two batch
    sizes, DEFAULT, whose `why` says so.
    """
    if report is None:
        return DEFAULT
    by_backend: Dict[str, List[Timing]] = {}
    for row in report.rows:
        if row.latency and (row.variant, row.precision) == (variant, precision) and row.backend_name in backends:
            by_backend.setdefault(row.backend_name, []).append(row.latency)
    several = [timings for timings in by_backend.values() if len({timing.batch for timing in timings}) > 1]
    if not several:
        where = f"{variant} {precision} on {' or '.join(backends)}"
        return DEFAULT._replace(why=f"a default: {report.name} has no two batch sizes of {where}")
    curves = [
        sorted(
            (_Point(timing.batch, _milliseconds(timing, network), timing) for timing in timings), key=lambda p: p.batch
        )
        for timings in several
    ]
    curve = min(curves, key=lambda points: min(point.each for point in points))
    worth = [curve[0]]
    for point in curve[1:]:
        if point.each <= _GAIN * worth[-1].each:
            worth.append(point)
    first, best, largest = worth[0], worth[-1], curve[-1]
    figures = ", ".join(f"{point.batch}: {point.each:.2f}" for point in curve)
    noisy = ", on a noisy machine" if any(point.timing.noisy for point in curve) else ""
    what = "network" if network else "JPEG bytes to classes"
    told = f"{report.name}, {first.timing.backend}: ms an image ({what}) by batch {figures}{noisy}"
    if best == first:
        return Batching(largest.batch, (), 0, False, f"off, since batches gain nothing in {told}")
    saved = first.each - best.each  # ms: who waits longer loses more than the batch gives back
    sizes = tuple(point.batch for point in worth if point.batch > 1)
    return Batching(
        best.batch, sizes, max(1, round(saved * 1000)), True, f"from {told}; the delay is what the largest saves each"
    )


def _milliseconds(timing: Timing, network: bool) -> float:
    """Median for one batch."""
    if not network:
        return timing.total.p50
    return sum(timing.stages[stage].p50 for stage in _NETWORK if stage in timing.stages)
