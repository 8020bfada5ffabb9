"""INT8 as other tools make it, beside ours: python -m calibration.compare --variant v2-b0 --calib photos/ --data labelled/

Each tool quantises in a process of its own, so that time and peak memory are its own, from the same photographs. What
comes out is judged here, in one run, on the same pictures and on the same kernels: with Q/DQ computed as written, in
float, because what is asked is what the rounding costs, and onnxruntime's kernels for int8 activations are slow.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.images import Photographs, read_folder
from calibration.network import Network, open_session, run, same_class, sqnr
from calibration.stage import read_network
from runtime.artifact import artifact_path, artifacts_folder, find_artifact, read_artifact
from runtime.command import run as run_command
from runtime.errors import UserError
from runtime.onnx_metadata import read_metadata, verify
from runtime.whole_file import write_whole

CHUNK = 8  # pictures whose activations onnxruntime's histogram collectors hold at once


@dataclass(frozen=True)
class Method:
    """A tool and how it is called: the keywords are its own."""

    name: str
    tool: str  # of TOOLS
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    install: str  # what to type
    quantise: Callable[[Path, Path, CalibrationPictures, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Row:
    """What is known of one method; `reason` says why nothing is."""

    name: str
    about: str
    top1: float | None = None  # %, where there are labels
    same_class: float | None = None  # %, as FP32
    sqnr: float | None = None  # of the logits, dB
    share: float | None = None  # of the multiply-adds that are in INT8, %
    seconds: float | None = None
    peak_mb: float | None = None
    reason: str = ""


class CalibrationPictures:
    """Preprocessed pictures in a file (float32 [n, 3, side, side]), one at a time: the data reader that onnxruntime
    and ModelOpt ask for. Read, not mapped, so that they don't count as the tool's memory."""

    def __init__(self, path: Path, shape: Sequence[int], input_name: str) -> None:
        self.path, self.shape, self.input_name = path, tuple(shape), input_name
        self.rows: Iterable[int] = iter(range(len(self)))

    def __len__(self) -> int:
        return self.shape[0]

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rows = iter(range(start_index, end_index))

    def rewind(self) -> None:
        self.set_range(0, len(self))

    def get_first(self) -> dict[str, np.ndarray]:
        return {self.input_name: self._read(0)}

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(iter(self.rows), None)
        return None if row is None else {self.input_name: self._read(row)}

    def _read(self, row: int) -> np.ndarray:
        values = int(np.prod(self.shape[1:]))
        picture = np.fromfile(self.path, np.float32, values, offset=row * values * 4)
        return picture.reshape(1, *self.shape[1:])


def _quantize_static(source: Path, target: Path, pictures: CalibrationPictures, options: Mapping[str, Any]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    enums = {"calibrate_method": CalibrationMethod, "activation_type": QuantType, "weight_type": QuantType}
    named = {key: enums[key][value] if key in enums else value for key, value in options.items()}
    if "calibrate_method" in options:
        # Its one way not to hold the activations of all pictures at once; the count must be a multiple.
        chunk = max(n for n in range(1, CHUNK + 1) if len(pictures) % n == 0)
        named["extra_options"] = {**named.get("extra_options", {}), "CalibStridedMinMax": chunk}
    quantize_static(str(source), str(target), pictures, **named)


def _modelopt(source: Path, target: Path, pictures: CalibrationPictures, options: Mapping[str, Any]) -> None:
    from modelopt.onnx.quantization import quantize

    # fp32 elsewhere, as in the other models, so that FP16's rounding is not counted as INT8's.
    quantize(
        str(source), "int8", calibration_data_reader=pictures, calibration_eps=["cpu"], high_precision_dtype="fp32",
        output_path=str(target), **options,
    )  # fmt: skip


# By the name they are imported by. ModelOpt's own requirements name a CUDA build of onnxruntime and an older onnx: hence
# --no-deps, and by name what it imports beyond the `export` extra.
TOOLS = {
    "onnxruntime": Tool("pip install onnxruntime", _quantize_static),
    "modelopt": Tool(
        "pip install --no-deps nvidia-modelopt nvidia-ml-py onnx-graphsurgeon onnxconverter-common onnxslim onnxscript "
        "onnx-ir polygraphy lief cppimport tqdm",
        _modelopt,
    ),
}

# int8 with zero point 0, per-channel weights, no Q/DQ on biases: what TensorRT takes.
_LEGAL = {"per_channel": True, "activation_type": "QInt8", "weight_type": "QInt8"}
_LEGAL_EXTRA = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
_PERCENTILE = {**_LEGAL_EXTRA, "CalibPercentile": 99.99}
_LAYERS = ["Conv", "Gemm"]

METHODS = (
    Method("ort-default", "onnxruntime", "quantize_static as it comes: activations with a zero point, weights per tensor"),
    Method(
        "ort-per-channel", "onnxruntime", "as onnxruntime advises for x86: uint8 activations, int8 weights per channel",
        {"per_channel": True, "activation_type": "QUInt8", "weight_type": "QInt8"},
    ),
    Method(
        "ort-trt-minmax", "onnxruntime", "TensorRT-legal, every operator, MinMax",
        {**_LEGAL, "extra_options": _LEGAL_EXTRA},
    ),
    Method(
        "ort-trt-entropy", "onnxruntime", "TensorRT-legal, every operator, Entropy",
        {**_LEGAL, "calibrate_method": "Entropy", "extra_options": _LEGAL_EXTRA},
    ),
    Method(
        "ort-trt-percentile", "onnxruntime", "TensorRT-legal, every operator, Percentile 99.99",
        {**_LEGAL, "calibrate_method": "Percentile", "extra_options": _PERCENTILE},
    ),
    Method(
        "ort-trt-inputs", "onnxruntime", "TensorRT-legal, inputs of Conv and Gemm only, Percentile 99.99",
        {
            **_LEGAL,
            "calibrate_method": "Percentile",
            "op_types_to_quantize": _LAYERS,
            "extra_options": {**_PERCENTILE, "OpTypesToExcludeOutputQuantization": _LAYERS},
        },
    ),
    Method("modelopt-max", "modelopt", "ModelOpt's placement, max", {"calibration_method": "max"}),
    Method("modelopt-entropy", "modelopt", "ModelOpt's placement, entropy (its default)", {"calibration_method": "entropy"}),
)  # fmt: skip
FP32, OURS = "fp32", "ours"
NAMES = (FP32, *(method.name for method in METHODS), OURS)

_ROOT = str(Path(__file__).parents[1])
_CHILD = "import sys; from calibration.compare import quantise_here; quantise_here(sys.argv[1])"


def multiply_adds_in_int8(model: onnx.ModelProto, network: Network) -> float:
    """Share of `network`'s multiply-adds that `model` (Q/DQ) does on dequantised data and dequantised weights, 0..1.

    Raises ValueError if a layer is gone from `model`.
    """
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    inputs = {node.name: node.input[:2] for node in model.graph.node}
    gone = [layer.name for layer in network.layers if layer.name not in inputs]
    if gone:
        raise ValueError(f"{len(gone)} layers are gone or have another name, such as {gone[0]}")
    done = sum(
        layer.multiply_adds
        for layer in network.layers
        if all(operators.get(name) == "DequantizeLinear" for name in inputs[layer.name])
    )
    return done / network.multiply_adds


def compare(
    variant: str, calib: Path, data: Path, folder: Path | None = None, only: Sequence[str] = NAMES,
    limit: int | None = None, methods: Sequence[Method] = METHODS, threads: int = 0, say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Row], dict[str, Any]]:  # fmt: skip
    """(a row for FP32 and for each of `only`, facts of the run). `limit`: pictures taken of each folder.

    Raises UserError if `variant` was not exported or a folder has no pictures. A tool that is absent or fails is a row.
    """
    artifact = read_artifact(find_artifact(variant, "fp32", folder))
    network = read_network(artifact)
    say("reading photographs")
    calibration = read_folder(calib, artifact.preprocessing, artifact.classes)
    pictures = read_folder(data, artifact.preprocessing, artifact.classes)
    rows = np.arange(len(pictures))[:limit]
    labels = None if pictures.labels is None else pictures.labels[rows]
    say("judging fp32")
    reference = run(open_session(network.to_model(), threads), pictures.batches(rows))

    def judged(name: str, about: str, model: onnx.ModelProto) -> Row:
        say(f"judging {name}")
        share = multiply_adds_in_int8(model, network)
        logits = run(open_session(model, threads, integer=False), pictures.batches(rows))
        same, noise = 100 * same_class(reference, logits), sqnr(reference, logits)
        return Row(name, about, _top1(logits, labels), same, noise, 100 * share)

    found = [Row(FP32, "as exported", _top1(reference, labels), same_class=100.0, share=0.0)]
    with tempfile.TemporaryDirectory() as scratch:
        shape = _write_pictures(Path(scratch) / "pictures", calibration, limit)
        for method in (method for method in methods if method.name in only):
            say(f"quantising {method.name} ({method.about})")
            found.append(_tried(method, network, artifact.path, Path(scratch), shape, judged))
    if OURS in only:
        ours, about = artifact_path(variant, "int8", folder), "this project, TensorRT-legal"
        make = f"run 'make calibrate VARIANT={variant}'"
        if not ours.is_file():
            found.append(Row(OURS, about, reason=make))
        elif read_metadata(ours).get("fp32_sha256") != verify(artifact.path):
            found.append(Row(OURS, about, reason=f"made from another {artifact.path.name}: {make}"))
        else:
            found.append(judged(OURS, about, onnx.load(ours)))
    versions = {name: _version(name) for name in ("onnx", "onnxruntime", "numpy", "nvidia-modelopt")}
    return found, {
        "variant": variant, "calibration_pictures": shape[0], "judged_pictures": len(rows), "versions": versions
    }  # fmt: skip


def table(rows: Sequence[Row], facts: Mapping[str, Any]) -> list[str]:
    """The lines to print."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}   top-1 %  same class %  SQNR dB  INT8 MACs %   time s  peak MB"]
    for row in rows:
        if row.reason:
            lines.append(f"{row.name:<{width}}   {row.reason}")
            continue
        cells = (
            (row.top1, 7, 1), (row.same_class, 12, 1), (row.sqnr, 7, 1), (row.share, 11, 1), (row.seconds, 7, 0),
            (row.peak_mb, 7, 0),
        )  # fmt: skip
        lines.append(f"{row.name:<{width}}   " + "  ".join(_cell(*cell) for cell in cells))
    lines += ["", *(f"{row.name:<{width}}   {row.about}" for row in rows), ""]
    lines.append(
        f"{facts['variant']}: calibrated on {facts['calibration_pictures']} pictures, judged on {facts['judged_pictures']}, "
        "Q/DQ computed as written, in float"
    )
    return [*lines, ", ".join(f"{name} {version}" for name, version in facts["versions"].items())]


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _top1(logits: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else 100 * float((logits.argmax(1) == labels).mean())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _write_pictures(path: Path, photographs: Photographs, limit: int | None) -> list[int]:
    """Writes the first `limit` as CalibrationPictures reads them; returns their shape."""
    rows, side = np.arange(len(photographs))[:limit], photographs.preprocessing.resolution
    with open(path, "wb") as file:
        for batch in photographs.batches(rows):
            file.write(batch.tobytes())
    return [len(rows), 3, side, side]


def _tried(
    method: Method, network: Network, source: Path, scratch: Path, shape: list[int],
    judged: Callable[[str, str, onnx.ModelProto], Row],
) -> Row:  # fmt: skip
    tool = TOOLS[method.tool]
    if importlib.util.find_spec(method.tool) is None:
        return Row(method.name, method.about, reason=f"not installed: {tool.install}")
    request = {
        "method": asdict(method), "source": str(source), "pictures": str(scratch / "pictures"), "shape": shape,
        "input": network.input, "target": str(scratch / f"{method.name}.onnx"), "spent": str(scratch / "spent.json"),
    }  # fmt: skip
    with open(scratch / "log", "w+", errors="replace") as log:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, json.dumps(request)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        log.seek(0)
        last = [line.strip() for line in log if line.strip()][-1:]
    if done.returncode:
        killed = f"killed by {signal.Signals(-done.returncode).name}, out of memory?" if done.returncode < 0 else ""
        return Row(method.name, method.about, reason=f"failed: {killed or ''.join(last)}")
    spent = json.loads((scratch / "spent.json").read_text())
    try:
        row = judged(method.name, method.about, onnx.load(request["target"]))
    except Exception as error:  # whatever another tool has written: its row, and the others go on
        return Row(method.name, method.about, reason=f"gives a model that can't be judged: {error}")
    return Row(**{**asdict(row), **spent})


def quantise_here(request: str) -> None:
    """What the child process does: quantises, and writes down the seconds and the MB that it took."""
    asked = json.loads(request)
    tool, target = TOOLS[asked["method"]["tool"]], Path(asked["target"])
    pictures = CalibrationPictures(Path(asked["pictures"]), asked["shape"], asked["input"])
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # ModelOpt writes beside the model it is given
        source = Path(folder) / "model.onnx"
        source.write_bytes(Path(asked["source"]).read_bytes())
        began = time.perf_counter()
        tool.quantise(source, target, pictures, asked["method"]["options"])
        spent = {"seconds": time.perf_counter() - began, "peak_mb": _peak_mb()}
    Path(asked["spent"]).write_text(json.dumps(spent))


def _peak_mb() -> float:
    """Most memory that this process has held, MB. On Linux not ru_maxrss, which counts the parent's before exec too."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m calibration.compare",
        description="Quantises a variant with onnxruntime's and NVIDIA's tools and judges them beside FP32 and ours.",
    )
    parser.add_argument("--variant", required=True, metavar="NAME", help="an exported variant")
    parser.add_argument("--calib", required=True, type=Path, metavar="DIR", help="photographs to calibrate with")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="photographs to judge by, best with a labels.csv"
    )
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where the artifacts are (default: artifacts)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many photographs of each folder")
    parser.add_argument("--only", metavar="NAME,...", help=f"rows besides {FP32}: {', '.join(NAMES[1:])}")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the judging (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    only = options.only.split(",") if options.only else NAMES
    unknown = [name for name in only if name not in NAMES]
    if unknown:
        raise UserError(f"--only: there is no {unknown[0]!r}, but {', '.join(NAMES)}.")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: at least one photograph.")
    rows, facts = compare(
        options.variant, options.calib, options.data, options.artifacts or artifacts_folder(), only, options.limit,
        threads=options.threads, say=lambda step: print(f"{options.variant}: {step} ...", file=sys.stderr, flush=True),
    )  # fmt: skip
    if options.json:
        text = json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1)
        write_whole(options.json, f"{text}\n".encode())
    print("\n".join(table(rows, facts)))
    return 0


if __name__ == "__main__":
    run_command(main)
