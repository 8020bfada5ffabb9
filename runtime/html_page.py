"""What the HTML reports share: safe text, elements, the look of the page, its colours and its charts."""
# ruff: noqa: E501 - style sheets read better unbroken

from __future__ import annotations

import html
import math
from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .printable import printable

BLUE, ORANGE, GREEN, PURPLE, RED = (
    "#3b78c4",
    "#d9822b",
    "#2f9e62",
    "#a05cc0",
    "#d0453b",
)  # legible on white and on black
GREY = "#7d8798"

# Follows the reader's light or dark theme. `.n` holds numbers, `.note` a warning, `.scroll` what may be wider than the screen.
# On a phone `.broad` is hidden and `.thin` shown in its place, and a row of a `.cards` table becomes a card: its cells below
# each other, each behind its data-label.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --muted: #5a6474; --line: #e3e6ec; --paper: #fff; --shade: #f4f6fa; --note: #8a4b00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --muted: #9aa5b8; --line: #343c4b; --paper: #14181f; --shade: #1d232d; --note: #f0b45f } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } p { max-width: 46rem } .note { color: var(--note) }
table { border-collapse: collapse } td, th { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line) }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } .scroll { overflow-x: auto }
.scroll:focus-visible { outline: 2px solid var(--muted) }
.grid { display: flex; flex-wrap: wrap; gap: 1rem 2rem } .grid > div { min-width: 0; max-width: 100% } .grid h3 { font-size: .95rem; margin: .4rem 0 }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem } .key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; vertical-align: -.05rem }
svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: var(--muted) } svg line { stroke: var(--line) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem } dt { color: var(--muted) } dd { margin: 0; overflow-wrap: anywhere }
th button { all: unset; cursor: pointer; font-weight: 600 } th button:focus-visible { outline: 2px solid var(--muted) }
th[aria-sort=ascending] button::after { content: " \\2191" } th[aria-sort=descending] button::after { content: " \\2193" }
.thin { display: none }
@media (max-width: 40rem) {
  body { margin-top: 1rem } dl { display: block } dd { margin-bottom: .5rem } table { font-size: .9rem } td, th { padding-right: .3rem } .broad { display: none } .thin { display: block }
  .cards, .cards tbody { display: block } .cards tbody tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.2rem; padding: .5rem 0; border-bottom: 1px solid var(--line) }
  .cards td { border: 0; padding: .05rem 0; display: flex; justify-content: space-between; gap: .6rem; text-align: left } .cards td:empty { display: none }
  .cards td[data-label]::before { content: attr(data-label); color: var(--muted) } .cards td.whole { grid-column: 1 / -1 } .cards td:not([data-label]) { grid-column: 1 / -1; font-weight: 600 }
  .cards .broad { display: none } .cards tbody th { grid-column: 1 / -1 }
  .cards thead:not(.broad), .cards thead tr { display: flex; flex-wrap: wrap; gap: 0 .8rem } .cards th button { text-decoration: underline dotted; font-weight: 400 } .cards th { border: 0; padding: .1rem 0 }
}
"""

# Sorting by the column whose button is pressed: by number where cells have one, empty cells last.
SORTING = """
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


def escape(text: str) -> str:
    """`text` for a page. Control characters and lone surrogates, which no page can hold, become visible escapes."""
    return html.escape(printable(text))


def tag(name: str, content: str = "", **attributes: Optional[object]) -> str:
    """An element around `content`, which is markup already. Attribute values are escaped, and None leaves one out; names are
    written as Python can: class_, aria_label."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{content}</{name}>"


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page that needs no other file. `title` is text, `body` markup; `style` comes after STYLE."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def definitions(pairs: Iterable[Tuple[str, str]]) -> str:
    """(name, text) pairs as a definition list."""
    return tag("dl", "".join(tag("dt", escape(name)) + tag("dd", escape(text)) for name, text in pairs))


class Axis(NamedTuple):
    """One axis of a chart, with the places that are named on it; a name's second line stands below its first."""

    low: float
    high: float
    ticks: Sequence[Tuple[float, str]]


def round_axis(values: Sequence[float], unit: str = "", top: float = math.inf, least: float = 1e-3) -> Axis:
    """An axis around `values` that starts, ends and is named at round numbers, none of them above `top`. It spans `least` or
    more, so that what hardly changes looks so."""
    low, high = min(values), max(values)
    rough = max(high - low, least) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    last = max(first + 1, last)
    if last * step > top:  # a share of all is at most 100 %
        first, last = min(first, math.floor(top / step) - 1), math.floor(top / step)
    digits = max(0, -math.floor(math.log10(step)) + (1 if round(step / power, 3) == 2.5 else 0))
    ticks = [(i * step, f"{i * step + 0.0:.{digits}f}{unit}") for i in range(first, last + 1)]
    return Axis(first * step, last * step, ticks)


