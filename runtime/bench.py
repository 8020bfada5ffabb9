"""Times models, whole way and stage by stage: python -m runtime.bench --variant b0 --precisions fp32,int8 --batches 1,8"""

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
from .invocation import typed
from .measure.bound import DEVICES, GPU_BACKENDS, Device, bound, device_of, kernels_in
from .measure.cold import Cold, cold_start
from .measure.energy import Meter, open_meter
from .measure.image import image_of
from .measure.latency import Measured, measure, one_pass
from .measure.machine import machine, warnings
from .measure.statistics import QUIET
from .measure.timing import Timing
from .networks.network import Network
from .networks.opening import open_network
from .printable import printable
from .table import aligned
from .whole_file import write_whole

SCHEMA = 1  # of the JSON; grows when a reader of today would misunderstand the file
_IDLE = 2.0  # seconds of doing nothing, whose power is subtracted
_ENERGY = 0.5  # of --seconds that each model runs alone for its energy
_HEAD = (
    *("model", "backend", "batch", "p50 ms", "+-%", "p90", "p99", "mean", "std", "images/s", "x first"),
    *("cold ms", "peak MB", "MB"),
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("bench"),
        description="Latency of models from encoded images to the five likeliest classes, interleaved, in one thread of "
        "the caller; cold start, memory, and energy where the machine can tell.",
        epilog="Exit status: 0 all measured, 1 some could not be, 2 wrong use.",
    )
    parser.add_argument(
        "--models", type=_words, default=[], metavar="A,B", help="exported .onnx files, or engines of them"
    )
    parser.add_argument("--foreign", type=_words, default=[], metavar="A,B", help="third-party ONNX classifiers")
    parser.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument(
        "--precisions", type=_words, default=[], metavar="P,Q", help=f"of the variant: {', '.join(PRECISIONS)}"
    )
    parser.add_argument(
        "--backends", type=_words, default=["auto"], metavar="B,C", help=f"auto (default), {', '.join(BACKENDS)}"
    )
    parser.add_argument("--backend", type=_words, dest="backends", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=_counts, default=[1], metavar="N,M", help="images a run (default 1)")
    parser.add_argument("--batch", type=_counts, dest="batches", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
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

    name, image = image_of(options.images)
    before, meter = machine(), open_meter()
    with tempfile.TemporaryDirectory() as folder:  # for third-party models, as artifacts
        return _bench(options, name, image, before, meter, Path(folder))


def _bench(
    options: argparse.Namespace, name: str, image: bytes, before: Dict[str, Any], meter: Optional[Meter], folder: Path
) -> int:
    subjects, failed = _opened(options, folder)
    try:
        for path in sorted({str(each.model.artifact.path) for each in subjects if each.model.artifact.random}):
            _say(f"{path}: {RANDOM_WEIGHTS}")
        rows, late = _measured(subjects, options, image, meter, device_of(before))
    finally:
        for subject in subjects:
            subject.model.close()
    failed += late
    if device_of(before) is None and any(row.backend_name in GPU_BACKENDS for row in rows):
        _say(f"no bound beside these times: this GPU is not in the table of devices ({', '.join(DEVICES)})")
    after = machine()
    said = warnings(before, after) + _pieces(rows) + _doubts(rows)
    print(table(rows), flush=True)
    for text in said:
        _say(f"warning: {text}")
    if options.json:
        result = {
            "rows": [row.to_json() for row in rows],
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
            for backend in options.backends:
                try:
                    subjects.append(
                        Subject(open_network(ready(), backend=backend, threads=options.threads), backend, path)
                    )
                except UserError as error:
                    if len(models) * len(options.backends) == 1:
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
    options: argparse.Namespace,
    image: bytes,
    meter: Optional[Meter],
    device: Optional[Device],
) -> Tuple[List[Timing], List[Dict[str, Any]]]:
    """The timings, batch by batch, and what could not run. Raises UserError if nothing could."""
    rows: List[Timing] = []
    failed: List[Dict[str, Any]] = []
    if meter:
        _say(f"energy: {meter.source}, idle for {_IDLE:g} s")
        meter.measure_idle(_IDLE)
    for batch in options.batches:
        images, able = [image] * batch, []
        for subject in subjects:
            try:
                one_pass(subject.model, images)
                able.append(subject.model)
            except Exception as error:  # each backend has its own for a fixed batch size or memory that ran out
                failed.append(subject.failure(batch, " ".join((str(error) or repr(error)).split())))
        for measured in measure(able, [batch], images, options.seconds, say=_say) if able else []:
            model = measured.subject
            joules = _joules(meter, model, images, options.seconds * _ENERGY) if meter else None
            cold = None
            _say(f"cold start: {model.artifact.path.name} on {model.backend.name}, in new processes")
            try:
                cold = cold_start(_file(model), model.backend.name, batch, options.threads)
            except UserError as error:
                _say(f"error: {error}")
            rows.append(timing_of(measured, cold, joules, device))
    if not rows:
        raise UserError(f"{failed[0]['model']} can't run: {failed[0]['reason']}")
    return rows, failed


def _joules(meter: Meter, model: Network, images: Sequence[bytes], seconds: float) -> Optional[float]:
    """Of one image, above idle; None if the meter failed, or saw no more than idle."""
    done = 0
    meter.start()
    try:
        began = time.monotonic()
        while not done or time.monotonic() - began < seconds:
            one_pass(model, images)
            done += len(images)
    finally:
        energy = meter.stop()
    return energy.joules / done if energy is not None and energy.joules > 0 and done else None


def timing_of(
    measured: Measured, cold: Optional[Cold], joules: Optional[float], device: Optional[Device] = None
) -> Timing:
    """What is written down of one model at one batch size; with the bound of `device` where a GPU ran it."""
    artifact, backend = measured.subject.artifact, measured.subject.backend
    fixed, kernels, least = getattr(backend, "fixed", None), kernels_in(artifact.metadata), None
    if device and kernels and backend.name in GPU_BACKENDS:
        runs = -(-measured.batch // fixed) if fixed else 1
        least = runs * bound(kernels, device, fixed or measured.batch, artifact.precision == "fp32").ms
    return Timing(
        variant=artifact.variant,
        precision=artifact.precision,
        backend=backend.description,
        backend_name=backend.name,
        model=artifact.path.name,
        sha256=artifact.metadata["sha256"],
        batch=measured.batch,
        resolution=artifact.preprocessing.resolution,
        file_mb=_file(measured.subject).stat().st_size / 1e6,
        total=measured.total,
        stages=measured.stages,
        throughput_per_s=measured.throughput,
        input=artifact.preprocessing.input,
        random=artifact.random,
        noisy=measured.total.noisy,
        multiply_adds=_whole(artifact.metadata.get("multiply_adds")),
        parameters=_whole(artifact.metadata.get("parameters")),
        run_batch=fixed,
        cold_start_ms=cold.start_ms if cold else None,
        load_ms=cold.load_ms if cold else None,
        peak_mb=cold.peak_mb if cold else None,
        joules_per_image=joules,
        images_per_joule=1 / joules if joules else None,
        bound_ms=least,
        bound_device=device.key if device and least else None,
        ratio_to_first=dict(zip(("median", "low", "high"), measured.ratio_to_first)),
    )


def _file(model: Network) -> Path:
    """What was loaded: the engine, where there is one."""
    return Path(getattr(model.backend, "engine", model.artifact.path))


def _whole(text: Optional[str]) -> Optional[int]:
    return int(text) if text and text.isdigit() else None


def _pieces(rows: Sequence[Timing]) -> List[str]:
    """Which batches are not what they seem: a graph of a fixed batch size ran them in several runs, or filled one up."""
    return [
        f"{row.model} takes {row.run_batch} image{'s'[: row.run_batch != 1]} at a time: its batch of {row.batch} is "
        f"{row.runs} run{'s'[: row.runs != 1]} of {row.run_batch}."
        for row in rows
        if row.run_batch not in (None, row.batch)
    ]


def _doubts(rows: Sequence[Timing]) -> List[str]:
    noisy = [
        f"{row.model} on {row.backend}, batch {row.batch} (to {_reach(row):.0%}, {row.total.n} runs)"
        for row in rows
        if row.noisy
    ]
    if not noisy:
        return []
    remedy = "Close other programs, or raise --seconds"
    return [f"Too noisy, the median is not known to {QUIET:.0%}: {'; '.join(noisy)}. {remedy}."]


def _reach(row: Timing) -> float:
    """Half the 95 % interval of the median, as a share of it."""
    return (row.total.high - row.total.low) / 2 / row.total.p50


def table(rows: Sequence[Timing]) -> str:
    """The rows for people: totals first, then the medians of the stages."""
    energy = any(row.joules_per_image is not None for row in rows)
    lines = [[*_HEAD, "J/image"] if energy else list(_HEAD)]
    for row in rows:
        total = row.total
        cells = [_name(row), ", ".join(row.backend.split(", ")[:2]), str(row.batch), f"{total.p50:.2f}"]
        cells.append(f"{100 * _reach(row):.1f}{'!' if row.noisy else ''}")
        cells += [f"{value:.2f}" for value in (total.p90, total.p99, total.mean, total.std)]
        cells += [f"{row.throughput_per_s:.1f}", f"{row.ratio_to_first['median']:.3f}"]
        cells += [_figure(row.cold_start_ms, 0), _figure(row.peak_mb, 0), _figure(row.file_mb, 1)]
        lines.append([*cells, _figure(row.joules_per_image, 4)] if energy else cells)
    names = list(dict.fromkeys(name for row in rows for name in row.stages))
    bounds = next((DEVICES[row.bound_device] for row in rows if row.bound_device), None)
    stages = [["stage p50 in ms", "", "batch", *names, *(["bound", ""] if bounds else [])]]
    for row, line in zip(rows, lines[1:]):
        medians = (row.stages[name].p50 if name in row.stages else None for name in names)
        least = [_figure(row.bound_ms, 2), row.beside_bound] if bounds else []
        stages.append([*line[:3], *(_figure(median, 2) for median in medians), *least])
    note = f"milliseconds for a whole batch; +-%: 95 % interval of the median, ! above {QUIET:.0%}; cold: new process to answer"
    numbers = range(2, max(len(lines[0]), len(stages[0])))
    told = f"\nbound: the least that compute can take, computed and not measured. {bounds.told}" if bounds else ""
    return f"{aligned(lines, numbers)}\n{note}\n\n{aligned(stages, numbers)}{told}"


def _figure(value: Optional[float], digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _name(row: Timing) -> str:
    pixels = " uint8" if row.input == "uint8" else ""
    return f"{row.variant} {row.precision}{pixels}{' (random)' if row.random else ''}"


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
