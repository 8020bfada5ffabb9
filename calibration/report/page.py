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
from runtime.html_page import document, escape, series
from runtime.whole_file import write_whole

WORST = 6  # tensors whose histograms are drawn
LISTED = 30  # layers

_STYLE = """
tr.ours td { font-weight: 600 } .bar { display: inline-block; height: .7rem; background: #3b6fd4 }
.kept { background: var(--shade) } .kept .bar { background: #d9822b }
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
    missed = "" if result.met else f" The goal was missed: {result.budget.goal}; this is the best that was found."
    if result.training:
        how = f"No layer was left in higher precision; all were trained for {result.training.epochs} epochs with INT8's roundings in place"
        if not result.trained:
            how += ", which did harm, so the weights are those that calibration found"
    else:
        how = f"{len(best.kept)} of {len(prepared.layers)} layers were chosen for higher precision"
    lead = f"{best.share:.1%} of the MACs are INT8. {how}; {result.reached}.{missed}"
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
<p>How often values occur (logarithmic), what INT8 covers (shaded), and where other choices would have cut: the maximum, the 99.99th
percentile, the least entropy, the least square error.</p><div class="grid">{drawn}</div>"""
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
    rows = []
    for score in result.scores:
        top1 = f'<td class="n">{score.top1:.1f} %' if score.top1 is not None else ""
        sqnr = "exact" if score.sqnr >= 150 else f"{score.sqnr:.1f} dB"
        kind = ' class="ours"' if score is result.scores[-1] else ""
        rows.append(
            f'<tr{kind}><td>{escape(score.name)}{top1}<td class="n">{score.agreement:.1f} % [{score.interval[0]:.1f}, {score.interval[1]:.1f}]<td class="n">{sqnr}'
        )
    head = '<th class="n">top-1' if labelled else ""
    return f'<table><tr><th>network{head}<th class="n">top-1 agreement<th class="n">logit SQNR{"".join(rows)}</table>'


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
        kind = network.layer(name).kind + (", smoothed" if prepared.layers[name].factors is not None else "")
        rows.append(
            f'<tr{kept}><td>{escape(_short(name))}<td>{kind}<td class="n">{share_of(network, name):.2%}'
            f'<td class="n">{level:.1f} dB<td><span class="bar" style="width:{width:.0f}px"></span>'
        )
    return f'<table><tr><th>layer<th>kind<th class="n">MACs<th class="n">SQNR alone<th>amplitude of noise{"".join(rows)}</table>'


def _trade_off(result: Result) -> str:
    if result.training:
        return ""
    return f"""<h2>Layers in higher precision against agreement</h2>
<p>Layers are taken into higher precision in the order of damage for their MACs. Top-1 agreement with FP32 over all {result.images} calibration
images, signal to noise of the logits over those held out.</p>{_curve(result)}
"""


