"""The scaling chart: what was measured and what was published never share an axis."""

from __future__ import annotations

import pytest

from runtime.sweep import scaling
from tests.runtime.sweep.sweep_rows import failed, row

ROWS = [
    row("b0", "fp32", 10, 88.6, published_top1=77.1),
    row("b0", "int8", 6, 88.2, published_top1=77.1),
    row("b4", "fp32", 90, published_top1=82.9, random=True),
    failed("b7", "fp32", "no memory"),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch):
    """What each panel was given: (x label, measured?, networks)."""
    pytest.importorskip("matplotlib")
    panels = []
    draw = scaling._draw

    def watch(axes, rows, axis, is_measured):
        draw(axes, rows, axis, is_measured)
        heights = [y for line in axes.get_lines() for y in line.get_ydata()]
        panels.append(
            (axis.label, is_measured, sorted(heights), {line.get_markerfacecolor() for line in axes.get_lines()})
        )

    monkeypatch.setattr(scaling, "_draw", watch)
    assert scaling.png(ROWS).startswith(b"\x89PNG")
    return panels


def test_solid_is_measured_and_hollow_is_published(drawn):
    assert [(measured, heights) for _, measured, heights, _ in drawn] == [
        *[(True, [88.6])] * 2,
        (True, [88.2, 88.6]),  # over time INT8 is a point of its own
        *[(False, [77.1, 82.9])] * 3,
    ]
    assert all((colours == {"white"}) != measured for _, measured, _, colours in drawn)
