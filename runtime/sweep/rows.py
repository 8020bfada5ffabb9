"""A sweep's rows, one for each combination that was tried: what they hold, and sweep.json and sweep.csv on disk."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import UserError
from ..measure.timing import Timing
from ..whole_file import write_whole

SCHEMA = 1

# A figure published for float weights says nothing of the same weights in INT8.
_PUBLISHED_HOLDS = ("fp32", "fp16")

Interval = Tuple[float, float]


class Key(NamedTuple):
    """A combination to be tried."""

    variant: str
    precision: str
    backend: str  # as it was asked for: auto, or a name
    batch: int


@dataclass(frozen=True)
class Accuracy:
    """runtime.evaluate's figures of one artifact on one backend, %; intervals are of 95 %."""

    data: str  # the data set's folder
    images: int  # that could be read, and that the network did not fail on
    key: str  # of what the figures depend on
    top1: Optional[float] = None  # None without labels
    top1_interval: Optional[Interval] = None
    top5: Optional[float] = None
    top5_interval: Optional[Interval] = None
    agreement: Optional[float] = None  # top-1 agreement with FP32
    agreement_interval: Optional[Interval] = None
    sqnr_db: Optional[float] = None  # of the logits, against FP32
    difference: Optional[float] = None  # points of top-1, against FP32
    difference_interval: Optional[Interval] = None
    mcnemar_p: Optional[float] = None
    not_finite: Optional[int] = None  # images that the network answered with NaN or infinity: left out

    def to_json(self) -> Dict[str, Any]:
        return {name: value for each, name in _NAMES.items() if (value := getattr(self, each)) is not None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Accuracy:
        found = {each: row.get(name) for each, name in _NAMES.items()}
        return cls(**{each: tuple(value) if isinstance(value, list) else value for each, value in found.items()})  # type: ignore[arg-type]


# Accuracy's fields, by the names that they have in JSON.
_NAMES = {
    each.name: {"images": "pictures", "key": "accuracy_key"}.get(each.name, each.name) for each in fields(Accuracy)
}


class Top1(NamedTuple):
    """What is known of a row's accuracy, %."""

    top1: float
    interval: Optional[Interval]  # 95 %, None for a published figure
    measured: bool


@dataclass(frozen=True)
class Row:
    """What is known of one combination. `reason` says why there is no latency, `accuracy_reason` why there is no accuracy."""

    key: Key
    site: Dict[str, str] = field(default_factory=dict)  # machine and libraries, see plan.site
    artifact: str = ""  # path; "" if there is none
    sha256: str = ""
    foreign: bool = False  # a third-party network
    published_top1: Optional[float] = None  # %
    published_source: str = ""
    latency: Optional[Timing] = None
    latency_key: str = ""  # what the latency depends on
    warnings: Tuple[str, ...] = ()  # of the measurement
    accuracy: Optional[Accuracy] = None
    reason: str = ""
    accuracy_reason: str = ""

    @property
    def variant(self) -> str:
        return self.key.variant

    @property
    def precision(self) -> str:
        return self.key.precision

    @property
    def batch(self) -> int:
        return self.key.batch

    @property
    def backend_name(self) -> str:
        return self.latency.backend_name if self.latency else self.key.backend

    @property
    def backend(self) -> str:
        """With version and processor, where it ran."""
        return self.latency.backend if self.latency else self.key.backend

    @property
    def random(self) -> bool:
        return self.latency is not None and self.latency.random

    @property
    def milliseconds(self) -> Optional[float]:
        """Median time for one batch from encoded images to answers; None if it failed."""
        return self.latency.total.p50 if self.latency else None

    @property
    def top1(self) -> Optional[Top1]:
        """What was measured, else what was published for just this network in FP32, else None."""
        if self.accuracy and self.accuracy.top1 is not None:
            return Top1(self.accuracy.top1, self.accuracy.top1_interval, True)
        if self.published_top1 is not None and self.precision in _PUBLISHED_HOLDS:
            return Top1(self.published_top1, None, False)
        return None

    def to_json(self) -> Dict[str, Any]:
        """Flat; what is not known is absent."""
        own = {name: getattr(self, name) for name in _OWN if getattr(self, name)}
        return {
            **(self.latency.to_json() if self.latency else {}),
            "variant": self.variant,
            "precision": self.precision,
            "backend_asked": self.key.backend,
            "backend_name": self.backend_name,
            "batch": self.batch,
            "site": self.site,
            "foreign": self.foreign,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in own.items()},
            **(self.accuracy.to_json() if self.accuracy else {}),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Row:
        """Raises KeyError or TypeError for a row that lacks what it needs."""
        return cls(
            Key(row["variant"], row["precision"], row["backend_asked"], row["batch"]),
            row["site"],
            foreign=row.get("foreign", False),
            warnings=tuple(row.get("warnings", ())),
            latency=Timing.from_json(row) if "total" in row else None,
            accuracy=Accuracy.from_json(row) if "accuracy_key" in row else None,
            **{name: row[name] for name in _OWN if name in row and name != "warnings"},
        )


_OWN = (  # fields that are written as they are, where there is something
    *("artifact", "sha256", "published_top1", "published_source", "latency_key", "warnings"),
    *("reason", "accuracy_reason"),
)

# sweep.csv: column, and where the row's JSON has it.
_COLUMNS: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    *((name, (name,)) for name in ("variant", "precision", "backend_name", "backend", "batch", "resolution")),
    *((name, (name,)) for name in ("multiply_adds", "parameters", "file_mb", "random", "noisy")),
    *((f"{name}_ms", ("total", name)) for name in ("p50", "low", "high", "p90", "p99", "mean", "std")),
    ("repetitions", ("total", "n")),
    *((name, (name,)) for name in ("bound_ms", "bound_device")),
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
        return list(dict.fromkeys(warning for row in self.rows for warning in row.warnings))


class Measured(NamedTuple):
    """A row whose latency and accuracy both were measured."""

    row: Row
    latency: Timing
    top1: float
    interval: Interval

    @property
    def ms(self) -> float:
        return self.latency.total.p50


def measured(rows: Sequence[Row]) -> List[Measured]:
    """Those whose latency and accuracy both were measured, fastest first."""
    full = [
        Measured(row, row.latency, row.top1.top1, row.top1.interval)
        for row in rows
        if row.latency and row.top1 and row.top1.interval
    ]
    return sorted(full, key=lambda each: (each.ms, -each.top1))


def of_batch(rows: Sequence[Row], batch: Optional[int] = None) -> List[Row]:
    """The rows of one batch size, by default the smallest: figures of different ones can't stand on one axis."""
    chosen = batch or min((row.batch for row in rows), default=1)
    return [row for row in rows if row.batch == chosen]


def frontier(rows: Sequence[Row]) -> List[Measured]:
    """The rows that nothing measured beats in both latency and accuracy (Pareto), fastest first."""
    best: List[Measured] = []
    for each in measured(rows):
        if not best or each.top1 > best[-1].top1:
            best.append(each)
    return best


def title(row: Row, backend: bool = True) -> str:
    """What a row is called: `b0 int8 on OpenVINO 2026.4, CPU`."""
    name = f"{row.variant} {row.precision}"
    return (f"{name} on {row.backend}" if backend else name) + (f", batch {row.batch}" if row.batch != 1 else "")


def failures(row: Row) -> str:
    """What is to be said of images that the network failed on; "" for none."""
    count = row.accuracy.not_finite if row.accuracy else 0
    return f"{count} image{'s'[: count != 1]} failed: NaN or infinity" if count else ""


def flattened(value: Any, prefix: str = "") -> List[Tuple[str, str]]:
    """A nested record as lines of (name, text): {"gpu": [{"name": "Orin"}]} -> [("gpu name", "Orin")]."""
    if isinstance(value, dict):
        pairs = [(f"{prefix} {key}".strip().replace("_", " "), inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(inner, (dict, list)) for inner in value):
        pairs = [(f"{prefix} {i}" if len(value) > 1 else prefix, inner) for i, inner in enumerate(value, 1)]
    elif isinstance(value, (list, tuple)):
        return [(prefix, ", ".join(map(str, value)))] if value else []
    elif isinstance(value, bool):
        return [(prefix, "yes" if value else "no")]
    else:
        return [(prefix, f"{value:g}" if isinstance(value, float) else str(value))]
    return [line for name, inner in pairs for line in flattened(inner, name)]


def write_rows(report: Report, folder: Path) -> None:
    """Writes sweep.json and sweep.csv into `folder`, each whole."""
    rows = [row.to_json() for row in report.rows]
    content = {**report._asdict(), "rows": rows, "warnings": report.warnings}
    content.update(written_by="runtime.sweep", schema=SCHEMA)
    write_whole(folder / "sweep.json", (json.dumps(content, indent=1) + "\n").encode())
    write_whole(folder / "sweep.csv", as_csv(report.rows).encode())


def as_csv(rows: Sequence[Row]) -> str:
    stages = list(dict.fromkeys(stage for row in rows if row.latency for stage in row.latency.stages))
    columns = (*_COLUMNS, *((f"{stage.replace(' ', '_')}_ms", ("stages", stage, "p50")) for stage in stages))
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([name for name, _ in columns])
    for row in rows:
        written = row.to_json()
        table.writerow([_at(written, path) for _, path in columns])
    return out.getvalue()


def _at(value: Any, path: Tuple[str, ...]) -> Any:
    for key in path:
        value = value[int(key)] if isinstance(value, (list, tuple)) else value.get(key)
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
        raise UserError(f"{file} is damaged: it is not JSON. Remove it, and run 'make sweep' again.") from None
    if not isinstance(content, dict) or content.get("written_by") != "runtime.sweep" or content.get("schema") != SCHEMA:
        raise UserError(f"{file} was not written by this version of runtime.sweep: run the sweep again.")
    try:
        rows = [Row.from_json(row) for row in content["rows"]]
        return Report(content["name"], rows, content["machine"], content["data"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged ({type(error).__name__}: {error}). Remove it, and run 'make sweep' again."
        ) from None
