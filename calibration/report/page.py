"""The report of a calibration: one HTML page that needs nothing else, and the same as JSON."""
# ruff: noqa: E501 - markup reads better unbroken

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from calibration.collect.ranges import METHODS, Histogram, Range
from calibration.layer_graph import LayerGraph
from calibration.quantise.blocks import FORMS
from calibration.quantise.prepare import Prepared
from calibration.report.result import Result, share_of, summary, written
from calibration.report.speed import verdict
from calibration.search.predicted import how
from runtime.backends.tensorrt.tuned import EARLIER
from runtime.html_page import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    Axis,
    Chart,
    document,
    escape,
    key,
    round_axis,
    scrolled,
    tag,
)
from runtime.whole_file import write_whole

WORST = 6  # tensors whose histograms are drawn
LISTED = 30  # blocks

EXACT = 150.0  # dB: above, two outputs differ by FP32's own rounding

# Where other choices would have cut a tensor's range.
_CUTS = {
    "max": ("the maximum", "var(--ink)"),
    "99.99": ("the 99.99th percentile", PURPLE),
    "entropy": ("the least entropy", RED),
}
_CUTS["mse"] = ("the least square error", GREEN)

_ASIDE = dict.fromkeys(("MACs", "project"), "n aside")  # columns that a phone has no room for

_STYLE = """
tr.ours td { font-weight: 600 } .kept { background: var(--shade) } td:first-child { overflow-wrap: break-word }
@media (max-width: 40rem) { .aside { display: none } td, th { padding-right: .5rem } }
"""


def write_report(result: Result, network: LayerGraph, prepared: Prepared, folder: Path) -> None:
    """Writes `<variant>.calibration.html` and `.json` into `folder`."""
    facts = {
        **summary(result),
        "variant": result.variant,
        "notes": result.notes,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 1),
        "layers": _layers(result, network, prepared),
        "blocks": _blocks(result, prepared),
        "trade_off": [written(point) for point in result.points],
    }
    write_whole(folder / f"{result.variant}.calibration.json", (json.dumps(facts, indent=1) + "\n").encode())
    write_whole(folder / f"{result.variant}.calibration.html", page(result, network, prepared).encode())


def page(result: Result, network: LayerGraph, prepared: Prepared) -> str:
    best = result.best
    if result.training:
        how = f"No layer was left in higher precision; all were trained for {result.training.epochs} epochs with INT8's roundings in place"
        if not result.trained:
            how += ", which did harm, so the weights are those that calibration found"
    else:
        how = f"{len(best.kept)} of {len(prepared.layers)} layers were chosen for higher precision"
        if result.placement != "search":
            how = (
                f"Every block has the form {result.placement}, which leaves {len(best.kept)} layers in higher precision"
            )
    goal = (
        f"The goal, {result.budget.goal}, was {'reached' if result.met else 'missed; this is the best that was found'}"
    )
    if not result.asked:
        goal = "No goal was set"
    lead = f"{best.share:.1%} of the MACs are INT8. {how}. {goal}: {result.reached}."
    # An equalised input's range is one of values made alike, which this histogram does not show.
    placed = {**prepared.placed(best.forms), **{name: prepared.layers[name] for name in prepared.equalised}}
    worst = sorted(prepared.blocks, key=lambda block: -result.damages[block.name]["chain"])
    names = [name for block in worst for name in block.layers if _varies(prepared, name)][:WORST]
    drawn = "".join(
        _histogram(prepared.histograms[network.layer(name).input], placed[name].range, name) for name in names
    )
    body = f"""<p>{escape(lead)} Calibrated on {result.images} images ({escape(Path(result.origin).name)}) in {result.seconds:.0f} s.</p>
{"".join(f'<p class="note">WARNING: {escape(warning)}</p>' for warning in result.warnings)}
{"".join(f"<p>{escape(note)}</p>" for note in result.notes)}
<h2>What it keeps</h2><p>Judged on {escape(result.judged_on)}. In brackets the 95 % interval of what so few images can tell.</p>{_scores(result)}{_speeds(result)}
{_trade_off(result)}<h2>What each block costs</h2>
<p>Noise at the logits with that block alone in INT8: whole (chain), with its depthwise layer in FP16 (pointwise), or only its projection
(project){"; before training" if result.training else ""}. The {LISTED} worst; the shaded ones are not in chain.</p>{_table(result, network, prepared)}
<h2>Ranges in the worst blocks</h2>
<p>How often values occur, on a logarithmic scale; what INT8 covers is shaded, and dashed lines show where other choices would have
cut.</p>{key([(GREY, "values"), (BLUE, "covered by INT8"), *((colour, f"cut at {name}") for name, colour in _CUTS.values())])}
<div class="grid">{drawn}</div>"""
    return document(f"{result.variant}: INT8 calibration for {result.target}", body, _STYLE)


