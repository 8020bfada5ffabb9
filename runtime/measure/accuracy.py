"""What a number of right answers is worth: intervals, and the comparison of two models on the same images."""

from __future__ import annotations

import math
from typing import Tuple

Z95 = 1.959964  # of the normal distribution, two-sided 95 %


def wilson(right: int, n: int) -> Tuple[float, float]:
    """95 % interval of a share of `right` among `n`, in 0..1 (Wilson 1927; holds near 0 and 1, where the usual one fails)."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = right / n, Z95 * Z95
    centre, reach = p + z2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (centre - reach) / (1 + z2 / n)), min(1.0, (centre + reach) / (1 + z2 / n))


def paired_difference(gained: int, lost: int, n: int) -> Tuple[float, float, float]:
    """(difference of two accuracies on the same `n` images, and its 95 % interval), in -1..1.

    `gained` images only the second model got right, `lost` only the first. The interval is Bonett and Price's (2012),
    which does not shrink to nothing where no image changed.
    """
    if n == 0:
        return 0.0, -1.0, 1.0
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return (gained - lost) / n, up - down - reach, up - down + reach


def mcnemar(gained: int, lost: int) -> float:
    """Probability of a difference at least as lopsided by chance alone (exact two-sided McNemar test)."""
    n, k = gained + lost, min(gained, lost)
    if n == 0:
        return 1.0
    log_half = n * math.log(0.5)
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + log_half) for i in range(k + 1)
    )
    return min(1.0, 2 * tail)