class Chart:
    """A chart in the making, px: its axes, then what is drawn on it in order. `svg` ends it."""

    def __init__(self, x: Axis, y: Axis, width: int = 420, height: int = 220, top: int = 12) -> None:
        self.width, self.height, self._x, self._y = width, height, x, y
        self._left = 14 + 7 * max((len(name) for _, name in y.ticks), default=-1)
        self._top, self._right = top, 16
        self._bottom = 10 + 16 * max((1 + name.count("\n") for _, name in x.ticks), default=0)
        self._parts: List[str] = []
        for value, name in y.ticks:
            at = self.y(value)
            self._parts.append(f'<line x1="{self._left}" x2="{width - self._right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            self.text(self._left - 6, at + 4, name, "end")
        for value, name in x.ticks:
            for i, line in enumerate(name.split("\n")):
                anchor = "start" if value == x.low and not y.ticks else "middle"
                anchor = "end" if value == x.high and not y.ticks else anchor
                self.text(self.x(value), height - self._bottom + 19 + 15 * i, line, anchor)

    def x(self, value: float) -> float:
        """Where `value` is, clipped to the axis."""
        share = (min(max(value, self._x.low), self._x.high) - self._x.low) / ((self._x.high - self._x.low) or 1)
        return self._left + share * (self.width - self._left - self._right)

    def y(self, value: float) -> float:
        share = (min(max(value, self._y.low), self._y.high) - self._y.low) / ((self._y.high - self._y.low) or 1)
        return self.height - self._bottom - share * (self.height - self._bottom - self._top)

    def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def line(self, points: Sequence[Tuple[float, float]], colour: str, weight: float = 1) -> None:
        """A curve with a dot at each of `points`. Of curves that may coincide, the first gets a `weight` above 1: it stays
        visible as the rim of the other."""
        at = [(self.x(x), self.y(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.6 * weight:g}" fill="{colour}"/>' for x, y in at)
        self._parts.append(
            f'<g><polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{1.8 * weight**1.5:.1f}"/>{dots}</g>'
        )

    def box(self, x0: float, x1: float, y1: float, colour: str, opacity: float = 1) -> None:
        """From `x0` to `x1` and from the bottom to `y1`."""
        left, up = self.x(x0), self.y(y1)
        size = f'width="{self.x(x1) - left:.1f}" height="{self.height - self._bottom - up:.1f}"'
        self._parts.append(f'<rect x="{left:.1f}" y="{up:.1f}" {size} fill="{colour}" fill-opacity="{opacity:g}"/>')

    def mark(self, value: float, colour: str, title: str = "") -> None:
        """A dashed line across the chart at `value` of the x axis."""
        at, low = self.x(value), self.height - self._bottom
        self._parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{self._top}" y2="{low}" style="stroke:{colour}" stroke-width="1.5" '
            f'stroke-dasharray="4 3">{tag("title", escape(title)) if title else ""}</line>'
        )

    def svg(self, label: str) -> str:
        """The chart; `label` says what it shows to who can't see it."""
        size = {"viewBox": f"0 0 {self.width} {self.height}", "width": self.width}
        return tag("svg", "".join(self._parts), role="img", aria_label=label, **size)


def key(entries: Iterable[Tuple[str, str]]) -> str:
    """(colour, name) pairs: what the colours of a chart mean."""
    shown = (tag("span", tag("i", style=f"background:{colour}") + escape(name)) for colour, name in entries)
    return tag("p", "".join(shown), class_="key")


def scrolled(label: str, table: str, class_: Optional[str] = None) -> str:
    """A table of the rows in `table`, in a box of its own that scrolls where the screen is narrower, with the keyboard too."""
    return tag("div", tag("table", table, class_=class_), class_="scroll", tabindex=0, role="region", aria_label=label)


def sortable(columns: Iterable[Tuple[str, bool, str]]) -> str:
    """The head of a table that SORTING sorts: (heading, whether its cells are numbers, what hovering says) of each column. A
    cell's number is its data-v."""
    heads = (
        tag(
            "th",
            tag("button", escape(name), type="button"),
            scope="col",
            class_="n" if number else None,
            title=about or None,
        )
        for name, number, about in columns
    )
    return tag("thead", tag("tr", "".join(heads)))
