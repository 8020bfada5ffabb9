"""Latency against accuracy: python -m runtime.sweep --variants b0..b7 --precisions fp32,int8 --data photos/
Which to deploy: python -m runtime.sweep --choose --max-ms 10"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from ..command import positive, run, seconds
from ..errors import UserError
from ..fleet.options import add_fleet_options, fleet_of, require_ray
from ..invocation import typed
from ..printable import printable
from ..table import aligned
from ..whole_file import write_whole
from . import chart
from .artifacts import folder_of
from .choose import LIMITS, choose
from .page import page
from .plan import Plan, backends_of, batches_of, foreign_of, precisions_of, require_variants, variants_of
from .rows import Report, failures, read_rows
from .run import sweep

REPORTS = Path("reports")


def main(argv: Optional[Sequence[str]] = None) -> int:
    options = _parser().parse_args(argv)
    name = options.name or options.weights or "sweep"
    if Path(name).name != name:
        raise UserError(f"'{name}' is no name for a sweep: it is a folder in {REPORTS}/.")
    folder = REPORTS / name
    given = {name: getattr(options, name) for name in LIMITS if getattr(options, name) is not None}
    if options.choose:
        choice = choose(read_rows(folder), given, batches_of(options.batches)[0] if options.batches else None)
        print("\n".join(map(printable, choice.lines)))
        return 0 if choice.row else 1
    if given:
        raise UserError(f"{', '.join(LIMITS[name].option for name in given)}: to choose from a sweep, add --choose.")
    plan = Plan(
        variants=variants_of(options.variants),
        precisions=precisions_of(options.precisions),
        backends=backends_of(options.backends),
        batches=batches_of(options.batches or "1"),
        foreign=foreign_of(options.onnx),
        data=options.data,
        limit=options.limit,
        calib=options.calib,
        images=options.images,
        random=options.weights == "random",
        seconds=options.seconds,
        threads=options.threads,
    )
    require_variants(plan.variants, folder_of(plan))
    fleet = fleet_of(options)
    if fleet is not None:
        require_ray(fleet.address)
    report = sweep(
        plan, folder, say=lambda text: print(text, file=sys.stderr, flush=True), fresh=options.force, fleet=fleet
    )
    written = write_report(report, folder)
    print(_table(report))
    for path in ("sweep.csv", "sweep.json", *written):
        print(f"wrote {folder / path}")
    return 0 if any(row.latency for row in report.rows) else 1


def write_report(report: Report, folder: Path) -> List[str]:
    """Writes the chart, where there is something to draw and something to draw it with, and the page; their names."""
    drawn: Dict[str, bytes] = {}
    charts: List[str] = []
    instead = "There is no chart: no accuracy is known. With DATA= a folder of labelled images, the sweep measures it."
    if chart.can_draw(report.rows):
        try:
            drawn = {"sweep.png": chart.png(report.rows), "sweep.svg": chart.svg(report.rows).encode()}
            sizes = (("wide", chart.WIDE), ("narrow", chart.NARROW))
            charts = [chart.svg_for_page(report.rows, size, name) for name, size in sizes]
        except UserError as error:
            instead = f"There is no chart. {error}"
    if not drawn:
        print(instead, file=sys.stderr)
    for name in ("sweep.png", "sweep.svg"):
        if name in drawn:
            write_whole(folder / name, drawn[name])
        elif (folder / name).exists():  # of what was measured before
            (folder / name).unlink()
    write_whole(folder / "sweep.html", page(report, charts, instead).encode())
    return [*drawn, "sweep.html"]


def _table(report: Report) -> str:
    lines = [["variant", "precision", "backend", "batch", "ms", "top-1", "MB", ""]]
    for row in report.rows:
        top1 = "-" if row.top1 is None else f"{row.top1.top1:.1f}{'' if row.top1.measured else ' published'}"
        note = row.reason or row.accuracy_reason or ("random weights" if row.random else failures(row))
        notes = [note, row.latency.beside_bound if row.latency else ""]
        ms = size = "-"
        if row.latency:
            ms, size = f"{row.latency.total.p50:.2f}{'!' if row.latency.noisy else ''}", f"{row.latency.file_mb:.1f}"
        lines.append(
            [
                row.variant,
                row.precision,
                row.backend_name,
                str(row.batch),
                ms,
                top1,
                size,
                "; ".join(filter(None, notes)),
            ]
        )
    return aligned(lines, right=(3, 4, 6))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("sweep"),
        description="Makes the artifacts that are missing, measures all, and writes reports/NAME/sweep.{csv,json,png,svg,html}. "
        "What was measured before is kept; what fails is a row with its reason.",
        epilog="Exit status: 0 measured or chosen, 1 nothing could be, 2 wrong use.",
    )
    parser.add_argument("--variants", default="b0..b7", metavar="V", help="b0..b7 (default), or lite0,v2-b0,...")
    parser.add_argument(
        "--precisions", default="fp32,fp16,int8", metavar="P", help="fp32,fp16,int8 (default), int8-fp16"
    )
    parser.add_argument("--backends", default="auto", metavar="B", help="auto (default), or several by name")
    parser.add_argument("--batches", metavar="N", help="1 (default), or several: 1,8")
    parser.add_argument("--batch", dest="batches", help=argparse.SUPPRESS)  # its name until 2026
    parser.add_argument(
        "--onnx", default="", metavar="FILE[:NAME],...", help="third-party ONNX classifiers, measured the same way"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled images; without them, the accuracy is the published one"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="about N of those images")
    parser.add_argument("--calib", type=Path, metavar="DIR", help="images to calibrate missing INT8 artifacts with")
    parser.add_argument("--images", type=Path, metavar="DIR", help="images that latency is measured on")
    parser.add_argument(
        "--weights", choices=("random",), help="random weights: for latency alone, in a folder of their own"
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help="of measuring latency, for each artifact and batch",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of the network (default: the backend's)"
    )
    parser.add_argument("--name", help="of the sweep: the folder in reports/ (default: sweep, or random)")
    parser.add_argument("--force", action="store_true", help="measure everything again")
    parser.add_argument("--fresh", action="store_true", dest="force", help=argparse.SUPPRESS)  # its old name
    parser.add_argument("--choose", action="store_true", help="name the artifact to deploy, from what was measured")
    add_fleet_options(parser)
    for name in LIMITS:
        limit, unit = LIMITS[name], LIMITS[name].unit.replace("%", "%%")
        bound = "least" if limit.least else "most"
        parser.add_argument(limit.option, type=float, metavar="X", help=f"with --choose: {bound} {unit}")
    return parser


if __name__ == "__main__":
    run(main)
