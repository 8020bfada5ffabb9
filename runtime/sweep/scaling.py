"""How accuracy grows with multiply-adds, parameters and time, as in the paper's figure: measured and published apart."""

from __future__ import annotations

import io
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import UserError
from ..invocation import install
from .chart import COLOURS, INK, MUTED, OTHERS
from .rows import Row, of_batch


class _Axis(NamedTuple):
    """What a column of the chart stands over."""

    label: str
    of: Callable[[Row], Optional[float]]
    every: bool  # every precision, or FP32 alone: multiply-adds and parameters are the same in all


_AXES = (
    _Axis("multiply-adds, billions (log)", lambda row: _share(row, "multiply_adds", 1e9), False),
    _Axis("parameters, millions (log)", lambda row: _share(row, "parameters", 1e6), False),
    _Axis("median ms here (log)", lambda row: row.milliseconds, True),
)
_ROWS = (
    (True, "measured here: top-1, %", "solid"),
    (False, "published, on ImageNet: top-1, %", "hollow"),
)


def _share(row: Row, name: str, unit: float) -> Optional[float]:
    value = getattr(row.latency, name, None)
    return value / unit if value else None


def png(rows: Sequence[Row]) -> bytes:
    """The chart. Solid points were measured, hollow ones were published for ImageNet: other images, so another scale and a row
    of their own. Raises UserError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(f"The chart needs matplotlib ({error}): {install('matplotlib')}.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    timed = [row for row in of_batch([row for row in rows if row.latency]) if row.latency]
    kinds = [kind for kind in _ROWS if any(_top1(row, kind[0]) is not None for row in timed)]
    style: Any = {"font.size": 9, "text.color": INK, "axes.edgecolor": MUTED, "axes.labelcolor": INK}
    with pyplot.rc_context({**style, "xtick.color": MUTED, "ytick.color": MUTED}):
        figure, grid = pyplot.subplots(
            len(kinds), len(_AXES), figsize=(11, 3.4 * len(kinds) + 0.4), squeeze=False, sharex="col", sharey="row"
        )
        for (is_measured, label, marker), line in zip(kinds, grid):
            for axis, axes in zip(_AXES, line):
                _draw(axes, timed, axis, is_measured)
            line[0].set_ylabel(f"{label} ({marker})")
        for axis, axes in zip(_AXES, grid[-1]):
            axes.set_xlabel(axis.label)
        handles: Dict[str, Any] = {}
        for axes in grid.flat:
            for handle, name in zip(*axes.get_legend_handles_labels()):
                handles.setdefault(name, handle)
        grid[0][-1].legend(handles=list(handles.values()), loc="lower right", frameon=False, fontsize=8)
        figure.tight_layout()
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=130, facecolor="white")
        pyplot.close(figure)
    return out.getvalue()


def _top1(row: Row, is_measured: bool) -> Optional[float]:
    """The row's accuracy of one kind: a network that was measured may have a published figure too."""
    if is_measured:
        return row.top1.top1 if row.top1 and row.top1.measured else None
    return row.published_top1 if row.precision == "fp32" else None


def _draw(axes: Any, rows: Sequence[Row], axis: _Axis, is_measured: bool) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    lines: Dict[Tuple[str, str], List[Tuple[float, float, Row]]] = {}
    for row in rows:
        x, y = axis.of(row), _top1(row, is_measured)
        if x is not None and y is not None and (axis.every or row.precision == "fp32"):
            branch = row.variant if row.foreign else row.variant.rstrip("0123456789")
            lines.setdefault((row.precision, branch), []).append((x, y, row))
    for (precision, _), points in lines.items():
        points.sort(key=lambda point: point[0])
        colour = OTHERS if points[0][2].foreign else COLOURS.get(precision, OTHERS)
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        axes.plot(
            xs,
            ys,
            marker="o",
            markersize=5,
            linewidth=1,
            color=colour,
            markerfacecolor=colour if is_measured else "white",
            label="third-party, FP32" if points[0][2].foreign else precision.upper(),
        )
        if precision == "fp32":
            for x, y, row in points:
                axes.annotate(row.variant, (x, y), (4, -9), textcoords="offset points", fontsize=7, color=MUTED)
    axes.set_xscale("log")
    axes.margins(0.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(FixedLocator([m * 10.0**e for e in range(-2, 5) for m in (1, 2, 5)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3, linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
