"""Accuracy against latency in one chart; the only module that needs matplotlib."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import UserError
from ..html_page import BLUE, GREEN, GREY, ORANGE, PURPLE
from ..invocation import install
from .rows import Interval, Row, frontier, of_batch

COLOURS = {"fp32": BLUE, "fp16": GREEN, "int8": ORANGE, "int8-fp16": PURPLE}
OTHERS = GREY  # third-party networks
# Colours that a page replaces by its own, light or dark.
INK, MUTED, LINE, PAPER = "#1c2330", "#4a5364", "#e3e6ec", "#fffffe"
_MARKERS, _DASHES = "os^D", ("-", "--", ":", "-.")  # by backend
_MB = 2.2  # square points of a marker for one MB of the model file
_SMALLEST = 14


class Size(NamedTuple):
    """Of the chart, inches."""

    width: float
    height: float


WIDE, NARROW = Size(8.5, 5.4), Size(4.3, 5.6)


def png(rows: Sequence[Row]) -> bytes:
    return _written(_figure(rows, WIDE), "png", dpi=150, facecolor="white")


def svg(rows: Sequence[Row], size: Size = WIDE) -> str:
    """The chart as SVG on white. Raises UserError without matplotlib, as every function here that draws."""
    return _written(_figure(rows, size), "svg", facecolor="white").decode()


def svg_for_page(rows: Sequence[Row], size: Size, name: str) -> str:
    """The same for use inside a page: transparent, in the page's colours, without ids that another chart may have too."""
    text = _written(_figure(rows, size), "svg", transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' id="[A-Za-z]+[A-Za-z0-9]*_[0-9_]+"', "", text)  # of groups, which nothing refers to
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text))
    for colour, variable in ((INK, "ink"), (MUTED, "muted"), (LINE, "line"), (PAPER, "paper")):
        text = text.replace(colour, f"var(--{variable})")
    return text


def can_draw(rows: Sequence[Row]) -> bool:
    """Whether any row has both a latency and an accuracy."""
    return bool(_shown(rows))


class Point(NamedTuple):
    """A row as it is drawn."""

    row: Row
    ms: float
    top1: float  # %
    interval: Optional[Interval]  # None: accuracy as published
    area: float  # square points

    @property
    def measured(self) -> bool:
        return self.interval is not None


def _shown(rows: Sequence[Row]) -> List[Point]:
    """The rows of the smallest batch that have both a latency and an accuracy."""
    return [
        Point(row, row.latency.total.p50, row.top1.top1, row.top1.interval, _SMALLEST + _MB * row.latency.file_mb)
        for row in of_batch([row for row in rows if row.latency])
        if row.latency and row.top1
    ]


def _figure(rows: Sequence[Row], size: Size) -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(f"The chart needs matplotlib ({error}): {install('matplotlib')}.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = _shown(rows)
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "sweep",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "grid.color": LINE,
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=size)
        _draw(axes, shown)
        _label_axes(axes, shown)
        figure.tight_layout()
        _name(figure, axes, shown)
        pyplot.close(figure)
    return figure


def _draw(axes: Any, points: Sequence[Point]) -> None:
    from matplotlib.lines import Line2D

    backends = list(dict.fromkeys(point.row.backend_name for point in points))
    handles: Dict[str, Any] = {}
    for (precision, backend, full, _), line in _series(points).items():
        colour, index = COLOURS.get(precision, OTHERS), backends.index(backend) % len(_MARKERS)
        dash: Any
        marker, dash = _MARKERS[index], _DASHES[index] if precision in COLOURS else ""
        x, y = [point.ms for point in line], [point.top1 for point in line]
        if precision in COLOURS:
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.2, alpha=0.8, zorder=2)
        for point in line:
            if point.interval:  # how sure the accuracy is
                axes.vlines(point.ms, *point.interval, color=colour, linewidth=0.8, alpha=0.55, zorder=1)
        axes.scatter(
            x,
            y,
            s=[point.area for point in line],
            marker=marker,
            facecolor=colour if full else PAPER,
            edgecolor=PAPER if full else colour,
            linewidth=0.8 if full else 1.4,
            zorder=3,
        )
        label = (precision.upper() if precision in COLOURS else "third-party networks") + (
            f", {backend}" if len(backends) > 1 else ""
        )
        handles.setdefault(
            label, Line2D([], [], color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.2, label=label)
        )
    best = frontier([point.row for point in points])
    if len(best) > 1:
        x, y = [each.ms for each in best], [each.top1 for each in best]
        axes.step(x, y, where="post", color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1.5)
        handles["frontier"] = Line2D(
            [], [], color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label="nothing measured is better"
        )
    if not all(point.measured for point in points):
        handles["hollow"] = Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markerfacecolor=PAPER,
            markeredgecolor=MUTED,
            markersize=6,
            label="hollow: accuracy as published",
        )
    columns = 3 if axes.figure.get_figwidth() > NARROW.width else 2  # below the axes, where no point is
    axes.legend(
        handles=list(handles.values()),
        loc="upper center",
        bbox_to_anchor=(0.45, -0.13),
        ncol=columns,
        fontsize=8,
        frameon=False,
    )


