"""The report of a calibration: one HTML page that needs nothing else, and the same as JSON."""
# ruff: noqa: E501 - markup reads better unbroken

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from calibration.collect.ranges import METHODS, Histogram, Range
from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import Quantised
from calibration.quantise.prepare import Prepared
from calibration.report.result import Result, share_of, summary, written
from calibration.report.speed import verdict
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
LISTED = 30  # layers

EXACT = 150.0  # dB: above, two outputs differ by FP32's own rounding

# Where other choices would have cut a tensor's range.
_CUTS = {
    "max": ("the maximum", "var(--ink)"),
    "99.99": ("the 99.99th percentile", PURPLE),
    "entropy": ("the least entropy", RED),
}
_CUTS["mse"] = ("the least square error", GREEN)

_STYLE = f"""
tr.ours td {{ font-weight: 600 }} .bar {{ display: inline-block; height: .7rem; background: {BLUE}; max-width: 30vw }}
.kept {{ background: var(--shade) }} .kept .bar {{ background: {ORANGE} }} td:first-child {{ overflow-wrap: break-word }}
@media (max-width: 40rem) {{ .noise {{ display: none }} td, th {{ padding-right: .5rem }} }}
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
    worst = sorted(prepared.layers, key=lambda name: -result.damages[name])[:WORST]
    tensors = list(dict.fromkeys(network.layer(name).input for name in worst))
    users = {network.layer(name).input: name for name in reversed(worst)}
    drawn = "".join(_histogram(prepared.histograms[t], _widest(prepared.layers[users[t]]), users[t]) for t in tensors)
    body = f"""<p>{escape(lead)} Calibrated on {result.images} images ({escape(Path(result.origin).name)}) in {result.seconds:.0f} s.</p>
{"".join(f'<p class="note">WARNING: {escape(warning)}</p>' for warning in result.warnings)}
{"".join(f"<p>{escape(note)}</p>" for note in result.notes)}
<h2>What it keeps</h2><p>Judged on {escape(result.judged_on)}. In brackets the 95 % interval of what so few images can tell.</p>{_scores(result)}{_speeds(result)}
{_trade_off(result)}<h2>What each layer costs</h2>
<p>Noise at the logits with that layer alone in INT8{", before training" if result.training else ""}, the {LISTED} worst. The shaded ones stay in higher precision.
Of those called smoothed each channel has a factor of its own before rounding.</p>{_table(result, network, prepared)}
<h2>Ranges of the worst tensors</h2>
<p>How often values occur, on a logarithmic scale; what INT8 covers is shaded, and dashed lines show where other choices would have
cut.</p>{key([(GREY, "values"), (BLUE, "covered by INT8"), *((colour, f"cut at {name}") for name, colour in _CUTS.values())])}
<div class="grid">{drawn}</div>"""
    return document(f"{result.variant}: INT8 calibration for {result.target}", body, _STYLE)


def _layers(result: Result, network: LayerGraph, prepared: Prepared) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "kind": network.layer(name).kind,
            "share": share_of(network, name),
            "sqnr_alone": _decibel(result.damages[name]),
            "float": name in result.best.kept,
            "smoothed": layer.factors is not None,
            "scale": layer.range.scale,
            "offset": layer.range.offset,
        }
        for name, layer in prepared.layers.items()
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
    names = sorted(prepared.layers, key=lambda name: -result.damages[name])[:LISTED]
    for name in names:
        level = _decibel(result.damages[name])
        width = max(2, 200 * 10 ** (-(level - _decibel(result.damages[names[0]])) / 20))
        kept = ' class="kept"' if name in result.best.kept else ""
        shown = escape(_short(name)).replace("/", "/<wbr>")  # may break there
        kind = network.layer(name).kind + (", smoothed" if prepared.layers[name].factors is not None else "")
        rows.append(
            f'<tr{kept}><td>{shown}<td>{kind}<td class="n">{share_of(network, name):.2%}'
            f'<td class="n">{level:.1f} dB<td class="noise"><span class="bar" style="width:{width:.0f}px"></span>'
        )
    head = '<tr><th>layer<th>kind<th class="n">MACs<th class="n">SQNR alone<th class="noise">amplitude of noise'
    return scrolled("layers", head + "".join(rows))


def _trade_off(result: Result) -> str:
    if result.training or result.placement != "search":
        return ""
    return f"""<h2>Layers in higher precision against agreement</h2>
<p>Layers are taken into higher precision in the order of damage for their MACs. Top-1 agreement with FP32 over all {result.images} calibration
images, signal to noise of the logits over those held out.</p>{_curve(result)}
"""


def _curve(result: Result) -> str:
    """Top-1 agreement and SQNR over the number of layers in higher precision, a chart each, with the choice marked."""
    points = sorted(result.points, key=lambda point: len(point.kept))
    chosen = len(result.best.kept)
    x = Axis(0, math.sqrt(max(1, len(points[-1].kept))), [])
    apart = 50 / 360 * x.high  # names of two lines side by side
    for point in sorted(points, key=lambda point: (len(point.kept) != chosen, point is not points[-1])):
        at = math.sqrt(len(point.kept))
        if all(abs(at - other) > apart for other, _ in x.ticks):
            x = x._replace(ticks=[*x.ticks, (at, f"{len(point.kept)}\n{point.share:.1%}")])
    figures = (
        ("top-1 agreement", BLUE, [100 * point.agreement for point in points], " %", 100.0),
        ("logit SQNR", ORANGE, [point.sqnr for point in points], " dB", math.inf),
    )
    charts = ""
    for name, colour, values, unit, top in figures:
        known = [(math.sqrt(len(p.kept)), v) for p, v in zip(points, values) if v < EXACT or unit != " dB"]
        chart = Chart(x, round_axis([v for _, v in known], unit, top, 1))
        chart.mark(math.sqrt(chosen), "var(--ink)", "the choice")
        chart.line(known, colour)
        charts += f"<div><h3>{name}</h3>{chart.svg(f'{name} over the number of layers in higher precision')}</div>"
    exact = " All layers in higher precision is FP32 itself, which has no noise." if points[-1].sqnr >= EXACT else ""
    return (
        f'<div class="grid">{charts}</div><p>To the right: layers chosen for higher precision, on a square-root scale, and below '
        f"the share of the MACs that stays in INT8. Dashed: the choice, {chosen} layers.{exact}</p>"
    )


def _widest(layer: Quantised) -> Range:
    """The range of the channel that gets the largest."""
    return layer.range if layer.factors is None else Range(layer.range.scale / float(layer.factors.min()))


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
