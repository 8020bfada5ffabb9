"""Which artifact to deploy: the answer, its reasons, and what is said where there is none."""

from __future__ import annotations

import pytest

from runtime.sweep.choose import choose
from runtime.sweep.rows import frontier
from tests.runtime.sweep.sweep_rows import failed, report, row

FAMILY = report(
    [
        row("b0", "int8", 3, 76.0, file_mb=5.0),
        row("b0", "fp32", 6, 77.0, file_mb=21.0),
        row("b1", "int8", 5, 79.0, file_mb=8.0),
        row("b2", "int8", 8, 80.5, file_mb=9.0),
        row("b2", "fp32", 14, 80.5, file_mb=36.0),
        row("b3", "int8", 12, 82.0, file_mb=12.0, joules_per_image=0.3),
        row("b7", "fp32", 2, published_top1=84.1),
        failed("b6", "int8", "no memory"),
    ]
)


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ({}, ("b3", "int8")),
        ({"max_ms": 10}, ("b2", "int8")),
        ({"max_ms": 20, "max_mb": 8}, ("b1", "int8")),
        ({"min_top1": 80}, ("b3", "int8")),
        ({"max_ms": 8}, ("b2", "int8")),  # a limit that is just kept is kept
        ({"max_joules": 0.5}, ("b3", "int8")),  # the others' is not known
    ],
)
def test_the_most_accurate_within_the_limits(limits, chosen):
    best = choose(FAMILY, limits).row
    assert (best.variant, best.precision) == chosen


def test_among_equals_the_fastest_and_never_what_is_only_published():
    two = report([row("slow", ms=9, top1=80), row("fast", ms=7, top1=80), row("told", ms=1, published_top1=99.0)])
    assert choose(two, {}).row.variant == "fast"
    assert [each.row for each in frontier(two.rows)] == [two.rows[1]]


def test_what_the_neighbours_cost():
    text = "\n".join(choose(FAMILY, {"max_ms": 10}).lines)
    assert "artifacts/b2/b2.int8.onnx" in text
    assert "next more accurate  b3 int8: 12.00 ms (+4.00), top-1 82.0 % (+1.5 points, not beyond the noise)" in text
    assert "breaks --max-ms 10" in text
    assert "next faster         b1 int8: 5.00 ms (-3.00), top-1 79.0 % (-1.5 points" in text
    assert "1 whose accuracy was not measured here" in text
    assert "none: it is the most accurate" in "\n".join(choose(FAMILY, {}).lines)


def test_where_nothing_fits_the_nearest_limit_is_told():
    choice = choose(FAMILY, {"max_ms": 11, "min_top1": 81})
    assert choice.row is None
    text = "\n".join(choice.lines)
    assert "Nearest is b2 int8" in text and "--min-top1 81" in text and "--max-ms" not in text.split("It misses")[1]
    unknown = choose(report([row(top1=77.0)]), {"max_joules": 1})
    assert unknown.row is None and "leave --max-joules out" in "\n".join(unknown.lines)


def test_where_no_accuracy_was_measured_nothing_is_chosen():
    rows = [row("b0", ms=5, random=True, published_top1=77.7), row("b1", ms=9, random=True, published_top1=79.8)]
    rows.append(
        row("b2", "int8", ms=1, random=True, published_top1=80.6)
    )  # a float network's figure says nothing of INT8
    choice = choose(report(rows), {"max_ms": 10})
    assert choice.row is None
    assert "DATA=" in choice.lines[0] and "b1 fp32" in choice.lines[1] and "published" in choice.lines[1]


def test_batches_do_not_mix():
    both = report([row(ms=5, top1=77.0), row(ms=30, top1=90.0, batch=8)])
    assert choose(both, {}).row.batch == 1
    assert choose(both, {}, batch=8).row.batch == 8
