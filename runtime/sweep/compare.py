"""Two sweeps side by side, and which differences are more than noise: python -m runtime.sweep.compare A B"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ..command import run
from ..printable import printable
from .rows import Report, Row, facts, read_rows

Key = Tuple[str, str, str, int]
SAME = "noise"  # what a difference is called whose intervals meet


class Pair(NamedTuple):
    """One combination in both sweeps."""

    a: Row
    b: Row

    @property
    def change(self) -> Optional[float]:
        """Of the median latency, as a share of A's; None where either was not measured."""
        if "total" not in self.a or "total" not in self.b:
            return None
        return self.b["total"]["p50"] / self.a["total"]["p50"] - 1

    @property
    def latency(self) -> str:
        """ "faster", "slower", SAME if the 95 % intervals of the medians meet, or what is missing."""
        if self.change is None:
            return "failed in " + " and ".join(
                name for name, row in (("A", self.a), ("B", self.b)) if "total" not in row
            )
        a, b = self.a["total"], self.b["total"]
        if a["low"] <= b["high"] and b["low"] <= a["high"]:
            return SAME
        return "faster" if self.change < 0 else "slower"

    @property
    def accuracy(self) -> str:
        """ "better", "worse", SAME if the 95 % intervals meet, or why that can't be told."""
        if self.a.get("top1") is None or self.b.get("top1") is None:
            return ""
        if (self.a["data"], self.a["pictures"]) != (self.b["data"], self.b["pictures"]):
            return "other images"
        a, b = self.a["top1_interval"], self.b["top1_interval"]
        if a[0] <= b[1] and b[0] <= a[1]:
            return SAME
        return "better" if self.b["top1"] > self.a["top1"] else "worse"


def pairs(a: Report, b: Report) -> List[Pair]:
    """The combinations that both sweeps tried, in A's order."""
    others = {_key(row): row for row in b.rows}
    return [Pair(row, others[_key(row)]) for row in a.rows if _key(row) in others]


def table(a: Report, b: Report) -> str:
    """Everything that there is to say, for people."""
    found = pairs(a, b)
    lines = [
        [
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
        ]
    ]
    for pair in found:
        one, two = pair
        change = "" if pair.change is None else f"{pair.change:+.1%}"
        lines.append(
            [
                one["variant"],
                one["precision"],
                one["backend_name"],
                str(one["batch"]),
                _ms(one),
                _ms(two),
                change,
                pair.latency,
                _top1(one),
                _top1(two),
                pair.accuracy,
            ]
        )
    text = [_aligned(lines)] if found else ["The two have no combination in common."]
    matched = {_key(pair.a) for pair in found}
    for name, report in (("A", a), ("B", b)):
        alone = [" ".join(map(str, _key(row)[:3])) for row in report.rows if _key(row) not in matched]
        if alone:
            text.append(f"only in {name}: {', '.join(dict.fromkeys(alone))}")
    differing = _machines(a, b)
    if differing:
        text.append(_aligned([["machine", "A", "B"], *differing]))
    moved = [pair.latency for pair in found if pair.latency in ("faster", "slower")]
    text.append(
        f"B against A, beyond the noise: {moved.count('faster')} faster, {moved.count('slower')} slower of {len(found)}; "
        f"{sum(pair.accuracy == 'better' for pair in found)} more accurate, {sum(pair.accuracy == 'worse' for pair in found)} "
        "less. Noise: the 95 % intervals meet."
    )
    return "\n\n".join(text)


def _machines(a: Report, b: Report) -> List[List[str]]:
    """What the two machines say of themselves in words that differ; figures such as temperatures always do."""
    one, two = dict(facts(a.machine)), dict(facts(b.machine))
    differing = []
    for name in dict.fromkeys([*one, *two]):
        left, right = one.get(name, "-"), two.get(name, "-")
        if left != right and not _PASSING & set(name.split()):
            differing.append([name, left, right])
    return differing


_PASSING = {"temperatures", "throttled", "load", "after"}  # of the moment, not of the machine


def _key(row: Row) -> Key:
    return row["variant"], row["precision"], row["backend_name"], row["batch"]


def _ms(row: Row) -> str:
    return f"{row['total']['p50']:.2f}" if "total" in row else "-"


def _top1(row: Row) -> str:
    return "-" if row.get("top1") is None else f"{row['top1']:.1f}"


def _aligned(lines: List[List[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        printable("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()) for line in lines
    )


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.sweep.compare",
        description="Two sweeps side by side: two machines, two versions, before and after.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder of a sweep, or its sweep.json")
    parser.add_argument("b", type=Path, metavar="B")
    options = parser.parse_args(argv)
    print(table(read_rows(options.a), read_rows(options.b)))
    return 0


if __name__ == "__main__":
    run(main)
