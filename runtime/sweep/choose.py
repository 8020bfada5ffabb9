"""Which artifact to deploy: the most accurate within limits, why, and what the next better and the next faster cost."""

from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .rows import Measured, Report, Row, measured, of_batch, title


class Limit(NamedTuple):
    """A quantity that can be limited."""

    option: str
    unit: str
    least: bool  # whether the limit is the least that is wanted, or the most
    of: Callable[[Row], Optional[float]]


LIMITS: Dict[str, Limit] = {
    "max_ms": Limit("--max-ms", "ms", False, lambda row: row.milliseconds),
    "min_top1": Limit("--min-top1", "% top-1", True, lambda row: row.top1.top1 if row.top1 else None),
    "max_joules": Limit(
        "--max-joules", "J an image", False, lambda row: row.latency.joules_per_image if row.latency else None
    ),
    "max_mb": Limit("--max-mb", "MB", False, lambda row: row.latency.file_mb if row.latency else None),
}


class Choice(NamedTuple):
    """What was chosen, None if nothing fits, and the lines to print about it."""

    row: Optional[Row]
    lines: List[str]


def choose(report: Report, limits: Dict[str, float], batch: Optional[int] = None) -> Choice:
    """The most accurate row whose accuracy was measured and that keeps `limits` (by key of LIMITS); among equals the fastest."""
    rows = of_batch([row for row in report.rows if row.latency], batch)
    known = measured(rows)
    if not known:
        return Choice(None, _nothing_measured(rows, limits))
    fitting = [each for each in known if not _broken(each.row, limits)]
    asked = ", ".join(f"{LIMITS[name].option} {value:g}" for name, value in limits.items())
    if not fitting:
        return Choice(None, [f"Nothing in {report.name} keeps {asked}.", *_nearest(known, limits)])
    best = max(fitting, key=lambda each: (each.top1, -each.ms))
    fit = f"the most accurate of the {len(fitting)} that keep" if len(fitting) > 1 else "the only one that keeps"
    why = f"{fit} {asked}, of" if limits else "the most accurate of"
    lines = [
        f"deploy              {best.row.artifact}",
        f"                    {title(best.row)}: {_figures(best)}",
        f"why                 {why} {len(known)} measured",
    ]
    if best.interval[0] < limits.get("min_top1", 0):
        lines.append(f"beware              on so few images its top-1 may be {best.interval[0]:.1f} % as well")
    if best.latency.noisy:
        lines.append("beware              its latency was measured on a noisy machine")
    better = [each for each in known if each.top1 > best.top1]
    faster = [each for each in known if each.ms < best.ms]
    if better:
        lines.append(f"next more accurate  {_against(min(better, key=lambda each: each.ms), best, limits)}")
    else:
        lines.append("next more accurate  none: it is the most accurate that was measured")
    if faster:
        lines.append(f"next faster         {_against(max(faster, key=lambda each: each.top1), best, limits)}")
    else:
        lines.append("next faster         none: it is the fastest that was measured")
    if len(known) < len(rows):
        lines.append(f"left out            {len(rows) - len(known)} whose accuracy was not measured here")
    return Choice(best.row, lines)


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


def _nearest(known: Sequence[Measured], limits: Dict[str, float]) -> List[str]:
    """The row that misses its limits by the least, and which."""
    unknown = [LIMITS[name] for name in limits if all(LIMITS[name].of(each.row) is None for each in known)]
    lines = [f"No row says how many {limit.unit}: leave {limit.option} out." for limit in unknown]
    wanted = {name: bound for name, bound in limits.items() if LIMITS[name] not in unknown}
    near = min(known, key=lambda each: (max(_broken(each.row, wanted), default=(0.0, "")), -each.top1))
    missed = sorted(_broken(near.row, wanted))
    if missed:
        told = []
        for share, name in missed:
            value = LIMITS[name].of(near.row)
            has = "unknown" if value is None else f"{value:.4g} {LIMITS[name].unit}, {share:.0%} off"
            told.append(f"{LIMITS[name].option} {limits[name]:g} (it has {has})")
        lines.append(f"Nearest is {title(near.row)}: {_figures(near)}. It misses {' and '.join(told)}.")
    return lines


def _nothing_measured(rows: Sequence[Row], limits: Dict[str, float]) -> List[str]:
    lines = ["No accuracy was measured, so none can be chosen: run the sweep with DATA= a folder of labelled images."]
    fitting = [
        (row.top1.top1, -row.latency.total.p50, row)
        for row in rows
        if row.top1 and row.latency and not _broken(row, limits)
    ]
    if fitting:
        top1, faster, best = max(fitting, key=lambda each: each[:2])
        lines.append(
            f"By published accuracy it would be {title(best)}: {-faster:.2f} ms, top-1 {top1:g} % (published)."
        )
    return lines


def _figures(found: Measured) -> str:
    (low, high), total, joules = found.interval, found.latency.total, found.latency.joules_per_image
    images = f", {found.row.accuracy.images} images" if found.row.accuracy else ""
    return (
        f"{total.p50:.2f} ms (p99 {total.p99:.2f}), top-1 {found.top1:.1f} % ({low:.1f} to {high:.1f}{images}), "
        f"{found.latency.file_mb:.1f} MB{'' if joules is None else f', {joules:.3g} J an image'}"
    )


def _against(other: Measured, best: Measured, limits: Dict[str, float]) -> str:
    """`other`, what it costs and gains against `best`, and which limits it would break."""
    apart = other.interval[0] > best.interval[1] or other.interval[1] < best.interval[0]
    noise = "" if apart else ", not beyond the noise"
    breaks = [f"{LIMITS[name].option} {limits[name]:g}" for _, name in _broken(other.row, limits)]
    misses = f"; breaks {' and '.join(breaks)}" if breaks else ""
    where = other.row.backend_name != best.row.backend_name
    return (
        f"{title(other.row, backend=where)}: {other.ms:.2f} ms ({other.ms - best.ms:+.2f}), top-1 {other.top1:.1f} % "
        f"({other.top1 - best.top1:+.1f} points{noise}), {other.latency.file_mb:.1f} MB{misses}"
    )