def _varies(prepared: Prepared, name: str) -> bool:
    histogram = prepared.histograms[prepared.network.layer(name).input]
    return histogram.high > histogram.low


def _blocks(result: Result, prepared: Prepared) -> list[dict[str, object]]:
    return [
        {
            "name": block.name,
            "layers": list(block.layers),
            "form": result.best.forms.get(block.name, "chain"),
            "sqnr_alone": {form: _decibel(found) for form, found in result.damages[block.name].items()},
        }
        for block in prepared.blocks
    ]


def _layers(result: Result, network: LayerGraph, prepared: Prepared) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "kind": network.layer(name).kind,
            "share": share_of(network, name),
            "float": name in result.best.kept,
            "equalised": name in prepared.equalised,
            "scale": layer.range.scale,
            "offset": layer.range.offset,
        }
        for name, layer in prepared.placed(result.best.forms).items()
    ]


def _scores(result: Result) -> str:
    labelled = any(score.top1 is not None for score in result.scores)
    heads = [*(["top-1"] if labelled else []), "top-1 agreement", "logit SQNR", "of FP16's bytes", "kernels"]
    rows = ""
    for score in result.scores:
        cells = [f"{score.top1:.1f} %" if score.top1 is not None else ""] if labelled else []
        cells.append(f"{score.agreement:.1f} % [{score.interval[0]:.1f}, {score.interval[1]:.1f}]")
        cells.append("exact" if score.sqnr >= EXACT else f"{score.sqnr:.1f} dB")
        cells += ["", ""] if score.moved is None else [f"{score.moved:.2f}", str(score.kernels)]
        row = "".join(
            tag("td", cell, class_="n whole" if "[" in cell else "n", data_label=head)
            for head, cell in zip(heads, cells)
        )
        rows += tag("tr", tag("td", escape(score.name)) + row, class_="ours" if score is result.scores[-1] else None)
    head = tag("tr", tag("th", "network") + "".join(tag("th", head, class_="n") for head in heads))
    table = tag("thead", head, class_="broad") + tag("tbody", rows)
    return scrolled("what it keeps", table, "cards") + (
        "<p>Bytes of activations and kernels are predicted from the graph, for an engine of TensorRT 10.15 or later. "
        "Nothing was timed.</p>"
    )


def _speeds(result: Result) -> str:
    if not result.speeds:
        return ""
    rows = "".join(
        f'<tr><td>{escape(speed.engine)}<td class="n">{speed.milliseconds:.1f} ms' for speed in result.speeds
    )
    return f"<p>{escape(verdict(result.speeds))}.</p><table>{rows}</table>"


def _table(result: Result, network: LayerGraph, prepared: Prepared) -> str:
    rows = []
    shown = [form for form in FORMS if form != "fp16"]
    for block in sorted(prepared.blocks, key=lambda block: -result.damages[block.name]["chain"])[:LISTED]:
        form, damages = result.best.forms.get(block.name, "chain"), result.damages[block.name]
        cells = [("MACs", f"{sum(share_of(network, name) for name in block.layers):.2%}")]
        cells += [(each, f"{_decibel(damages[each]):.1f} dB" if each in damages else "–") for each in shown]
        name = escape(_short(block.name)).replace("/", "/<wbr>")  # may break there
        row = tag("td", name) + "".join(tag("td", cell, class_=_ASIDE.get(head, "n")) for head, cell in cells)
        rows.append(tag("tr", row + tag("td", form), class_="kept" if form != "chain" else None))
    heads = "".join(tag("th", head, class_=_ASIDE.get(head, "n")) for head in ["MACs", *shown])
    return scrolled("blocks", tag("tr", tag("th", "block") + heads + tag("th", "chosen")) + "".join(rows))


