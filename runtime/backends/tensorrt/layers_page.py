"""The page that shows an engine's kernels: sortable, the costliest first, with bars by bytes and by time."""

from __future__ import annotations

from typing import Mapping, Sequence

from ...html_page import document, escape, tag
from .layers import Cost, Layer

_STYLE = """
.bar { height: .45rem; background: #4a7fd4 } .bar.t { background: #d4774a } th.s { cursor: pointer; user-select: none }
td { vertical-align: top } td.names { max-width: 26rem; overflow-wrap: anywhere; font-size: .85rem }
.int8 td.p { color: #2a7d46 } .reformat td { color: var(--note) }
"""
# Sorts by a column's numbers, the largest first, or its text.
_SCRIPT = """
for (const head of document.querySelectorAll('#layers th.s')) head.onclick = () => {
  const body = document.querySelector('#layers tbody'), at = head.cellIndex;
  const key = row => { const cell = row.cells[at]; return cell.dataset.v === undefined ? cell.textContent : +cell.dataset.v; };
  const rows = [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    return typeof x === 'number' ? y - x : x.localeCompare(y); });
  body.append(...rows);
};
"""


def layers_page(title: str, layers: Sequence[Layer], costs: Mapping[str, Cost], said: str) -> str:
    """A whole page on `layers`; `costs`: rows to compare, by precision; `said`: what follows from them."""
    heads = ("kernels", "MB of activations", "MB of weights", "MACs in INT8", "conversions", "ms")
    summary = tag("tr", tag("th") + "".join(tag("th", head, class_="n") for head in heads))
    for name, cost in costs.items():
        cells = [str(cost.kernels), f"{cost.activation_bytes / 1e6:.1f}", f"{cost.weight_bytes / 1e6:.1f}"]
        cells += [f"{cost.int8_macs:.0%}", str(cost.reformats)]
        cells += [f"{cost.milliseconds:.3f}" if cost.milliseconds is not None else "not run"]
        summary += tag("tr", tag("th", escape(name)) + "".join(tag("td", escape(cell), class_="n") for cell in cells))
    timed = any(layer.milliseconds is not None for layer in layers)
    ordered = sorted(layers, key=lambda layer: (-(layer.milliseconds or 0), -layer.activations - layer.weights))
    columns = ["#", "kernel", "kind", "MACs", "KB read", "KB written", "KB of weights", "KB in all", *["µs"] * timed]
    head = tag("tr", "".join(tag("th", name, class_="s") for name in columns))
    most = max((layer.activations + layer.weights for layer in layers), default=1) or 1
    longest = max((layer.milliseconds or 0 for layer in layers), default=0) or 1
    order = {layer: at for at, layer in enumerate(layers)}
    rows = "".join(_row(layer, order[layer], most, longest, timed) for layer in ordered)
    note = "Bytes are of one image. A name in two rows is a layer that was spread over two kernels. Click a heading to sort."
    if timed:
        note += " Times are of each kernel by itself: their sum is more than a run takes."
    body = tag("p", escape(said)) + tag("div", tag("table", summary), class_="scroll") + tag("h2", "Kernels")
    table = tag("table", tag("thead", head) + tag("tbody", rows), id="layers")
    return document(title, body + tag("p", note) + tag("div", table, class_="scroll"), _STYLE, _SCRIPT)


def _row(layer: Layer, at: int, most: int, longest: float, timed: bool) -> str:
    total = layer.activations + layer.weights
    names = escape(", ".join(layer.nodes) or layer.name)
    cells = tag("td", str(at), class_="n", data_v=-at) + tag("td", names, class_="names", title=layer.name)
    cells += tag("td", escape(f"{layer.kind}{' ' + layer.precision.upper() if layer.precision else ''}"), class_="p")
    cells += tag("td", f"{layer.macs / 1e6:.1f} M" if layer.macs else "", class_="n", data_v=layer.macs)
    for count in (layer.read, layer.written, layer.weights):
        cells += tag("td", f"{count / 1e3:.1f}", class_="n", data_v=count)
    cells += _bar(f"{total / 1e3:.1f}", total, total / most, "bar")
    if timed:
        spent = layer.milliseconds or 0.0
        cells += _bar(f"{spent * 1e3:.1f}", spent, spent / longest, "bar t")
    return tag("tr", cells, class_=" ".join([layer.precision, *["reformat"] * layer.reformat]))


def _bar(text: str, value: float, share: float, kind: str) -> str:
    return tag("td", text + tag("div", "", class_=kind, style=f"width: {share * 6:.2f}rem"), class_="n", data_v=value)
