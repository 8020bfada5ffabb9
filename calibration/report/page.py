"""The report of a calibration: one HTML page that needs nothing else, and the same as JSON."""
# ruff: noqa: E501 - markup reads better unbroken

from __future__ import annotations

import html
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
from runtime.printable import printable
from runtime.whole_file import write_whole

WORST = 6  # tensors whose histograms are drawn
LISTED = 30  # layers

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } p { max-width: 46rem }
table { border-collapse: collapse } td, th { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid #e3e6ec }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } tr.ours td { font-weight: 600 }
.note { color: #8a4b00 } svg text { font: 12px system-ui, sans-serif; fill: #4a5364 }
.bar { display: inline-block; height: .7rem; background: #3b6fd4 } .kept .bar { background: #d9822b } .kept { background: #fdf6ec }
.grid { display: flex; flex-wrap: wrap; gap: 1rem }
"""


def escape(text: str) -> str:
    """As HTML; control characters and halves of surrogates, which no page can hold, are shown as escapes."""
    return html.escape(printable(text))


def write_report(result: Result, network: LayerGraph, prepared: Prepared, folder: Path) -> None:
    """Writes `<variant>.calibration.html` and `.json` into `folder`."""
    facts = {
        **summary(result),
        "variant": result.variant,
        "warnings": result.warnings,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 1),
        "layers": _layers(result, network, prepared),
        "trade_off": [written(point) for point in result.points],
    }
    write_whole(folder / f"{result.variant}.calibration.json", (json.dumps(facts, indent=1) + "\n").encode())
    write_whole(folder / f"{result.variant}.calibration.html", page(result, network, prepared).encode())


def page(result: Result, network: LayerGraph, prepared: Prepared) -> str:
    best = result.best
    short = "" if result.met else "; the goal was not reached, this is the best that was found"
    if result.training:
        how = f"No layer was chosen to stay in float; all were trained for {result.training.epochs} epochs with INT8's roundings in place"
        if not result.trained:
            how += ", which did harm, so the weights are those that calibration found"
    else:
        how = f"{len(best.kept)} of {len(prepared.layers)} layers were chosen to stay in float"
    lead = f"{best.share:.1%} of the MACs are INT8. {how}{short}."
    worst = sorted(prepared.layers, key=lambda name: -result.damages[name])[:WORST]
    tensors = list(dict.fromkeys(network.layer(name).input for name in worst))
    users = {network.layer(name).input: name for name in reversed(worst)}
    drawn = "".join(_histogram(prepared.histograms[t], _widest(prepared.layers[users[t]]), users[t]) for t in tensors)
    return f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(result.variant)}: INT8 calibration</title><style>{_STYLE}</style>
<h1>{escape(result.variant)}: INT8 calibration for {escape(result.target)}</h1>
<p>{escape(lead)} Calibrated on {result.pictures} images ({escape(Path(result.origin).name)}) in {result.seconds:.0f} s.</p>
{"".join(f'<p class="note">{escape(warning)}</p>' for warning in result.warnings)}
<h2>What it keeps</h2><p>Judged on {escape(Path(result.judged_on).name)}.</p>{_scores(result)}{_speeds(result)}
{_trade_off(result)}<h2>What each layer costs</h2>
<p>Noise at the logits with that layer alone in INT8{", before training" if result.training else ""}, the {LISTED} worst. The shaded ones stay in float.
Of those called smoothed each channel has a factor of its own before rounding.</p>{_table(result, network, prepared)}
<h2>Ranges of the worst tensors</h2>
<p>How often values occur (logarithmic), what INT8 covers (shaded), and where other choices would have cut: the maximum, the 99.99th
percentile, the least entropy, the least square error.</p><div class="grid">{drawn}</div>
</html>
"""


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
            f'<tr{kind}><td>{escape(score.name)}{top1}<td class="n">{score.agreement:.1f} %<td class="n">{sqnr}'
        )
    head = '<th class="n">top-1' if labelled else ""
    return (
        f'<table><tr><th>network{head}<th class="n">same class as FP32<th class="n">logit SQNR{"".join(rows)}</table>'
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
        kind = network.layer(name).kind + (", smoothed" if prepared.layers[name].factors is not None else "")
        rows.append(
            f'<tr{kept}><td>{escape(_short(name))}<td>{kind}<td class="n">{share_of(network, name):.2%}'
            f'<td class="n">{level:.1f} dB<td><span class="bar" style="width:{width:.0f}px"></span>'
        )
    return f'<table><tr><th>layer<th>kind<th class="n">MACs<th class="n">SQNR alone<th>amplitude of noise{"".join(rows)}</table>'


def _trade_off(result: Result) -> str:
    if result.training:
        return ""
    return f"""<h2>Layers in float against agreement</h2>
<p>Layers are left in float in the order of damage for their MACs. Same class as FP32 over all {result.pictures} calibration
images, signal to noise of the logits over those held out.</p>{_curve(result)}
"""


def _curve(result: Result) -> str:
    """Layers in float to the right; same class and SQNR each with its own axis."""
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
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in spots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>' for px, py in spots]
    for i in range(5):
        at = top + (height - top - bottom) * i / 4
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{at}" y2="{at}" stroke="#e3e6ec"/>')
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
        f'<line x1="{best:.1f}" x2="{best:.1f}" y1="{top}" y2="{height - bottom}" stroke="#4a5364" stroke-dasharray="4"/>'
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}">{"".join(parts)}</svg>'
        '<p><span style="color:#3b6fd4">●</span> same class as FP32 &nbsp; <span style="color:#d9822b">●</span> logit SQNR &nbsp; '
        "below: layers chosen for float, share of MACs in INT8; dashed: the choice</p>"
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
    for method, colour in (("max", "#1c2330"), ("99.99", "#8e44ad"), ("entropy", "#c0392b"), ("mse", "#16803c")):
        at = x(METHODS[method](histogram))
        marks += f'<line x1="{at:.1f}" x2="{at:.1f}" y1="20" y2="{height - bottom}" stroke="{colour}" stroke-dasharray="3"><title>{method}</title></line>'
    return (
        f'<svg viewBox="-4 0 {width + 8} {height}" width="{width}"><text x="0" y="12">{escape(_short(name))}</text>'
        f'<rect x="{covered[0]:.1f}" y="18" width="{covered[1] - covered[0]:.1f}" height="{height - bottom - 18}" fill="#e4ecfb"/>{bars}{marks}'
        f'<text x="0" y="{height - 6}">{histogram.low:.3g}</text><text x="{width}" y="{height - 6}" text-anchor="end">{histogram.high:.3g}</text></svg>'
    )


def _short(name: str) -> str:
    return name.strip("/").removesuffix("/Conv").removesuffix("/Gemm").removesuffix("/conv")


def _decibel(share: float) -> float:
    return round(-10 * math.log10(max(share, 1e-15)), 2)
