"""A sweep as one HTML page that needs nothing else: picture, sortable table, stages, machine."""
# ruff: noqa: E501 - markup reads better unbroken

from __future__ import annotations

import html
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from ..printable import printable
from .rows import Report, Row, accuracy, facts, frontier, measured, milliseconds, title

# By stage of the way from JPEG bytes to top-5; a stage without a colour takes the last.
_STAGES = {
    "decode": "#3b78c4",
    "resize": "#5fa8d3",
    "normalise": "#9cc9e0",
    "copy in": "#c9a44c",
    "compute": "#d9822b",
    "copy out": "#b8860b",
    "launch": "#a05cc0",
    "softmax": "#2f9e62",
}
_OTHER = "#7d8798"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --muted: #5a6474; --line: #e3e6ec; --paper: #fff; --shade: #f4f6fa; --note: #8a4b00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --muted: #9aa5b8; --line: #343c4b; --paper: #14181f; --shade: #1d232d; --note: #f0b45f } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } p { max-width: 46rem } .note { color: var(--note) }
table { border-collapse: collapse }
td, th { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } td small, .published { color: var(--muted) }
.scroll { overflow-x: auto } .scroll:focus-visible { outline: 2px solid var(--muted) }
.scroll th:first-child, .scroll td:first-child { position: sticky; left: 0; background: var(--paper) }
th button { all: unset; cursor: pointer; font-weight: 600 } th button:focus-visible { outline: 2px solid var(--muted) }
th button::after { content: " \\2195"; color: var(--muted); font-weight: 400 }
th[aria-sort=ascending] button::after { content: " \\2191" } th[aria-sort=descending] button::after { content: " \\2193" }
tr.best td:first-child { font-weight: 600 }
.picture svg { width: 100%; height: auto } .picture svg text { font-family: system-ui, sans-serif !important }
.narrow { display: none }
.bar { display: flex; width: min(16rem, 45vw); margin-right: .8rem; height: .8rem; margin-top: .35rem } .bar span { height: 100% }
.key { display: flex; flex-wrap: wrap; gap: .2rem .9rem } .key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; vertical-align: -.05rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem } dt { color: var(--muted) } dd { margin: 0; overflow-wrap: anywhere; max-width: 46rem }
@media (max-width: 40rem) { .wide { display: none } .narrow { display: block } .reach { display: none } body { margin-top: 1rem } dl { display: block } dd { margin-bottom: .5rem } }
"""

# Sorting by the column whose button is pressed: by number where cells have one, empty cells last.
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0], down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => { const cell = row.cells[head.cellIndex]; return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent.trim(); };
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    return (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true})) * (down ? -1 : 1);
  };
  body.append(...[...body.rows].sort(order));
});
"""


class _Column(NamedTuple):
    """One column of the table of rows."""

    head: str
    about: str  # what hovering says
    value: Callable[[Row], Any]  # a number (then cells are right-aligned) or text; None leaves the cell empty
    text: Callable[[Any], str] = str
    number: bool = True


def escape(text: str) -> str:
    """As HTML; control characters and halves of surrogates, which no page can hold, are shown as escapes."""
    return html.escape(printable(text))


def _get(name: str) -> Callable[[Row], Any]:
    return lambda row: row.get(name)


def _total(name: str) -> Callable[[Row], Any]:
    return lambda row: row["total"][name] if "total" in row else None


def _giga(row: Row) -> Optional[float]:
    return row["multiply_adds"] / 1e9 if row.get("multiply_adds") else None


