"""What one machine measured, in one file for everybody: make results [NAME=orin-nano-8gb] [SWEEPS=sweep,random]

Collects sweeps of reports/, the machine and its versions, and on a machine with an NVIDIA GPU the steps of tests/gpu/measure.py
with those that failed and why. Paths, the machine's own name and its owner's are taken out. The file is held against
docs/results/schema.json and kept as docs/results/NAME/results.json with a table, a page and pictures; docs/results.md, the
overview over all boards, is drawn anew.
"""

from __future__ import annotations

import argparse
import getpass
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.backends.cuda.driver import gpus  # noqa: E402
from runtime.command import run  # noqa: E402
from runtime.doctor import found as versions  # noqa: E402
from runtime.errors import UserError  # noqa: E402
from runtime.measure.machine import machine  # noqa: E402
from runtime.sweep import chart, scaling  # noqa: E402
from runtime.sweep.page import page  # noqa: E402
from runtime.sweep.rows import Report, Row, failures, frontier, measured, read_rows  # noqa: E402
from runtime.whole_file import write_whole  # noqa: E402

SCHEMA = 1
_PASSING = ("load", "temperatures")  # of the moment, not of the machine


def main(argv: Optional[Sequence[str]] = None) -> int:
    options = _parser().parse_args(argv)
    reports = [read_rows(Path("reports") / name) for name in options.sweeps.split(",")]
    name = options.name or slug(machine())
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise UserError(f"'{name}' can't be a machine's name: use small letters, digits, dots and dashes.")
    collected = collect(reports, name, gpu_steps())
    said = valid(collected, options.docs / "results" / "schema.json")
    folder = options.docs / "results" / name
    written = write(collected, folder)
    write_whole(options.docs / "results.md", overview(options.docs / "results").encode())
    print(f"{said}\nwrote {', '.join(written)} in {folder}, and {options.docs / 'results.md'}")
    print(
        f"To share it, attach {folder / 'results.json'} to an issue (template: Results of a board), or send a pull request."
    )
    return 0


def slug(here: Dict[str, Any]) -> str:
    """A name for the machine from what it is: its board, its GPU, or its processor and cores."""
    gpu = next(iter(here.get("gpus", [])), {}).get("name")
    what = (
        here.get("jetson", {}).get("model") or gpu or f"{here.get('cpu', here['architecture'])} {here['cores']} cores"
    )
    return re.sub(r"[^a-z0-9.]+", "-", re.sub(r"\((r|tm)\)", " ", what.lower())).strip("-.")


def collect(reports: Sequence[Report], name: str, gpu: Dict[str, Any]) -> Dict[str, Any]:
    """What `results.json` holds, without what tells whose machine it is."""
    rows = {}
    for report in reports:
        for row in report.rows:
            written = row.to_json()
            written["site"] = {key: value for key, value in written["site"].items() if key != "node"}
            written["artifact"] = Path(written.get("artifact", "")).name
            rows.setdefault((*row.key, row.random), written)
    here = {key: value for key, value in {**machine(), **reports[0].machine}.items() if key not in _PASSING}
    return scrubbed(
        {
            "written_by": "make results",
            "schema": SCHEMA,
            "name": name,
            "machine": here,
            "versions": versions(),
            "data": next((report.data for report in reports if report.data), ""),
            "rows": list(rows.values()),
            "gpu": gpu,
        }
    )


def gpu_steps() -> Dict[str, Any]:
    """The steps of tests/gpu/measure.py where there is a GPU, as far as an earlier run had not done them."""
    steps: Dict[str, Any] = {"steps": {}, "below_the_bar": [], "not_measured": []}
    there, why = gpus()[:2]
    if not there:
        return {**steps, "not_measured": [f"all: {why or 'there is no NVIDIA driver'}"]}
    kept = Path("reports") / "gpu.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "gpu" / "measure.py"), "--json", str(kept)],
        stdout=subprocess.PIPE,
        text=True,
    )
    sys.stderr.write(done.stdout)
    lines = done.stdout.splitlines()
    for key, label in (("below_the_bar", "BELOW THE BAR  "), ("not_measured", "NOT MEASURED   ")):
        steps[key] = [line[len(label) :] for line in lines if line.startswith(label)]
    if done.returncode not in (0, 1):
        steps["not_measured"].append(f"the rest: measure.py ended with status {done.returncode}")
    return {**steps, "steps": json.loads(kept.read_text()) if kept.is_file() else {}}