def _series(points: Sequence[Point]) -> Dict[Tuple[str, str, bool, str], List[Point]]:
    """The points that a line joins, fastest first: of one precision, backend and branch of the family, all measured or all
    published."""
    found: Dict[Tuple[str, str, bool, str], List[Point]] = {}
    for point in sorted(points, key=lambda point: point.ms):
        row = point.row
        precision = "third-party" if row.foreign else row.precision
        branch = row.variant.rstrip("0123456789")
        found.setdefault((precision, row.backend_name, point.measured, branch), []).append(point)
    return found


def _label_axes(axes: Any, points: Sequence[Point]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    times = [point.ms for point in points]
    low, high = min(times) / 1.25, max(times) * 1.3
    axes.set_xlim(low, high)
    wide = high / low > 300
    ticks = [m * 10.0**e for e in range(-3, 7) for m in ((1, 3) if wide else (1, 2, 5))]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) < 3:
        inside = [
            m * 10.0**e
            for e in range(-3, 7)
            for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
            if low <= m * 10.0**e <= high
        ]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    batch = points[0].row.batch
    axes.set_xlabel(f"median ms, from JPEG bytes to top-5{'' if batch == 1 else f', batch {batch}'} (log)")
    axes.set_ylabel("top-1, %")
    axes.margins(y=0.09)
    axes.set_title(f"{_where(points)}\narea of a point: its model file", fontsize=9, loc="left", color=MUTED)
    axes.grid(alpha=0.6, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _where(points: Sequence[Point]) -> str:
    """What accuracy was measured on."""
    sets = {(each.data, each.images) for each in (point.row.accuracy for point in points if point.measured) if each}
    if not sets:
        return "accuracy as published, on ImageNet"
    if len(sets) == 1:
        data, images = sets.pop()
        return f"accuracy on {data}, {images} image{'s'[: images != 1]}"
    return f"accuracy on {', '.join(sorted({data for data, _ in sets}))}"


def _name(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Writes each point's name where it hides the least: around its marker, the first free place of eight."""
    from matplotlib.transforms import Bbox

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    discs, taken = [], []  # markers; what a name would hide
    for point in points:
        x, y = axes.transData.transform((point.ms, point.top1))
        radius = (point.area**0.5 / 2 + 1) * scale
        discs.append((point.row, x, y, radius))
        taken.append(Bbox.from_extents(x - radius * 0.8, y - radius * 0.8, x + radius * 0.8, y + radius * 0.8))
    taken.append(axes.get_legend().get_window_extent(renderer))
    for line in axes.get_lines():  # a box every few pixels along it
        corners = line.get_transform().transform(line.get_xydata())
        for (x0, y0), (x1, y1) in zip(corners, corners[1:]):
            steps = int(max(abs(x1 - x0), abs(y1 - y0)) / (3 * scale)) + 1
            for x, y in ((x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps)):
                taken.append(Bbox.from_extents(x - 1.5 * scale, y - 1.5 * scale, x + 1.5 * scale, y + 1.5 * scale))
    frame = axes.get_window_extent(renderer)
    for row, x, y, radius in sorted(discs, key=lambda disc: disc[1]):
        name = row.variant if not row.foreign or row.precision == "fp32" else f"{row.variant} {row.precision}"
        text = axes.text(
            0,
            0,
            name,
            fontsize=8,
            color=MUTED if row.foreign else COLOURS[row.precision],
            transform=None,
            ha="center",
            va="center",
            zorder=4,
        )
        box = text.get_window_extent(renderer)
        width, height = box.width / 2 + scale, box.height / 2
        places = []
        for far, (right, up) in itertools.product((1.0, 1.5), _AROUND):
            cx, cy = x + right * (radius + width) * far, y + up * (radius + height) * far
            place = Bbox.from_extents(cx - width, cy - height, cx + width, cy + height)
            hidden = sum(_overlap(place, other) for other in taken) + 4 * (
                place.width * place.height - _overlap(place, frame)
            )
            hidden += (
                0.05 * place.width * place.height * far * (1 + _AROUND.index((right, up)) / 8)
            )  # near, and in this order
            places.append((hidden, cx, cy, place))
        _, cx, cy, place = min(places, key=lambda candidate: candidate[0])
        text.set_transform(axes.transData)
        text.set_position(axes.transData.inverted().transform((cx, cy)))
        taken.append(place)


_AROUND = ((-0.75, 0.75), (0.75, -0.75), (0, 1), (1, 0), (0, -1), (-1, 0), (0.75, 0.75), (-0.75, -0.75))  # right, up


def _overlap(a: Any, b: Any) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)


def _written(figure: Any, form: str, **options: Any) -> bytes:
    import matplotlib

    out = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sweep"}):
        figure.savefig(out, format=form, metadata=metadata, **options)
    return out.getvalue()
