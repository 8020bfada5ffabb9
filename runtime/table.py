"""Rows of cells as lines of text with aligned columns, for a terminal."""

from __future__ import annotations

from typing import Collection, Sequence

from .printable import printable


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = (), gap: str = "  ") -> str:
    """`rows`, all of one length, as lines. Columns are as wide as their widest cell; those numbered in `right` are aligned
    to the right. The last column is never padded, so long text belongs there."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown)]
    lines = []
    for row in shown:
        cells = (cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        lines.append(gap.join(cells).rstrip())
    return "\n".join(lines)