# Columns of which no row knows anything are left out.
_COLUMNS = (
    _Column("network", "", lambda row: row["variant"], number=False),
    _Column("precision", "", lambda row: row["precision"], number=False),
    _Column("ms", "median from JPEG bytes to top-5, and half its 95 % interval", _total("p50"), "{:.2f}".format),
    _Column("top-1 %", "and its 95 % interval", lambda row: getattr(accuracy(row), "top1", None), "{:.1f}".format),
    _Column("as FP32 %", "pictures put into the same class as by FP32", _get("agreement"), "{:.1f}".format),
    _Column("file MB", "the model file", _get("file_mb"), "{:.1f}".format),
    _Column("backend", "", lambda row: row.get("backend") or row["backend_name"], number=False),
    _Column("batch", "pictures in a run", _get("batch")),
    _Column("p99", "ms", _total("p99"), "{:.2f}".format),
    _Column("images/s", "one batch after the other", _get("throughput_per_s"), "{:.1f}".format),
    _Column("peak MB", "memory of the process", _get("peak_mb"), "{:.0f}".format),
    _Column("cold ms", "new process: start to first answer", _get("cold_start_ms"), "{:.0f}".format),
    _Column("J/image", "above idle", _get("joules_per_image"), "{:.3g}".format),
    _Column("px", "side of the input", _get("resolution")),
    _Column("GFLOPs", "multiply-adds for one picture, billions", _giga, "{:.2f}".format),
    _Column("M params", "", lambda row: row["parameters"] / 1e6 if row.get("parameters") else None, "{:.1f}".format),
)


def page(report: Report, pictures: Sequence[str], instead: str = "") -> str:
    """`pictures`: the picture as SVG for wide and for narrow screens; where there is none, `instead` says why."""
    rows, failed = [row for row in report.rows if "total" in row], [row for row in report.rows if "total" not in row]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.name)}: latency against accuracy</title><style>{_STYLE}</style></head><body>
