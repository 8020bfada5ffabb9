"""What the HTML reports share: safe text, elements, the look of the page, and the lines of their charts."""
# ruff: noqa: E501 - style sheets read better unbroken

from __future__ import annotations

import html
from typing import Iterable, Optional, Sequence, Tuple

from .printable import printable

# Follows the reader's light or dark theme. `.n` holds numbers, `.note` a warning, `.scroll` what is wider than a phone.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --muted: #5a6474; --line: #e3e6ec; --paper: #fff; --shade: #f4f6fa; --note: #8a4b00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --muted: #9aa5b8; --line: #343c4b; --paper: #14181f; --shade: #1d232d; --note: #f0b45f } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } p { max-width: 46rem } .note { color: var(--note) }
table { border-collapse: collapse } td, th { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line) }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } .scroll { overflow-x: auto }
.grid { display: flex; flex-wrap: wrap; gap: 1rem }
svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: var(--muted) } svg line { stroke: var(--line) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem } dt { color: var(--muted) } dd { margin: 0 }
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


def series(points: Sequence[Tuple[float, float]], colour: str, radius: float = 3) -> str:
    """A line through `points` (x, y in the chart's own units) with a dot at each, as SVG."""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'