def _trade_off(result: Result) -> str:
    if result.training or result.placement != "search":
        return ""
    heads = ["blocks not in chain", "of FP16's bytes", "time", "MACs in INT8", "top-1 agreement", "logit SQNR"]
    rows = ""
    for point in sorted(result.points, key=lambda point: point.time):
        cells = [str(len(point.forms)), f"{point.activations:.3f}", f"{point.time:.3f}", f"{point.share:.1%}"]
        cells += [f"{point.agreement:.1%}", "exact" if point.sqnr >= EXACT else f"{point.sqnr:.1f} dB"]
        row = "".join(tag("td", cell, class_="n", data_label=head) for head, cell in zip(heads, cells))
        rows += tag("tr", row, class_="ours" if point is result.best else None)
    head = tag("thead", tag("tr", "".join(tag("th", head, class_="n") for head in heads)), class_="broad")
    best, earlier = result.best, ""
    if any(score.name == EARLIER for score in result.scores):
        earlier = (
            f" Before TensorRT 10.15 depthwise layers with SiLU are in FP16: {result.earlier['activations']:.2f} of the bytes, "
            f"{result.earlier['time']:.2f} of the time."
        )
    return f"""<h2>Predicted cost against accuracy</h2>
<p>Blocks leave the chain in the order of damage for their predicted time. Bytes of activations are those of TensorRT 10.15
and later, as a share of FP16's. Time is {how(result.target)}. Both are predicted from the graph, not measured. Top-1 agreement with FP32 over {best.images} of the
calibration images, signal to noise of the logits over those held out.{earlier}</p>{_curve(result)}{scrolled("frontier", head + tag("tbody", rows), "cards")}
"""


def _curve(result: Result) -> str:
    """Top-1 agreement and SQNR over the predicted bytes, a chart each, with the choice marked."""
    points = sorted(result.points, key=lambda point: point.activations)
    x = round_axis([point.activations for point in points], "", math.inf, 0.1)
    figures = (
        ("top-1 agreement", BLUE, [100 * point.agreement for point in points], " %", 100.0),
        ("logit SQNR", ORANGE, [point.sqnr for point in points], " dB", math.inf),
    )
    charts = ""
    for name, colour, values, unit, top in figures:
        known = [(p.activations, v) for p, v in zip(points, values) if v < EXACT or unit != " dB"]
        chart = Chart(x, round_axis([v for _, v in known], unit, top, 1))
        chart.mark(result.best.activations, "var(--ink)", "the choice")
        chart.line(known, colour)
        charts += f"<div><h3>{name}</h3>{chart.svg(f'{name} over the predicted bytes of activations')}</div>"
    return (
        f'<div class="grid">{charts}</div><p>To the right: predicted bytes of activations, as a share of FP16\'s. '
        "Dashed: the choice.</p>"
    )


def _histogram(histogram: Histogram, chosen: Range, name: str) -> str:
    """Counts on a logarithmic axis over 80 even bins, the covered range shaded, other choices marked."""
    edges, counts = histogram.pooled()
    grid = np.linspace(histogram.low, histogram.high, 81)
    keep = np.concatenate([[True], np.diff(edges) > 0])
    cumulative = np.concatenate([[0], counts.cumsum()])
    even = np.maximum(np.diff(np.interp(grid, edges[keep], cumulative[keep])), 0)
    tall = np.log10(even + 1) / max(np.log10(even.max() + 1), 1e-9)
    ends = [(float(end), f"{end:.3g}") for end in (histogram.low, histogram.high)]
    chart = Chart(Axis(histogram.low, histogram.high, ends), Axis(0, 1.04, ()), 320, 150)
    chart.box(-chosen.limit - 2 * chosen.offset, chosen.limit, 1.04, BLUE, 0.2)
    for left, right, height in zip(grid, grid[1:], tall):
        chart.box(left, right, height, GREY)
    for method, (title, colour) in _CUTS.items():
        chart.mark(METHODS[method](histogram), colour, title)
    label = f"values of the input of {_short(name)}, from {histogram.low:.3g} to {histogram.high:.3g}"
    return f"<div><h3>{escape(_short(name))}</h3>{chart.svg(label)}</div>"


def _short(name: str) -> str:
    return name.strip("/").removesuffix("/Conv").removesuffix("/Gemm").removesuffix("/conv")


def _decibel(share: float) -> float:
    return round(-10 * math.log10(max(share, 1e-15)), 2)
