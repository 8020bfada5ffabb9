"""A sweep as one HTML page that needs no other file: chart, sortable table, stages, machine."""
# ruff: noqa: E501 - markup reads better unbroken

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Sequence

from ..html_page import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SORTING,
    definitions,
    document,
    escape,
    key,
    scrolled,
    sortable,
    tag,
)
from ..measure.timing import Timing
from .rows import Measured, Report, Row, failures, flattened, frontier, measured, title

# By stage of the way from JPEG bytes to top-5; a stage without a colour is grey.
_STAGES = {
    "decode": BLUE,
    "resize": "#5fa8d3",
    "normalise": "#9cc9e0",
    "copy in": "#c9a44c",
    "compute": ORANGE,
    "copy out": "#b8860b",
    "launch": PURPLE,
    "softmax": GREEN,
}

_STYLE = """
body { max-width: 72rem } td, th { vertical-align: top; white-space: nowrap } td small, .published { color: var(--muted) }
td.wrapped, td:first-child { white-space: normal } thead th { white-space: normal } table { font-size: .93rem } td, th { padding-right: .6rem }
td:first-child { overflow-wrap: anywhere; min-width: 5rem } tr.best td:first-child { font-weight: 600 }
.chart { margin: 0 } .chart svg { width: 100% } .chart svg text { font-family: system-ui, sans-serif !important }
.narrow { display: none }
.bar { display: flex; width: min(16rem, 45vw); margin-right: .8rem; height: .8rem; margin-top: .35rem } .bar span { height: 100% }
dd { max-width: 46rem }
@media (min-width: 40.01rem) { td small.reach { display: block } }
@media (max-width: 40rem) { .wide { display: none } .narrow { display: block } .reach { display: none } .cards td.bars, .cards.stages td:first-child { grid-column: 1 / -1 !important }
  .cards td:nth-child(-n+2):not(.bars) { grid-column: auto } .cards td.wrapped { font-weight: 400; color: var(--muted) }
  .bar { width: 100% } .stages thead { display: none } }
"""


class _Column(NamedTuple):
    """One column of the table of rows."""

    head: str
    about: str  # what hovering says
    value: Callable[[Row], Any]  # a number (then cells are right-aligned) or text; None leaves the cell empty
    text: Callable[[Any], str] = str
    number: bool = True


def _of(name: str, unit: float = 1) -> Callable[[Row], Any]:
    """A figure of the row's latency, divided by `unit`."""

    def value(row: Row) -> Any:
        found = getattr(row.latency, name, None)
        return found / unit if found is not None and unit != 1 else found

    return value


# Columns of which no row knows anything are left out.
_COLUMNS = (
    _Column("network", "", lambda row: row.variant, number=False),
    _Column("precision", "", lambda row: row.precision, number=False),
    _Column(
        "ms",
        "median from JPEG bytes to top-5, and half its 95 % interval",
        lambda row: row.milliseconds,
        "{:.2f}".format,
    ),
    _Column(
        "x the bound",
        "the network alone, over the least time that the device's memory and arithmetic allow (computed, not measured)",
        _of("times_bound"),
        "{:.1f}".format,
    ),
    _Column("top-1 %", "and its 95 % interval", lambda row: row.top1.top1 if row.top1 else None, "{:.1f}".format),
    _Column(
        "agreement %",
        "top-1 agreement with FP32",
        lambda row: getattr(row.accuracy, "agreement", None),
        "{:.1f}".format,
    ),
    _Column("file MB", "the model file", _of("file_mb"), "{:.1f}".format),
    _Column("backend", "", lambda row: row.backend, number=False),
    _Column("batch", "images in a run", lambda row: row.batch),
    _Column("p99", "ms", lambda row: row.latency and row.latency.total.p99, "{:.2f}".format),
    _Column("images/s", "one batch after the other", _of("throughput_per_s"), "{:.1f}".format),
    _Column("peak MB", "memory of the process", _of("peak_mb"), "{:.0f}".format),
    _Column("cold ms", "new process: start to first answer", _of("cold_start_ms"), "{:.0f}".format),
    _Column("J/image", "above idle", _of("joules_per_image"), "{:.3g}".format),
    _Column("px", "side of the input", _of("resolution")),
    _Column("GMACs", "multiply-accumulates for one image, billions", _of("multiply_adds", 1e9), "{:.2f}".format),
    _Column("M params", "", _of("parameters", 1e6), "{:.1f}".format),
)


def page(report: Report, charts: Sequence[str], instead: str = "") -> str:
    """`charts`: the chart as SVG for wide and for narrow screens; where there is none, `instead` says why."""
    timed, failed = [row for row in report.rows if row.latency], [row for row in report.rows if not row.latency]
    body = f"""<p>{escape(_lead(report, timed, failed))}</p>
{"".join(tag("p", escape(note), class_="note") for note in _notes(timed))}{_warnings(report)}
{_charts(charts, timed) if charts else tag("p", escape(instead))}
<h2>All results</h2>{_table(timed)}
{_failures(failed)}
<h2>Where the time goes</h2>{_stages(timed)}
<h2>The machine</h2>{_machine(report)}"""
    return document(f"{report.name}: latency against accuracy", body, _STYLE, SORTING)


def _lead(report: Report, timed: Sequence[Row], failed: Sequence[Row]) -> str:
    text = f"{len(timed)} {'combination was' if len(timed) == 1 else 'combinations were'} measured"
    text += f", {len(failed)} could not be." if failed else "."
    known = measured(timed)
    if known:
        best = max(known, key=lambda each: each.top1)
        text += f" Accuracy on {report.data}. The most accurate is {_short(best)}, the fastest {_short(known[0])}."
    return text + " Milliseconds are medians from JPEG bytes to the five likeliest classes."


