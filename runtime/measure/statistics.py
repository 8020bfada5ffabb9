"""What a series of timings says, and how sure it is of it."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence, Tuple

import numpy as np

from .accuracy import Z95

QUIET = 0.02  # half width of the median's interval, as a share of the median, above which a figure is called noisy


class Summary(NamedTuple):
    """A series of timings, in the unit that they came in."""

    n: int
    p50: float
    p90: float
    p99: float
    mean: float
    std: float
    low: float  # 95 % confidence interval of the median
    high: float

    @property
    def noisy(self) -> bool:
        """Whether the median is known worse than to 2 %; of fewer than six samples it always is."""
        return _rank(self.n) == 0 or not self.high - self.low <= 2 * QUIET * self.p50


def summary(samples: Sequence[float]) -> Summary:
    """Percentiles (linear between samples), mean, standard deviation and the median's interval. `samples`: at least one."""
    values = np.sort(np.asarray(samples, np.float64))
    if values.size == 0:
        raise ValueError("no samples")
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    std = float(values.std(ddof=1)) if values.size > 1 else 0.0
    low, high = _interval_of_median(values)
    return Summary(int(values.size), p50, p90, p99, float(values.mean()), std, low, high)


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Tuple[float, float, float]:
    """(median, low, high) of a[i] / b[i], with the median's 95 % interval. What drifts in both cancels in each pair.

    Raises ValueError if the two are not of one length, or have no samples.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} samples can't be paired with {len(b)}")
    ratios = summary(np.asarray(a, np.float64) / np.asarray(b, np.float64))  # type: ignore[arg-type]
    return ratios.p50, ratios.low, ratios.high


def _interval_of_median(values: np.ndarray) -> Tuple[float, float]:
    """95 % interval from the order statistics of sorted `values`, without assuming a distribution: how many of n samples
    lie below the median is binomial (n, 1/2). Conover, Practical Nonparametric Statistics, 3.2. Fewer than six samples
    can't give 95 %: then it is their range, and `Summary.noisy` says so.
    """
    n = len(values)
    rank = max(_rank(n), 1)
    return float(values[rank - 1]), float(values[n - rank])


def _rank(n: int) -> int:
    """The largest k with P(fewer than k of n samples below the median) <= 2.5 %; the interval runs from the k-th smallest
    to the k-th largest. 0: there is none."""
    if n > 1000:  # where the normal approximation is off by no more than one rank
        return int((n - Z95 * math.sqrt(n)) / 2)
    tail, rank, term = 0.0, 0, 0.5**n
    while tail + term <= 0.025:
        tail += term
        rank += 1
        term *= (n - rank + 1) / rank
    return rank
