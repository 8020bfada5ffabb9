"""A sweep's rows, one for each combination that was tried: what they hold, and sweep.json and sweep.csv on disk."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import UserError
from ..whole_file import write_whole

SCHEMA = 1
Row = Dict[str, Any]  # runtime.bench's, and what `runtime.sweep.run` adds; "reason" and no figures if it failed

# A figure published for float weights says nothing of the same weights in INT8.
_PUBLISHED_HOLDS = ("fp32", "fp16")

# sweep.csv: column, and where the row has it.
_COLUMNS: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    *((name, (name,)) for name in ("variant", "precision", "backend_name", "backend", "batch", "resolution")),
    *((name, (name,)) for name in ("multiply_adds", "parameters", "file_mb", "random", "noisy")),
    *((f"{name}_ms", ("total", name)) for name in ("p50", "low", "high", "p90", "p99", "mean", "std")),
    ("repetitions", ("total", "n")),
    *((name, (name,)) for name in ("throughput_per_s", "cold_start_ms", "load_ms", "peak_mb")),
    *((name, (name,)) for name in ("joules_per_image", "images_per_joule", "pictures", "top1", "top5")),
    *(
        (f"{name}_{end}", (f"{name}_interval", str(i)))
        for name in ("top1", "top5")
        for i, end in enumerate(("low", "high"))
    ),
    *((name, (name,)) for name in ("agreement", "sqnr_db", "published_top1", "published_source")),
    *((name, (name,)) for name in ("artifact", "sha256", "reason", "accuracy_reason")),
)


class Report(NamedTuple):
    """What sweep.json holds."""

    name: str
    rows: List[Row]
    machine: Dict[str, Any]  # runtime.bench's
    data: str  # what accuracy was measured on; "" for nothing

    @property
    def warnings(self) -> List[str]:
        return list(dict.fromkeys(warning for row in self.rows for warning in row.get("warnings", ())))


class Accuracy(NamedTuple):
    """Top-1 of a row, %."""

    top1: float
    interval: Optional[Tuple[float, float]]  # 95 %, None for a published figure
    measured: bool


def milliseconds(row: Row) -> Optional[float]:
    """Median time for one batch from encoded images to answers; None if it failed."""
    return row["total"]["p50"] if "total" in row else None


def accuracy(row: Row) -> Optional[Accuracy]:
    """What was measured, else what was published for just this network in float, else None."""
    if row.get("top1") is not None:
        low, high = row["top1_interval"]
        return Accuracy(row["top1"], (low, high), True)
    if row.get("published_top1") is not None and row["precision"] in _PUBLISHED_HOLDS:
        return Accuracy(row["published_top1"], None, False)
    return None


def measured(rows: Sequence[Row]) -> List[Row]:
    """The rows whose latency and accuracy both were measured, fastest first."""
    full = [row for row in rows if milliseconds(row) is not None and row.get("top1") is not None]
    return sorted(full, key=lambda row: (row["total"]["p50"], -row["top1"]))


def of_batch(rows: Sequence[Row], batch: Optional[int] = None) -> List[Row]:
    """The rows of one batch size, by default the smallest: figures of different ones can't stand on one axis."""
    chosen = batch or min((row["batch"] for row in rows), default=1)
    return [row for row in rows if row["batch"] == chosen]


def frontier(rows: Sequence[Row]) -> List[Row]:
    """The rows that nothing measured beats in both latency and accuracy (Pareto), fastest first."""
    best: List[Row] = []
    for row in measured(rows):
        if not best or row["top1"] > best[-1]["top1"]:
            best.append(row)
    return best


def title(row: Row, backend: bool = True) -> str:
    """What a row is called: `b0 int8 on OpenVINO 2026.4, CPU`."""
    name = f"{row['variant']} {row['precision']}"
    where = row.get("backend") or row["backend_name"]
    return (f"{name} on {where}" if backend else name) + (f", batch {row['batch']}" if row["batch"] != 1 else "")


def facts(value: Any, prefix: str = "") -> List[Tuple[str, str]]:
    """A nested record as lines of (name, text): {"gpu": [{"name": "Orin"}]} -> [("gpu name", "Orin")]."""
    if isinstance(value, dict):
        return [
            line for key, inner in value.items() for line in facts(inner, f"{prefix} {key}".strip().replace("_", " "))
        ]
    if isinstance(value, (list, tuple)):
        if any(isinstance(inner, (dict, list)) for inner in value):
            many = len(value) > 1
            return [
                line for i, inner in enumerate(value) for line in facts(inner, f"{prefix} {i + 1}" if many else prefix)
            ]
        return [(prefix, ", ".join(map(str, value)))] if value else []
    if isinstance(value, bool):
        return [(prefix, "yes" if value else "no")]
    return [(prefix, f"{value:g}" if isinstance(value, float) else str(value))]


def write_rows(report: Report, folder: Path) -> None:
    """Writes sweep.json and sweep.csv into `folder`, each whole."""
    content = {**report._asdict(), "warnings": report.warnings, "written_by": "runtime.sweep", "schema": SCHEMA}
    write_whole(folder / "sweep.json", (json.dumps(content, indent=1) + "\n").encode())
    write_whole(folder / "sweep.csv", as_csv(report.rows).encode())


def as_csv(rows: Sequence[Row]) -> str:
    stages = list(dict.fromkeys(stage for row in rows for stage in row.get("stages", ())))
    columns = (*_COLUMNS, *((f"{stage.replace(' ', '_')}_ms", ("stages", stage, "p50")) for stage in stages))
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([name for name, _ in columns])
    table.writerows([[_at(row, path) for _, path in columns] for row in rows])
    return out.getvalue()


def _at(value: Any, path: Tuple[str, ...]) -> Any:
    for key in path:
        if isinstance(value, list):
            value = value[int(key)]
        else:
            value = value.get(key)
        if value is None:
            return ""
    return value


def read_rows(path: Path) -> Report:
    """What the sweep in `path` (a sweep.json, or the folder it lies in) found. Raises UserError if there is none."""
    file = path / "sweep.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"There is no sweep in {path} ({error.strerror}): 'make sweep' makes one.") from None
    except ValueError:
        raise UserError(f"{file} is damaged: it is no JSON. Remove it, and 'make sweep' makes it anew.") from None
    if not isinstance(content, dict) or content.get("written_by") != "runtime.sweep" or content.get("schema") != SCHEMA:
        raise UserError(f"{file} was not written by this version of runtime.sweep: make it anew.")
    return Report(content["name"], content["rows"], content["machine"], content["data"])