def _short(found: Measured) -> str:
    return f"{title(found.row)} ({found.ms:.2f} ms, {found.top1:.1f} %)"


def _notes(timed: Sequence[Row]) -> List[str]:
    notes = []
    if any(row.top1 and not row.top1.measured for row in timed):
        notes.append(
            "Accuracy marked 'published' was not measured here: it was published for these networks in FP32, on ImageNet."
        )
    if any(row.random for row in timed):
        notes.append("Some weights are random: their latency is right, their classes mean nothing.")
    unknown = [title(row, backend=False) for row in timed if row.top1 is None]
    if unknown and len(unknown) < len(timed):
        notes.append(f"Not in the chart, since their accuracy is not known: {', '.join(unknown)}.")
    reasons = {row.accuracy_reason: title(row, backend=False) for row in timed if row.accuracy_reason}
    notes += [f"{title(row, backend=False)}: {failures(row)}, and they are left out." for row in timed if failures(row)]
    return notes + [f"Accuracy of {name} could not be measured: {reason}" for reason, name in reasons.items()]


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    said = "".join(tag("li", escape(warning)) for warning in report.warnings)
    summary = tag("summary", f"Warnings while measuring: {len(report.warnings)}")
    return tag("details", summary + tag("ul", said), class_="note")


def _machine(report: Report) -> str:
    lines = flattened(report.machine)
    return definitions((name, text) for name, text in lines if "load" not in name.split())  # counters, for bench alone


def _charts(charts: Sequence[str], timed: Sequence[Row]) -> str:
    points = "; ".join(
        f"{title(row, backend=False)} {row.milliseconds:.3g} ms {row.top1.top1:.1f} %{'' if row.top1.measured else ' published'}"
        for row in timed
        if row.top1
    )
    said = f"Accuracy against latency. {points}. The same figures are in the table below."
    return "".join(
        tag("figure", drawn, class_=f"chart {kind}", role="img", aria_label=said)
        for kind, drawn in zip(("wide", "narrow"), charts)
    )


def _table(timed: Sequence[Row]) -> str:
    columns = [column for column in _COLUMNS if any(column.value(row) is not None for row in timed)]
    head = sortable((column.head, column.number, column.about) for column in columns)
    best = [each.row for each in frontier(timed)]
    body = "".join(
        tag("tr", "".join(_cell(column, row) for column in columns), class_="best" if row in best else None)
        for row in timed
    )
    said = "Press a heading to sort." + (" In bold: nothing measured is both faster and more accurate." if best else "")
    return tag("p", said) + scrolled("all rows", head + tag("tbody", body), "cards")


def _cell(column: _Column, row: Row) -> str:
    value = column.value(row)
    if value is None:
        return "<td></td>"
    text, aside = escape(column.text(value)), ""
    if column.head == "ms" and row.latency:
        reach = (row.latency.total.high - row.latency.total.low) / 2
        aside = f" <small class=reach>±{reach:.2f}</small>{' <small>noisy</small>' if row.latency.noisy else ''}"
    elif column.head == "top-1 %" and row.top1:
        if not row.top1.interval:
            text += " <small>published</small>"
            return tag(
                "td",
                tag("span", text),
                class_="n published",
                data_v=value,
                data_label=column.head,
                title=row.published_source,
            )
        low, high = row.top1.interval
        aside = f" <small class=reach>{low:.1f} to {high:.1f}</small>"
    elif column.head == "network" and row.random:
        aside = " <small>random</small>"
    if column.number:
        return tag("td", tag("span", text + aside), class_="n", data_v=value, data_label=column.head)
    return tag("td", text + aside, class_="wrapped" if column.head == "backend" else None)


def _failures(failed: Sequence[Row]) -> str:
    if not failed:
        return ""
    return tag("h2", "What could not be measured") + definitions((title(row), row.reason) for row in failed)


def _stages(timed: Sequence[Row]) -> str:
    """Medians of the stages: bars of their shares, with the numbers beside them."""
    latencies = [(row, row.latency) for row in timed if row.latency]
    names = list(dict.fromkeys(name for _, latency in latencies for name in latency.stages))
    head = tag("th", "network", scope="col") + tag("th", tag("span", "share", aria_hidden="true"), scope="col")
    head += "".join(tag("th", escape(name), scope="col", class_="n") for name in names)
    body = "".join(_stage_row(row, latency, names) for row, latency in latencies)
    return (
        "<p>Median ms of each stage, for a whole batch.</p>"
        + key((_STAGES.get(name, GREY), name) for name in names)
        + scrolled("stages", tag("thead", tag("tr", head)) + tag("tbody", body), "cards stages")
    )


def _stage_row(row: Row, latency: Timing, names: Sequence[str]) -> str:
    whole = sum(stage.p50 for stage in latency.stages.values()) or 1
    bar = "".join(
        tag("span", style=f"width:{100 * stage.p50 / whole:.2f}%;background:{_STAGES.get(name, GREY)}")
        for name, stage in latency.stages.items()
    )
    called = f"{escape(title(row, backend=False))}<br>{tag('small', escape(latency.backend))}"
    medians = ((name, f"{latency.stages[name].p50:.2f}" if name in latency.stages else "") for name in names)
    numbers = "".join(tag("td", median, class_="n", data_label=name) for name, median in medians)
    share = tag("td", tag("div", bar, class_="bar", aria_hidden="true"), class_="bars")
    return tag("tr", tag("td", called) + share + numbers)