def scrubbed(value: Any) -> Any:
    """`value` without paths (their last part stays), this machine's name and its user's."""
    if isinstance(value, dict):
        return {key: scrubbed(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed(inner) for inner in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?<![\w:/.])(?:~|[A-Za-z]:)?[/\\](?:[\w.+ -]*?[\w.+-][/\\])+", "", value)
    for private in (platform.node(), _user()):
        if len(private) > 2 and private not in ("root", "localhost"):
            text = re.sub(rf"\b{re.escape(private)}\b", "...", text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def valid(collected: Dict[str, Any], schema: Path) -> str:
    """Holds it against the schema, and says so; says that it could not where jsonschema is missing. Raises UserError."""
    try:
        import jsonschema
    except ImportError:
        return "NOT held against the schema: pip install jsonschema"
    for error in jsonschema.Draft202012Validator(json.loads(schema.read_text())).iter_errors(collected):
        where = "/".join(map(str, error.absolute_path))
        raise UserError(f"What was collected does not fit {schema} at {where}: {error.message[:300]}")
    return f"fits {schema}"


def report_of(collected: Dict[str, Any]) -> Report:
    rows = [Row.from_json(row) for row in collected["rows"]]
    return Report(collected["name"], rows, collected["machine"], collected["data"])


def write(collected: Dict[str, Any], folder: Path) -> List[str]:
    """Writes file, table, page and pictures; their names."""
    report, files = report_of(collected), {}  # type: Report, Dict[str, bytes]
    files["results.json"] = (json.dumps(collected, indent=1) + "\n").encode()
    charts: List[str] = []
    if chart.can_draw(report.rows):
        files["sweep.png"], files["scaling.png"] = chart.png(report.rows), scaling.png(report.rows)
        sizes = (("wide", chart.WIDE), ("narrow", chart.NARROW))
        charts = [chart.svg_for_page(report.rows, size, name) for name, size in sizes]
    files["sweep.html"] = page(report, charts, "There is no chart: no accuracy is known.").encode()
    files["README.md"] = table(collected, report, bool(charts)).encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    return list(files)


def table(collected: Dict[str, Any], report: Report, drawn: bool) -> str:
    """The machine's own page."""
    lines = [f"# {report.name}", "", _about(collected), ""]
    lines += (
        [
            "![Accuracy against latency](sweep.png)",
            "",
            "![Accuracy against MACs, parameters and latency](scaling.png)",
            "",
        ]
        if drawn
        else []
    )
    accuracy = f"Top-1 and agreement are in %, on the images of `{report.data}`, with 95 % intervals."
    lines += [
        "Times are medians in ms from JPEG bytes to the five best classes, one image (`!`: not known to 2 %).",
        accuracy if report.data else "No accuracy was measured.",
        "*published*: not measured here, but published for FP32 on ImageNet, whose images are harder.",
        "*random*: random weights, for latency alone. Bold: nothing measured here is both faster and more accurate.",
        "Made by `make results`; [results.json](results.json), [page](sweep.html).",
        "",
        "| network | precision | backend | ms | p99 | top-1 | agreement with FP32 | MB | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    best = [each.row for each in frontier(report.rows)]
    for row in report.rows:
        name = f"**{row.variant}**" if row in best else row.variant
        figures = ["-", "-", "-", "-", "-"]
        if row.latency:
            figures[:2] = [
                f"{row.latency.total.p50:.2f}{'!' if row.latency.noisy else ''}",
                f"{row.latency.total.p99:.1f}",
            ]
            figures[4] = f"{row.latency.file_mb:.1f}"
        if row.top1:
            figures[2] = f"{row.top1.top1:.1f} *published*"
            if row.top1.interval:
                figures[2] = "{:.1f} ({:.1f} to {:.1f})".format(row.top1.top1, *row.top1.interval)
        if row.accuracy and row.accuracy.agreement is not None:
            figures[3] = f"{row.accuracy.agreement:.1f}"
        note = row.reason or row.accuracy_reason or failures(row) or ("*random*" if row.random else "")
        lines.append(f"| {' | '.join([name, row.precision, row.backend_name, *figures, note.replace('|', ' ')])} |")
    return "\n".join([*lines, *_gpu(collected["gpu"]), ""])


def _about(collected: Dict[str, Any]) -> str:
    here = collected["machine"]
    board = here.get("jetson", {}).get("model", "")
    parts = [board, f"{here.get('cpu', here['architecture'])}, {here['cores']} cores"]
    parts += [gpu["name"] for gpu in here.get("gpus", [])] + [here.get("os", ""), here.get("power_mode", "")]
    libraries = ", ".join(f"{name} {version}" for name, version in here["libraries"].items())
    return f"{'; '.join(filter(None, parts))}. {libraries}."


def _gpu(gpu: Dict[str, Any]) -> List[str]:
    lines = ["", "## On the GPU", ""]
    for step, rows in gpu["steps"].items():
        for row in rows:
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
            batch = f", batch {row['batch']}" if row.get("batch") else ""
            lines.append(f"- {step}: {row['what']}{batch}. {numbers}")
    lines += [f"- **below the bar**: {what}" for what in gpu["below_the_bar"]]
    return [*lines, *(f"- not measured: {what}" for what in gpu["not_measured"])]


class Board(NamedTuple):
    """One folder of docs/results."""

    name: str
    collected: Dict[str, Any]


def boards(folder: Path) -> List[Board]:
    return [Board(file.parent.name, json.loads(file.read_text())) for file in sorted(folder.glob("*/results.json"))]


def overview(folder: Path) -> str:
    """docs/results.md: every machine, what is fastest and most accurate there, and which GPU steps worked."""
    lines = [
        "# Results of all machines",
        "",
        "One row for each machine that somebody measured with `make results`, which draws this page anew. Accuracies on",
        "other images can't be compared. To add yours: `make sweep DATA=labelled/`, `make results`, and the file that it",
        "names in an issue or a pull request.",
        "",
        "| machine | rows measured | fastest | most accurate | steps on the GPU: done, below the bar, not measured |",
        "|---|---|---|---|---|",
    ]
    if not boards(folder):
        lines.append("| none yet | | | | |")
    for name, collected in boards(folder):
        report, gpu = report_of(collected), collected["gpu"]
        known = measured(report.rows)
        ends = ["-", "-"]
        if known:
            most = max(known, key=lambda each: (each.top1, -each.ms))
            ends = [
                f"{each.row.variant} {each.row.precision}: {each.ms:.1f} ms, {each.top1:.1f} %"
                for each in (known[0], most)
            ]
        steps = (
            f"{len(gpu['steps'])}, {len(gpu['below_the_bar'])}, {len(gpu['not_measured'])}"
            if gpu["steps"]
            else "no GPU"
        )
        timed = sum(row.latency is not None for row in report.rows)
        lines.append(
            f"| [{name}](results/{name}/README.md) | {timed} of {len(report.rows)} | {ends[0]} | {ends[1]} | {steps} |"
        )
    for name, _ in boards(folder):
        if (folder / name / "sweep.png").is_file():
            lines += ["", f"![Accuracy against latency on {name}](results/{name}/sweep.png)"]
    return "\n".join([*lines, ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks/results.py", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--sweeps", default="sweep", metavar="A,B", help="folders of reports/ (default: sweep)")
    parser.add_argument(
        "--name", metavar="NAME", help="of the machine: the folder in docs/results (default: what it is)"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="DIR", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run(main)