<h1>{escape(report.name)}: latency against accuracy</h1>
<p>{escape(_lead(report, rows, failed))}</p>
{"".join(f'<p class="note">{escape(note)}</p>' for note in _notes(rows))}{_warnings(report)}
{_picture(pictures, rows) if pictures else f"<p>{escape(instead)}</p>"}
<h2>All of it</h2>{_table(rows)}
{_failures(failed)}
<h2>Where the time goes</h2>{_stages(rows)}
<h2>The machine</h2>{_machine(report)}
<script>{_SCRIPT}</script></body></html>
"""


def _lead(report: Report, rows: Sequence[Row], failed: Sequence[Row]) -> str:
    text = f"{len(rows)} {'combination was' if len(rows) == 1 else 'combinations were'} measured"
    text += f", {len(failed)} could not be." if failed else "."
    known = measured(rows)
    if known:
        text += f" Accuracy on {report.data}. The most accurate is {_short(max(known, key=lambda row: row['top1']))}, the fastest {_short(known[0])}."
    return text + " Milliseconds are medians of the whole way from JPEG bytes to the five likeliest classes."


def _short(row: Row) -> str:
    return f"{title(row)} ({row['total']['p50']:.2f} ms, {row['top1']:.1f} %)"


def _notes(rows: Sequence[Row]) -> List[str]:
    notes = []
    published = [row for row in rows if (found := accuracy(row)) is not None and not found.measured]
    if published:
        notes.append(
            "Accuracy marked 'published' was not measured here: it is what others report on ImageNet for these networks in float."
        )
    if any(row.get("random") for row in rows):
        notes.append("Some weights are random: good for measuring latency, their classes mean nothing.")
    unknown = [row for row in rows if accuracy(row) is None]
    if unknown and len(unknown) < len(rows):
        notes.append(
            f"Not in the picture, since nothing is known of their accuracy: {', '.join(title(row, backend=False) for row in unknown)}."
        )
    reasons = {row["accuracy_reason"]: title(row, backend=False) for row in rows if row.get("accuracy_reason")}
    return notes + [f"Accuracy of {name} could not be measured: {reason}" for reason, name in reasons.items()]


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    said = "".join(f"<li>{escape(warning)}</li>" for warning in report.warnings)
    return f'<details class="note"><summary>Warnings while measuring: {len(report.warnings)}</summary><ul>{said}</ul></details>'


def _machine(report: Report) -> str:
    lines = [
        (name, text) for name, text in facts(report.machine) if "load" not in name.split()
    ]  # counters, for bench alone
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in lines)}</dl>"


def _picture(pictures: Sequence[str], rows: Sequence[Row]) -> str:
    points = "; ".join(
        f"{title(row, backend=False)} {milliseconds(row):.3g} ms {found.top1:.1f} %{'' if found.measured else ' published'}"
        for row in rows
        if (found := accuracy(row)) is not None
    )
    said = escape(f"Accuracy against latency. {points}. The same figures are in the table below.")
    return "".join(
        f'<figure class="picture {kind}" role="img" aria-label="{said}" style="margin: 0">{drawn}</figure>'
        for kind, drawn in zip(("wide", "narrow"), pictures)
    )


def _table(rows: Sequence[Row]) -> str:
    columns = [column for column in _COLUMNS if any(column.value(row) is not None for row in rows)]
    head = "".join(
        f'<th scope="col"{" class=n" if column.number else ""}{f" title={chr(34)}{escape(column.about)}{chr(34)}" if column.about else ""}>'
        f'<button type="button">{escape(column.head)}</button></th>'
        for column in columns
    )
    best = frontier(rows)
    body = "".join(
        f"<tr{' class=best' if row in best else ''}>{''.join(_cell(column, row) for column in columns)}</tr>"
        for row in rows
    )
    said = "Press a heading to sort." + (" In bold: nothing measured is both faster and more accurate." if best else "")
    return (
        f'<p>{said}</p><div class="scroll" tabindex="0" role="region" aria-label="all rows"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(column: _Column, row: Row) -> str:
    value = column.value(row)
    if value is None:
        return "<td></td>"
    text, aside = escape(column.text(value)), ""
    if column.head == "ms":
        reach = (row["total"]["high"] - row["total"]["low"]) / 2
        aside = f" <small class=reach>±{reach:.2f}</small>{' <small>noisy</small>' if row['noisy'] else ''}"
    elif column.head == "top-1 %":
        found = accuracy(row)
        assert found is not None
        if found.interval:
            aside = f" <small class=reach>{found.interval[0]:.1f} to {found.interval[1]:.1f}</small>"
        else:
            return f'<td class="n published" data-v="{value}" title="{escape(row.get("published_source", ""))}">{text} <small>published</small></td>'
    elif column.head == "network" and row.get("random"):
        aside = " <small>random</small>"
    return f'<td class="n" data-v="{value}">{text}{aside}</td>' if column.number else f"<td>{text}{aside}</td>"


def _failures(failed: Sequence[Row]) -> str:
    if not failed:
        return ""
    body = "".join(f"<dt>{escape(title(row))}</dt><dd>{escape(row['reason'])}</dd>" for row in failed)
    return f"<h2>What could not be measured</h2><dl>{body}</dl>"


def _stages(rows: Sequence[Row]) -> str:
    """Medians of the stages: bars of their shares, with the numbers beside them."""
    names = list(dict.fromkeys(name for row in rows for name in row["stages"]))
    key = "".join(
        f'<span><i style="background:{_STAGES.get(name, _OTHER)}"></i>{escape(name)}</span>' for name in names
    )
    head = "".join(f'<th scope="col" class="n">{escape(name)}</th>' for name in names)
    body = []
    for row in rows:
        whole = sum(stage["p50"] for stage in row["stages"].values()) or 1
        bar = "".join(
            f'<span style="width:{100 * stage["p50"] / whole:.2f}%;background:{_STAGES.get(name, _OTHER)}"></span>'
            for name, stage in row["stages"].items()
        )
        numbers = "".join(
            f'<td class="n">{row["stages"][name]["p50"]:.2f}</td>' if name in row["stages"] else "<td></td>"
            for name in names
        )
        body.append(
            f'<tr><td>{escape(title(row, backend=False))}<br><small>{escape(row["backend"])}</small></td><td><div class="bar" aria-hidden="true">{bar}</div></td>{numbers}</tr>'
        )
    return (
        "<p>Median ms of each stage, for a whole batch.</p>"
        f'<p class="key" aria-hidden="true">{key}</p><div class="scroll" tabindex="0" role="region" aria-label="stages"><table>'
        f'<thead><tr><th scope="col">network</th><th scope="col"><span aria-hidden="true">share</span></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
