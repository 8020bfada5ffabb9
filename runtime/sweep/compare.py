"""Two sweeps side by side, and which differences are more than noise: python -m runtime.sweep.compare A B"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ..command import run
from ..invocation import typed
from ..table import aligned
from .rows import Report, Row, flattened, read_rows

Match = Tuple[str, str, str, int]  # variant, precision, backend that ran, batch
SAME = "noise"  # what a difference is called whose intervals meet


class Pair(NamedTuple):
    """One combination in both sweeps."""

    a: Row
    b: Row

    @property
    def change(self) -> Optional[float]:
        """Of the median latency, as a share of A's; None where either was not measured."""
        if not (self.a.latency and self.b.latency):
            return None
        return self.b.latency.total.p50 / self.a.latency.total.p50 - 1

    @property
    def latency(self) -> str:
        """ "faster", "slower", SAME if the 95 % intervals of the medians meet, or what is missing."""
        if self.change is None or not (self.a.latency and self.b.latency):
            return "failed in " + " and ".join(name for name, row in zip("AB", self) if not row.latency)
        a, b = self.a.latency.total, self.b.latency.total
        if a.low <= b.high and b.low <= a.high:
            return SAME
        return "faster" if self.change < 0 else "slower"

    @property
    def accuracy(self) -> str:
        """ "better", "worse", SAME if the 95 % intervals meet, or why that can't be told."""
        a, b = self.a.accuracy, self.b.accuracy
        if not (a and b and a.top1_interval and b.top1_interval):
            return ""
        if (a.data, a.images) != (b.data, b.images):
            return "other images"
        if a.top1_interval[0] <= b.top1_interval[1] and b.top1_interval[0] <= a.top1_interval[1]:
            return SAME
        return "better" if b.top1_interval[0] > a.top1_interval[1] else "worse"


def pairs(a: Report, b: Report) -> List[Pair]:
    """The combinations that both sweeps tried, in A's order."""
    others = {_match(row): row for row in b.rows}
    return [Pair(row, others[_match(row)]) for row in a.rows if _match(row) in others]


_HEAD = (
    "variant",
    "precision",
    "backend",
    "batch",
    "A ms",
    "B ms",
    "change",
    "latency",
    "A top-1",
    "B top-1",
    "accuracy",
)


def table(a: Report, b: Report) -> str:
    """The comparison, for people."""
    found = pairs(a, b)
    lines: List[Sequence[str]] = [_HEAD]
    for pair in found:
        change = "" if pair.change is None else f"{pair.change:+.1%}"
        times = [_ms(pair.a), _ms(pair.b), change, pair.latency]
        lines.append([*map(str, _match(pair.a)), *times, _top1(pair.a), _top1(pair.b), pair.accuracy])
    text = [aligned(lines)] if found else ["The two have no combination in common."]
    matched = {_match(pair.a) for pair in found}
    for name, report in (("A", a), ("B", b)):
        alone = [" ".join(map(str, _match(row)[:3])) for row in report.rows if _match(row) not in matched]
        if alone:
            text.append(f"only in {name}: {', '.join(dict.fromkeys(alone))}")
    differing = _machines(a, b)
    if differing:
        text.append(aligned([["machine", "A", "B"], *differing]))
    moved = [pair.latency for pair in found if pair.latency in ("faster", "slower")]
    text.append(
        f"B against A, beyond the noise: {moved.count('faster')} faster, {moved.count('slower')} slower of {len(found)}; "
        f"{sum(pair.accuracy == 'better' for pair in found)} more accurate, {sum(pair.accuracy == 'worse' for pair in found)} "
        "less. Noise: the 95 % intervals meet."
    )
    return "\n\n".join(text)


def _machines(a: Report, b: Report) -> List[List[str]]:
    """What the two machines say of themselves in words that differ; figures such as temperatures always do."""
    one, two = dict(flattened(a.machine)), dict(flattened(b.machine))
    differing = []
    for name in dict.fromkeys([*one, *two]):
        left, right = one.get(name, "-"), two.get(name, "-")
        if left != right and not _PASSING & set(name.split()):
            differing.append([name, left, right])
    return differing


_PASSING = {"temperatures", "throttled", "load", "after"}  # of the moment, not of the machine


def _match(row: Row) -> Match:
    return row.variant, row.precision, row.backend_name, row.batch


def _ms(row: Row) -> str:
    return f"{row.latency.total.p50:.2f}" if row.latency else "-"


def _top1(row: Row) -> str:
    return f"{row.accuracy.top1:.1f}" if row.accuracy and row.accuracy.top1 is not None else "-"


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("sweep.compare"),
        description="Two sweeps side by side: two machines, two versions, before and after.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder of a sweep, or its sweep.json")
    parser.add_argument("b", type=Path, metavar="B")
    options = parser.parse_args(argv)
    print(table(read_rows(options.a), read_rows(options.b)))
    return 0


if __name__ == "__main__":
    run(main)
