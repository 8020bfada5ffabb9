"""The page that shows an engine's kernels: sortable, the costliest first, with bars by bytes and by time."""

from __future__ import annotations

from typing import Mapping, Sequence

from ...html_page import BLUE, GREEN, ORANGE, SORTING, document, escape, scrolled, sortable, tag
from .layers import Cost, Layer

_STYLE = f"""
.bar {{ height: .45rem; background: {BLUE} }} .bar.t {{ background: {ORANGE} }}
td {{ vertical-align: top }} td.names {{ max-width: 26rem; overflow-wrap: anywhere; font-size: .85rem }}
.int8 td.p {{ color: {GREEN} }} .reformat td {{ color: var(--note) }} .cards td.n div {{ display: none }}
@media (min-width: 40.01rem) {{ .cards td.n div {{ display: block }} }}
"""


def layers_page(title: str, layers: Sequence[Layer], costs: Mapping[str, Cost], said: str) -> str:
    """A whole page on `layers`; `costs`: rows to compare, by precision; `said`: what follows from them."""
    heads = ("kernels", "MB of activations", "MB of weights", "MACs in INT8", "conversions", "ms")
    summary = tag("tr", tag("th") + "".join(tag("th", head, class_="n") for head in heads))
    body = ""
    for name, cost in costs.items():
        cells = [str(cost.kernels), f"{cost.activation_bytes / 1e6:.1f}", f"{cost.weight_bytes / 1e6:.1f}"]
        cells += [f"{cost.int8_macs:.0%}", str(cost.reformats)]
        cells += [f"{cost.milliseconds:.3f}" if cost.milliseconds is not None else "not run"]
        row = "".join(tag("td", escape(cell), class_="n", data_label=head) for head, cell in zip(heads, cells))
        body += tag("tr", tag("th", escape(name), scope="row") + row)
    summary = tag("thead", summary, class_="broad") + tag("tbody", body)
    timed = any(layer.milliseconds is not None for layer in layers)
    ordered = sorted(layers, key=lambda layer: (-(layer.milliseconds or 0), -layer.activations - layer.weights))
    columns = ["#", "kernel", "kind", "MACs", "KB read", "KB written", "KB of weights", "KB in all", *["µs"] * timed]
    head = sortable((name, name not in ("kernel", "kind"), "") for name in columns)
    most = max((layer.activations + layer.weights for layer in layers), default=1) or 1
    longest = max((layer.milliseconds or 0 for layer in layers), default=0) or 1
    order = {layer: at for at, layer in enumerate(layers)}
    rows = "".join(_row(layer, order[layer], most, longest, timed) for layer in ordered)
    note = "Bytes are of one image. A name in two rows is a layer that was spread over two kernels. Click a heading to sort."
    if timed:
        note += " Times are of each kernel by itself: their sum is more than a run takes."
    body = tag("p", escape(said)) + scrolled("costs", summary, "cards") + tag("h2", "Kernels")
    return document(
        title, body + tag("p", note) + scrolled("kernels", head + tag("tbody", rows), "cards"), _STYLE, SORTING
    )


def _row(layer: Layer, at: int, most: int, longest: float, timed: bool) -> str:
    total = layer.activations + layer.weights
    names = escape(", ".join(layer.nodes) or layer.name)
    cells = tag("td", str(at), class_="n", data_v=at, data_label="#") + tag(
        "td", names, class_="names", title=layer.name
    )
    cells += tag(
        "td",
        escape(f"{layer.kind}{' ' + layer.precision.upper() if layer.precision else ''}"),
        class_="p",
        data_label="kind",
    )
    cells += tag(
        "td", f"{layer.macs / 1e6:.1f} M" if layer.macs else "", class_="n", data_v=layer.macs, data_label="MACs"
    )
    for label, count in (("KB read", layer.read), ("KB written", layer.written), ("KB of weights", layer.weights)):
        cells += tag("td", f"{count / 1e3:.1f}", class_="n", data_v=count, data_label=label)
    cells += _bar(f"{total / 1e3:.1f}", total, total / most, "bar", "KB in all")
    if timed:
        spent = layer.milliseconds or 0.0
        cells += _bar(f"{spent * 1e3:.1f}", spent, spent / longest, "bar t", "µs")
    return tag("tr", cells, class_=" ".join([layer.precision, *["reformat"] * layer.reformat]))


def _bar(text: str, value: float, share: float, kind: str, label: str) -> str:
    drawn = tag("div", "", class_=kind, style=f"width: {share * 6:.2f}rem")
    return tag("td", text + drawn, class_="n", data_v=value, data_label=label)