def _curve(result: Result) -> str:
    """Layers in higher precision to the right; top-1 agreement and SQNR each with its own axis."""
    points = sorted(result.points, key=lambda point: len(point.kept))
    width, height, left, right, top, bottom = 640, 260, 56, 56, 16, 40
    most = max(1, len(points[-1].kept))
    same = [100 * point.agreement for point in points]
    levels = [point.sqnr for point in points]
    low_same, low_level = min(95.0, math.floor(min(same))), math.floor(min(levels)) - 1
    high_level = math.ceil(max(levels)) + 1

    def x(count: int) -> float:
        return left + (width - left - right) * math.sqrt(count / most)

    def y(value: float, low: float, high: float) -> float:
        return height - bottom - (height - top - bottom) * (value - low) / (high - low)

    parts = []
    for values, low, high, colour in ((same, low_same, 100.0, "#3b6fd4"), (levels, low_level, high_level, "#d9822b")):
        spots = [(x(len(point.kept)), y(value, low, high)) for point, value in zip(points, values)]
        parts.append(series(spots, colour))
    for i in range(5):
        at = top + (height - top - bottom) * i / 4
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text x="{left - 6}" y="{at + 4}" text-anchor="end">{100 - (100 - low_same) * i / 4:.1f} %</text>'
        )
        value = high_level - (high_level - low_level) * i / 4
        parts.append(f'<text x="{width - right + 6}" y="{at + 4}">{value:.1f} dB</text>')
    shown = -100.0
    for point in points:
        at = x(len(point.kept))
        if at - shown > 46 or point is points[-1]:
            parts.append(f'<text x="{at:.1f}" y="{height - 22}" text-anchor="middle">{len(point.kept)}</text>')
            parts.append(f'<text x="{at:.1f}" y="{height - 6}" text-anchor="middle">{point.share:.1%}</text>')
            shown = at
    best = x(len(result.best.kept))
    parts.append(
        f'<line x1="{best:.1f}" x2="{best:.1f}" y1="{top}" y2="{height - bottom}" style="stroke: var(--muted)" stroke-dasharray="4"/>'
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}">{"".join(parts)}</svg>'
        '<p><span style="color:#3b6fd4">●</span> top-1 agreement &nbsp; <span style="color:#d9822b">●</span> logit SQNR &nbsp; '
        "below: layers chosen for higher precision, share of MACs in INT8; dashed: the choice</p>"
    )


def _widest(layer: Quantised) -> Range:
    """The range of the channel that gets the largest."""
    return layer.range if layer.factors is None else Range(layer.range.scale / float(layer.factors.min()))


def _histogram(histogram: Histogram, chosen: Range, name: str) -> str:
    """Counts on a logarithmic axis over 80 even bins, the covered range shaded, other choices marked."""
    width, height, bottom = 300, 150, 22
    edges, counts = histogram.pooled()
    grid = np.linspace(histogram.low, histogram.high, 81)
    keep = np.concatenate([[True], np.diff(edges) > 0])
    cumulative = np.concatenate([[0], counts.cumsum()])
    even = np.maximum(np.diff(np.interp(grid, edges[keep], cumulative[keep])), 0)
    tall = np.log10(even + 1) / max(np.log10(even.max() + 1), 1e-9) * (height - bottom - 24)

    def x(value: float) -> float:
        return (
            width * (min(max(value, histogram.low), histogram.high) - histogram.low) / (histogram.high - histogram.low)
        )

    covered = x(-chosen.limit - 2 * chosen.offset), x(chosen.limit)
    bars = "".join(
        f'<rect x="{i * width / 80:.1f}" y="{height - bottom - h:.1f}" width="{width / 80 - 0.5:.1f}" height="{h:.1f}" fill="#7d8aa3"/>'
        for i, h in enumerate(tall)
    )
    marks = ""
    for method, colour in (("max", "var(--ink)"), ("99.99", "#8e44ad"), ("entropy", "#c0392b"), ("mse", "#16803c")):
        at = x(METHODS[method](histogram))
        marks += f'<line x1="{at:.1f}" x2="{at:.1f}" y1="20" y2="{height - bottom}" style="stroke: {colour}" stroke-dasharray="3"><title>{method}</title></line>'
    return (
        f'<svg viewBox="-4 0 {width + 8} {height}" width="{width}"><text x="0" y="12">{escape(_short(name))}</text>'
        f'<rect x="{covered[0]:.1f}" y="18" width="{covered[1] - covered[0]:.1f}" height="{height - bottom - 18}" fill="#3b6fd4" fill-opacity=".15"/>{bars}{marks}'
        f'<text x="0" y="{height - 6}">{histogram.low:.3g}</text><text x="{width}" y="{height - 6}" text-anchor="end">{histogram.high:.3g}</text></svg>'
    )


def _short(name: str) -> str:
    return name.strip("/").removesuffix("/Conv").removesuffix("/Gemm").removesuffix("/conv")


def _decibel(share: float) -> float:
    return round(-10 * math.log10(max(share, 1e-15)), 2)
