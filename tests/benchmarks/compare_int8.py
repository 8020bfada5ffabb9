"""INT8 as other tools make it, beside ours: python -m tests.benchmarks.compare_int8 --variant v2-b0 --calib A --data B

Each tool quantises in a process of its own, so that time and peak memory are its own, from the same images. What
comes out is judged here, in one run, on the same images and on the same kernels: with Q/DQ computed as written, in
float, because what is asked is what the rounding costs, and onnxruntime's kernels for int8 activations are slow.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.collect.images import CalibrationImages, read_folder
from calibration.layer_graph import LayerGraph, logits_of, open_session, sqnr, top1_agreement
from calibration.report.result import written
from calibration.stage import read_network
from export.cost import cost
from runtime.artifacts.artifact import artifacts_folder, find_artifact, read_artifact, require_classes, sealed
from runtime.command import run as run_command
from runtime.errors import UserError
from runtime.whole_file import write_whole
from tests.benchmarks.quantisers import METHODS, TOOLS, Method


@dataclass(frozen=True)
class Row:
    """What is known of one method; `reason` says why nothing is."""

    name: str
    about: str
    top1: float | None = None  # %, where there are labels
    agreement: float | None = None  # %, as FP32
    sqnr: float | None = None  # of the logits, dB
    share: float | None = None  # of the MACs that are in INT8, %
    activations: float | None = None  # bytes of activations, predicted for TensorRT 10.15 and later, % of FP16's
    seconds: float | None = None
    peak_mb: float | None = None
    reason: str = ""


FP32 = "fp32"
NAMES = (FP32, *(method.name for method in METHODS))

_ROOT = str(Path(__file__).parents[2])
_CHILD = "import sys; from tests.benchmarks.quantisers import quantise_here; quantise_here(sys.argv[1])"


def macs_in_int8(model: onnx.ModelProto, network: LayerGraph) -> float:
    """Share of `network`'s MACs that `model` (Q/DQ) does on dequantised data and dequantised weights, 0..1.

    Raises ValueError if a layer is gone from `model`.
    """
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    inputs = {node.name: node.input[:2] for node in model.graph.node}
    gone = [layer.name for layer in network.layers if layer.name not in inputs]
    if gone:
        raise ValueError(f"{len(gone)} layers are gone or have another name, such as {gone[0]}")
    done = sum(
        layer.macs
        for layer in network.layers
        if all(operators.get(name) == "DequantizeLinear" for name in inputs[layer.name])
    )
    return done / network.macs


def compare(
    variant: str,
    calib: Path,
    data: Path,
    folder: Path | None = None,
    only: Sequence[str] = NAMES,
    limit: int | None = None,
    methods: Sequence[Method] = METHODS,
    threads: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Row], dict[str, Any]]:
    """(a row for FP32 and for each of `only`, facts of the run). `limit`: images taken of each folder.

    Raises UserError if `variant` was not exported or a folder has no images. A tool that is absent or fails is a row.
    """
    artifact = read_artifact(find_artifact(variant, "fp32", folder))
    require_classes(artifact)
    network = read_network(artifact)
    say("reading images")
    calibration = read_folder(calib, artifact.preprocessing, artifact.classes)
    pictures = read_folder(data, artifact.preprocessing, artifact.classes)
    rows = np.arange(len(pictures))[:limit]
    labels = None if pictures.labels is None else pictures.labels[rows]
    say("judging fp32")
    reference = logits_of(open_session(network.to_model(), threads), pictures.batches(rows))
    before = cost(network.to_model()).activations

    def judged(name: str, about: str, model: onnx.ModelProto) -> Row:
        say(f"judging {name}")
        share = macs_in_int8(model, network)
        logits = logits_of(open_session(model, threads, integer=False), pictures.batches(rows))
        agreement, noise = 100 * top1_agreement(reference, logits), sqnr(reference, logits)
        moved = 100 * cost(model).activations / before
        return Row(name, about, _top1(logits, labels), agreement, noise, 100 * share, moved)

    found = [Row(FP32, "as exported", _top1(reference, labels), agreement=100.0, share=0.0)]
    with tempfile.TemporaryDirectory() as scratch:
        shape = _write_pictures(Path(scratch) / "pictures", calibration, limit)
        source = artifact.path
        if artifact.preprocessing.input != "float32":  # images are handed to every tool normalised
            source = Path(scratch) / "float32.onnx"
            facts = {key: value for key, value in artifact.metadata.items() if key != "input"}
            source.write_bytes(sealed(network.to_model().SerializeToString(), "fp32", facts)[0])
        for method in (method for method in methods if method.name in only):
            say(f"quantising {method.name} ({method.about})")
            found.append(_tried(method, network, source, Path(scratch), shape, judged))
    versions = {name: _version(name) for name in ("onnx", "onnxruntime", "numpy", "nvidia-modelopt")}
    return found, {
        "variant": variant,
        "calibration_pictures": shape[0],
        "judged_pictures": len(rows),
        "versions": versions,
    }


def table(rows: Sequence[Row], facts: Mapping[str, Any]) -> list[str]:
    """The lines to print."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}   top-1 %   agreement %  SQNR dB  INT8 MACs %  bytes %   time s  peak MB"]
    for row in rows:
        if row.reason:
            lines.append(f"{row.name:<{width}}   {row.reason}")
            continue
        cells = (
            (row.top1, 7, 1),
            (row.agreement, 12, 1),
            (row.sqnr, 7, 1),
            (row.share, 11, 1),
            (row.activations, 7, 1),
            (row.seconds, 7, 0),
            (row.peak_mb, 7, 0),
        )
        lines.append(f"{row.name:<{width}}   " + "  ".join(_cell(*cell) for cell in cells))
    lines += ["", *(f"{row.name:<{width}}   {row.about}" for row in rows), ""]
    lines.append(
        f"{facts['variant']}: calibrated on {facts['calibration_pictures']} images, judged on {facts['judged_pictures']}, "
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


def _write_pictures(path: Path, images: CalibrationImages, limit: int | None) -> list[int]:
    """Writes the first `limit` as CalibrationPictures reads them; returns their shape."""
    rows, side = np.arange(len(images))[:limit], images.preprocessing.resolution
    with open(path, "wb") as file:
        for batch in images.batches(rows):
            file.write(batch.tobytes())
    return [len(rows), 3, side, side]


def _tried(
    method: Method,
    network: LayerGraph,
    source: Path,
    scratch: Path,
    shape: list[int],
    judged: Callable[[str, str, onnx.ModelProto], Row],
) -> Row:
    tool = TOOLS[method.tool]
    if importlib.util.find_spec(method.tool) is None:
        return Row(method.name, method.about, reason=f"not installed: {tool.install}")
    request = {
        "method": asdict(method),
        "source": str(source),
        "pictures": str(scratch / "pictures"),
        "shape": shape,
        "input": network.input,
        "target": str(scratch / f"{method.name}.onnx"),
        "spent": str(scratch / "spent.json"),
    }
    with open(scratch / "log", "w+", errors="replace") as log:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, json.dumps(request)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare_int8",
        description="Quantises a variant with onnxruntime's and NVIDIA's tools and judges them beside FP32 and ours.",
    )
    parser.add_argument("--variant", required=True, metavar="NAME", help="an exported variant")
    parser.add_argument("--calib", required=True, type=Path, metavar="DIR", help="images to calibrate with")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="images to judge by, best with a labels.csv"
    )
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where the artifacts are (default: artifacts)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many images of each folder")
    parser.add_argument("--only", metavar="NAME,...", help=f"rows besides {FP32}: {', '.join(NAMES[1:])}")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the judging (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args(argv)
    only = options.only.split(",") if options.only else NAMES
    unknown = [name for name in only if name not in NAMES]
    if unknown:
        raise UserError(f"--only: there is no {unknown[0]!r}, but {', '.join(NAMES)}.")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: at least one image.")
    rows, facts = compare(
        options.variant,
        options.calib,
        options.data,
        options.artifacts or artifacts_folder(),
        only,
        options.limit,
        threads=options.threads,
        say=lambda step: print(f"{options.variant}: {step} ...", file=sys.stderr, flush=True),
    )
    if options.json:
        text = json.dumps({**facts, "rows": [written(row) for row in rows]}, indent=1)
        write_whole(options.json, f"{text}\n".encode())
    print("\n".join(table(rows, facts)))
    return 0


if __name__ == "__main__":
    run_command(main)
