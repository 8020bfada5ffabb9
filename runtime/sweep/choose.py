"""Which artifact to deploy: the most accurate that stays within limits, why, and what its neighbours cost."""

from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .rows import Report, Row, accuracy, measured, milliseconds, of_batch, title


class Limit(NamedTuple):
    """A quantity that can be limited."""

    option: str
    unit: str
    least: bool  # whether the limit is the least that is wanted, or the most
    of: Callable[[Row], Optional[float]]


LIMITS: Dict[str, Limit] = {
    "max_ms": Limit("--max-ms", "ms", False, milliseconds),
    "min_top1": Limit("--min-top1", "% top-1", True, lambda row: row.get("top1")),
    "max_joules": Limit("--max-joules", "J an image", False, lambda row: row.get("joules_per_image")),
    "max_mb": Limit("--max-mb", "MB", False, lambda row: row.get("file_mb")),
}


class Choice(NamedTuple):
    """What was chosen, None if nothing fits, and everything that is to be said about it."""

    row: Optional[Row]
    lines: List[str]


def choose(report: Report, limits: Dict[str, float], batch: Optional[int] = None) -> Choice:
    """The most accurate row whose accuracy was measured and that keeps `limits` (by key of LIMITS); among equals the fastest."""
    rows = of_batch([row for row in report.rows if "total" in row], batch)
    known = measured(rows)
    if not known:
        return Choice(None, _nothing_measured(rows, limits))
    fitting = [row for row in known if not _broken(row, limits)]
    asked = ", ".join(f"{LIMITS[name].option} {value:g}" for name, value in limits.items())
    if not fitting:
        return Choice(None, [f"Nothing in {report.name} keeps {asked}.", *_nearest(known, limits)])
    best = max(fitting, key=lambda row: (row["top1"], -row["total"]["p50"]))
    fit = f"the most accurate of the {len(fitting)} that keep" if len(fitting) > 1 else "the only one that keeps"
    why = f"{fit} {asked}, of" if limits else "the most accurate of"
    lines = [
        f"deploy              {best['artifact']}",
        f"                    {title(best)}: {_figures(best)}",
        f"why                 {why} {len(known)} measured",
    ]
    if best["top1_interval"][0] < limits.get("min_top1", 0):
        lines.append(f"beware              on so few images its top-1 may be {best['top1_interval'][0]:.1f} % as well")
    if best["noisy"]:
        lines.append("beware              its latency was measured on a noisy machine")
    better = [row for row in known if row["top1"] > best["top1"]]
    faster = [row for row in known if row["total"]["p50"] < best["total"]["p50"]]
    if better:
        lines.append(f"next more accurate  {_against(min(better, key=lambda row: row['total']['p50']), best, limits)}")
    else:
        lines.append("next more accurate  none: it is the most accurate that was measured")
    if faster:
        lines.append(f"next faster         {_against(max(faster, key=lambda row: row['top1']), best, limits)}")
    else:
        lines.append("next faster         none: it is the fastest that was measured")
    if len(known) < len(rows):
        lines.append(f"left out            {len(rows) - len(known)} whose accuracy was not measured here")
    return Choice(best, lines)


def _broken(row: Row, limits: Dict[str, float]) -> List[Tuple[float, str]]:
    """(by which share it is missed, limit) of each limit that `row` does not keep, or of which nothing is known."""
    broken = []
    for name, bound in limits.items():
        limit, value = LIMITS[name], LIMITS[name].of(row)
        if value is None:
            broken.append((float("inf"), name))
        elif value < bound if limit.least else value > bound:
            broken.append((abs(value - bound) / max(abs(bound), 1e-12), name))
    return broken


def _nearest(rows: Sequence[Row], limits: Dict[str, float]) -> List[str]:
    """The row that misses its limits by the least, and which."""
    unknown = [LIMITS[name] for name in limits if all(LIMITS[name].of(row) is None for row in rows)]
    lines = [f"Of no row are {limit.unit} known: leave {limit.option} out." for limit in unknown]
    wanted = {name: bound for name, bound in limits.items() if LIMITS[name] not in unknown}
    near = min(rows, key=lambda row: (max(_broken(row, wanted), default=(0.0, "")), -row["top1"]))
    missed = sorted(_broken(near, wanted))
    if missed:
        told = []
        for share, name in missed:
            value = LIMITS[name].of(near)
            has = "unknown" if value is None else f"{value:.4g} {LIMITS[name].unit}, {share:.0%} off"
            told.append(f"{LIMITS[name].option} {limits[name]:g} (it has {has})")
        lines.append(f"Nearest is {title(near)}: {_figures(near)}. It misses {' and '.join(told)}.")
    return lines


def _nothing_measured(rows: Sequence[Row], limits: Dict[str, float]) -> List[str]:
    lines = ["No accuracy was measured, so none can be chosen: run the sweep with DATA= a folder of labelled images."]
    others = {name: bound for name, bound in limits.items() if name != "min_top1"}
    known = [(found.top1, row) for row in rows if (found := accuracy(row))]
    fitting = [(top1, row) for top1, row in known if not _broken(row, others) and top1 >= limits.get("min_top1", 0)]
    if fitting:
        top1, best = max(fitting, key=lambda pair: (pair[0], -pair[1]["total"]["p50"]))
        lines.append(
            f"By what was published it would be {title(best)}: {best['total']['p50']:.2f} ms, top-1 {top1:g} % (published)."
        )
    return lines


def _figures(row: Row) -> str:
    (low, high), total = row["top1_interval"], row["total"]
    joules = f", {row['joules_per_image']:.3g} J an image" if row.get("joules_per_image") is not None else ""
    return (
        f"{total['p50']:.2f} ms (p99 {total['p99']:.2f}), top-1 {row['top1']:.1f} % ({low:.1f} to {high:.1f}, "
        f"{row['pictures']} images), {row['file_mb']:.1f} MB{joules}"
    )


def _against(row: Row, best: Row, limits: Dict[str, float]) -> str:
    """`row`, what it costs and gains against `best`, and which limits it would break."""
    time, points = row["total"]["p50"] - best["total"]["p50"], row["top1"] - best["top1"]
    apart = row["top1_interval"][0] > best["top1_interval"][1] or row["top1_interval"][1] < best["top1_interval"][0]
    noise = "" if apart else ", not beyond the noise"
    breaks = [f"{LIMITS[name].option} {limits[name]:g}" for _, name in _broken(row, limits)]
    misses = f"; breaks {' and '.join(breaks)}" if breaks else ""
    where = row["backend_name"] != best["backend_name"]
    return (
        f"{title(row, backend=where)}: {row['total']['p50']:.2f} ms ({time:+.2f}), top-1 {row['top1']:.1f} % "
        f"({points:+.1f} points{noise}), {row['file_mb']:.1f} MB{misses}"
    )
