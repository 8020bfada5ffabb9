"""Times models, whole way and stage by stage: python -m runtime.bench --variant b0 --precisions fp32,int8 --batch 1,8"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .artifacts.artifact import PRECISIONS, RANDOM_WEIGHTS, find_artifact
from .artifacts.third_party import import_onnx
from .backends.backend import BACKENDS
from .command import positive, run, seconds
from .errors import UserError
from .measure.cold import Cold, cold_start
from .measure.energy import Meter, open_meter
from .measure.image import image_of
from .measure.latency import Row, measure, one_pass
from .measure.machine import machine, warnings
from .measure.statistics import QUIET, Summary
from .networks.network import Network
from .networks.opening import open_network
from .printable import printable
from .whole_file import write_whole

SCHEMA = 1  # of the JSON; grows when a reader of today would misunderstand the file
_IDLE = 2.0  # seconds of doing nothing, whose power is subtracted
_ENERGY = 0.5  # of --seconds that each model runs alone for its energy
_HEAD = (
    "model",
    "backend",
    "batch",
    "p50 ms",
    "+-%",
    "p90",
    "p99",
    "mean",
    "std",
    "images/s",
    "x first",
    "cold ms",
    "peak MB",
    "MB",
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.bench",
        description="Latency of models from encoded images to the five likeliest classes, interleaved, in one thread of "
        "the caller; cold start, memory, and energy where the machine can tell.",
        epilog="Exit status: 0 all measured, 1 some could not be, 2 wrong use.",
    )
    parser.add_argument(
        "--models", type=_words, default=[], metavar="A,B", help="exported .onnx files, or engines of them"
    )
    parser.add_argument("--foreign", type=_words, default=[], metavar="A,B", help="other ONNX classifiers")
    parser.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument(
        "--precisions", type=_words, default=[], metavar="P,Q", help=f"of the variant: {', '.join(PRECISIONS)}"
    )
    parser.add_argument(
        "--backend", type=_words, default=["auto"], metavar="B,C", help=f"auto (default), {', '.join(BACKENDS)}"
    )
    parser.add_argument("--batch", type=_counts, default=[1], metavar="N,M", help="images a run (default 1)")
    parser.add_argument(
        "--images", metavar="DIR", help="images; the one of median size is timed (default: a made-up one)"
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=10.0,
        metavar="S",
        help="for each model and batch (default 10)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of the network (default: the backend's)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured, and the machine")
    options = parser.parse_args(argv)
    if options.models and (options.variant or options.precisions):
        parser.error("--models names files: --variant and --precisions go without it")

    name, picture = image_of(options.images)
    before, meter = machine(), open_meter()
    with tempfile.TemporaryDirectory() as folder:  # for third-party models, as artifacts
        return _bench(options, name, picture, before, meter, Path(folder))


def _bench(
    options: argparse.Namespace, name: str, picture: bytes, before: Dict[str, Any], meter: Optional[Meter], folder: Path
) -> int:
    subjects, failed = _opened(options, folder)
    try:
        for path in sorted({str(each.model.artifact.path) for each in subjects if each.model.artifact.random}):
            _say(f"{path}: {RANDOM_WEIGHTS}")
        rows, late = _measured(subjects, options.batch, picture, options.seconds, options.threads, meter)
    finally:
        for subject in subjects:
            subject.model.close()
    failed += late
    after = machine()
    said = warnings(before, after) + _pieces(rows) + _doubts(rows)
    print(table(rows), flush=True)
    for text in said:
        _say(f"warning: {text}")
    if options.json:
        result = {
            "rows": rows,
            "machine": {
                **before,
                "after": {key: after[key] for key in ("temperatures", "throttled", "load") if key in after},
            },
            "energy": {"source": meter.source, "idle_watts": meter.idle_watts} if meter else None,
            "warnings": said,
            "failed": failed,
            "picture": name,
            "written_by": "runtime.bench",
            "schema": SCHEMA,
        }
        write_whole(options.json, (json.dumps(result, indent=1) + "\n").encode())
    return 1 if failed else 0


class Subject(NamedTuple):
    """A model on a backend."""

    model: Network
    asked: str  # --backend's word for the backend
    file: Path  # as it was named, or found

    def failure(self, batch: int, reason: str) -> Dict[str, Any]:
        _say(f"error: {self.file.name} can't run a batch of {batch} on {self.model.backend.description}: {reason}")
        return {"model": str(self.file), "backend": self.asked, "batch": batch, "reason": reason}


def _opened(options: argparse.Namespace, folder: Path) -> Tuple[List[Subject], List[Dict[str, Any]]]:
    """Every model on every backend, and those that could not be: one that fails must not cost the others.

    Raises UserError if there is none left.
    """
    models: List[Tuple[Path, Callable[[], Path]]] = [(Path(path), partial(Path, path)) for path in options.models]
    if not options.models and (options.variant or options.precisions or not options.foreign):
        for precision in options.precisions or [None]:
            path = find_artifact(options.variant, precision)
            models.append((path, partial(Path, path)))
    for i, other in enumerate(map(Path, options.foreign)):
        models.append((other, partial(_imported, other, folder / str(i))))
    subjects: List[Subject] = []
    failed: List[Dict[str, Any]] = []
    try:
        for path, ready in models:
            for backend in options.backend:
                try:
                    subjects.append(
                        Subject(open_network(ready(), backend=backend, threads=options.threads), backend, path)
                    )
                except UserError as error:
                    if len(models) * len(options.backend) == 1:
                        raise
                    _say(f"error: {error}")
                    failed.append({"model": str(path), "backend": backend, "reason": str(error)})
        if not subjects:
            raise UserError("None of the models could be opened: see above.")
    except BaseException:
        for subject in subjects:
            subject.model.close()
        raise
    return subjects, failed


def _imported(path: Path, folder: Path) -> Path:
    return import_onnx(path, folder).path


def _measured(
    subjects: Sequence[Subject],
    batches: Sequence[int],
    picture: bytes,
    seconds: float,
    threads: Optional[int],
    meter: Optional[Meter],
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """Rows of the JSON, batch by batch, and what could not run. Raises UserError if nothing could."""
    rows: List[Dict[str, Any]] = []
    failed: List[Dict[str, Any]] = []
    if meter:
        _say(f"energy: {meter.source}, idle for {_IDLE:g} s")
        meter.measure_idle(_IDLE)
    for batch in batches:
        pictures, able = [picture] * batch, []
        for subject in subjects:
            try:
                one_pass(subject.model, pictures)
                able.append(subject.model)
            except Exception as error:  # each backend has its own for a fixed batch size or memory that ran out
                failed.append(subject.failure(batch, " ".join((str(error) or repr(error)).split())))
        for measured in measure(able, [batch], pictures, seconds, say=_say) if able else []:
            model = measured.subject
            joules = _joules(meter, model, pictures, seconds * _ENERGY) if meter else None
            cold = None
            try:
                cold = cold_start(_file(model), model.backend.name, batch, threads)
            except UserError as error:
                _say(f"error: {error}")
            rows.append(as_row(measured, cold, joules))
    if not rows:
        raise UserError(f"{failed[0]['model']} can't run: {failed[0]['reason']}")
    return rows, failed


def _joules(meter: Meter, model: Network, pictures: Sequence[bytes], seconds: float) -> Optional[float]:
    """Of one image, above idle; None if the meter failed, or saw no more than idle."""
    done = 0
    meter.start()
    try:
        began = time.monotonic()
        while not done or time.monotonic() - began < seconds:
            one_pass(model, pictures)
            done += len(pictures)
    finally:
        energy = meter.stop()
    return energy.joules / done if energy is not None and energy.joules > 0 and done else None


def as_row(row: Row, cold: Optional[Cold], joules: Optional[float]) -> Dict[str, Any]:
    """One row of the JSON; times in ms for a whole batch, sizes in MB of 10^6. What is not known is absent."""
    artifact, backend = row.subject.artifact, row.subject.backend
    median, low, high = row.ratio_to_first
    found: Dict[str, Any] = {
        "variant": artifact.variant,
        "precision": artifact.precision,
        "backend": backend.description,
        "backend_name": row.subject.backend.name,
        "model": artifact.path.name,
        "sha256": artifact.metadata["sha256"],
        "batch": row.batch,
        "resolution": artifact.preprocessing.resolution,
        "input": artifact.preprocessing.input,
        "multiply_adds": _whole(artifact.metadata.get("multiply_adds")),
        "parameters": _whole(artifact.metadata.get("parameters")),
        "file_mb": _file(row.subject).stat().st_size / 1e6,
        "random": artifact.random,
        "run_batch": getattr(row.subject.backend, "fixed", None),  # the only one that its graph takes
        "total": row.total._asdict(),
        "stages": {name: stage._asdict() for name, stage in row.stages.items()},
        "throughput_per_s": row.throughput,
        "cold_start_ms": cold.start_ms if cold else None,
        "load_ms": cold.load_ms if cold else None,
        "peak_mb": cold.peak_mb if cold else None,
        "joules_per_image": joules,
        "images_per_joule": 1 / joules if joules else None,
        "noisy": row.total.noisy,
        "ratio_to_first": {"median": median, "low": low, "high": high},
    }
    return {key: value for key, value in found.items() if value is not None}


def _file(model: Network) -> Path:
    """What was loaded: the engine, where there is one."""
    return Path(getattr(model.backend, "engine", model.artifact.path))


def _whole(text: Optional[str]) -> Optional[int]:
    return int(text) if text and text.isdigit() else None


def _pieces(rows: Sequence[Dict[str, Any]]) -> List[str]:
    """Which batches are not what they seem: a graph for another one ran them in pieces, or filled up."""
    return [
        f"{row['model']} takes {row['run_batch']} at a time: its batch of {row['batch']} is "
        f"{-(-row['batch'] // row['run_batch'])} runs of {row['run_batch']}."
        for row in rows
        if row.get("run_batch", row["batch"]) != row["batch"]
    ]


def _doubts(rows: Sequence[Dict[str, Any]]) -> List[str]:
    noisy = []
    for row in rows:
        if row["noisy"]:
            total = Summary(**row["total"])
            reach = (total.high - total.low) / 2 / total.p50
            noisy.append(f"{row['model']} on {row['backend']}, batch {row['batch']} (to {reach:.0%}, {total.n} runs)")
    if not noisy:
        return []
    remedy = "Close other programs, or raise --seconds"
    return [f"Too noisy, the median is not known to {QUIET:.0%}: {'; '.join(noisy)}. {remedy}."]


def table(rows: Sequence[Dict[str, Any]]) -> str:
    """The rows for people: whole way first, then the medians of the stages."""
    energy = any("joules_per_image" in row for row in rows)
    lines = [[*_HEAD, "J/image"] if energy else list(_HEAD)]
    for row in rows:
        total = row["total"]
        lines.append(
            [
                _name(row),
                _short(row),
                str(row["batch"]),
                f"{total['p50']:.2f}",
                f"{50 * (total['high'] - total['low']) / total['p50']:.1f}{'!' if row['noisy'] else ''}",
                f"{total['p90']:.2f}",
                f"{total['p99']:.2f}",
                f"{total['mean']:.2f}",
                f"{total['std']:.2f}",
                f"{row['throughput_per_s']:.1f}",
                f"{row['ratio_to_first']['median']:.3f}",
                f"{row['cold_start_ms']:.0f}" if "cold_start_ms" in row else "-",
                f"{row['peak_mb']:.0f}" if "peak_mb" in row else "-",
                f"{row['file_mb']:.1f}",
                *([f"{row['joules_per_image']:.4f}" if "joules_per_image" in row else "-"] if energy else []),
            ]
        )
    names = list(dict.fromkeys(name for row in rows for name in row["stages"]))
    stages = [["stage p50 in ms", "", "batch", *names]]
    for row, line in zip(rows, lines[1:]):
        medians = [f"{row['stages'][name]['p50']:.2f}" if name in row["stages"] else "-" for name in names]
        stages.append([*line[:3], *medians])
    note = f"milliseconds for a whole batch; +-%: 95 % interval of the median, ! above {QUIET:.0%}; cold: new process to answer"
    return f"{_aligned(lines)}\n{note}\n\n{_aligned(stages)}"


def _name(row: Dict[str, Any]) -> str:
    pixels = " uint8" if row["input"] == "uint8" else ""
    return f"{row['variant']} {row['precision']}{pixels}{' (random)' if row['random'] else ''}"


def _short(row: Dict[str, Any]) -> str:
    return ", ".join(row["backend"].split(", ")[:2])


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = (
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )
    return "\n".join(printable(line.rstrip()) for line in text)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _words(text: str) -> List[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise argparse.ArgumentTypeError("nothing is named")
    return words


def _counts(text: str) -> List[int]:
    return [positive(word) for word in _words(text)]


if __name__ == "__main__":
    run(main)
