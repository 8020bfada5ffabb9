"""INT8 on this processor beside its peers, in turns in one process: the network alone, and the way from JPEG bytes to top-5.

    python tests/benchmarks/int8_cpu.py --variant b0 [--artifacts artifacts] [--data photos/] [--seconds 20] [--json FILE]

Rows: bare onnxruntime on the FP32 file (ratio 1); Classifier on it; bare OpenVINO, compiled for one image, on the FP32 file in
FP32 and in bf16 (its default where the processor has it), and on our INT8 file; Classifier in OpenVINO on both files. bf16
changes answers too: with --data, top-1 agreement with FP32 is measured for bf16 and INT8. Times: the fastest tenth of the turns.
A turn begins when the one before is idle: onnxruntime's workers spin for 25 to 50 ms on cores that the next needs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from runtime.artifacts.artifact import artifact_path  # noqa: E402
from runtime.images.find import find_images  # noqa: E402
from runtime.measure.latency import settled  # noqa: E402
from runtime.measure.machine import machine  # noqa: E402
from runtime.networks.classifier import Classifier  # noqa: E402

IMAGE = ROOT / "tests" / "data" / "lighthouse.jpg"
IN_A_ROW = 5  # runs of a way before the next has its turn; the fastest counts

Way = Callable[[np.ndarray], np.ndarray]  # [1, ...] as the artifact's preprocessing makes it -> logits [1, classes]


def bare_onnxruntime(file: Path) -> Way:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def bare_openvino(file: Path, precision: str) -> Way:
    import openvino

    core = openvino.Core()
    graph = core.read_model(str(file))
    graph.reshape([1, *graph.input(0).partial_shape[1:]])
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(graph, "CPU", hints).create_infer_request()
    return lambda batch: request.infer([batch])[0]


def timed(ways: Dict[str, Callable[[], Any]], seconds: float) -> Dict[str, float]:
    """Milliseconds of each, by turns."""
    spent: Dict[str, List[float]] = {name: [] for name in ways}
    for way in ways.values():
        for _ in range(IN_A_ROW):
            way()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, way in ways.items():
            turns = []
            settled()
            for _ in range(IN_A_ROW):
                began = time.perf_counter()
                way()
                turns.append(time.perf_counter() - began)
            spent[name].append(min(turns))
    return {name: float(np.quantile(each, 0.1)) * 1e3 for name, each in spent.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="b0")
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--data", help="images to measure agreement on")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each of the two tables (default 20)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    fp32, int8 = (artifact_path(options.variant, precision, options.artifacts) for precision in ("fp32", "int8"))
    for file in (fp32, int8):
        if not file.is_file():
            print(f"There is no {file}: 'make calibrate VARIANT={options.variant}' writes it.", file=sys.stderr)
            return 2
    if importlib.util.find_spec("openvino") is None:
        print("INT8's rows need OpenVINO: pip install openvino.", file=sys.stderr)
        return 2
    ours, in_openvino = Classifier(fp32, backend="onnxruntime"), Classifier(fp32, backend="openvino")
    ways: Dict[str, Way] = {
        "onnxruntime FP32, bare": bare_onnxruntime(fp32),
        "ours FP32": ours.logits,
        "OpenVINO FP32, bare": bare_openvino(fp32, "f32"),
        "ours FP32 in OpenVINO": in_openvino.logits,
        "OpenVINO bf16, bare": bare_openvino(fp32, "bf16"),
        "OpenVINO on our INT8, bare": bare_openvino(int8, "f32"),
        "ours INT8": Classifier(int8, backend="openvino").logits,
    }
    data, batch = IMAGE.read_bytes(), ours.preprocess(IMAGE.read_bytes())
    alone = timed({name: lambda way=way: way(batch) for name, way in ways.items()}, options.seconds)
    whole = timed(
        {name: lambda way=way: ours.predictions(way(ours.preprocess(data))) for name, way in ways.items()},
        options.seconds,
    )
    agreement: Dict[str, float] = {}
    if options.data:
        images = [path for path, _ in find_images([options.data])]
        batches = [ours.preprocess(path) for path in images]
        expected = [int(ways["onnxruntime FP32, bare"](each)[0].argmax()) for each in batches]
        for name in ("OpenVINO bf16, bare", "ours INT8"):
            same = sum(int(ways[name](each)[0].argmax()) == best for each, best in zip(batches, expected))
            agreement[name] = 100 * same / len(batches)
    first = next(iter(ways))
    print(f"{options.variant} on {machine().get('cpu')}: milliseconds, and their ratio to bare onnxruntime in FP32")
    print(
        f"{'':<28}{'network':>9}{'ratio':>7}{'JPEG to top-5':>15}{'ratio':>7}" + ("  agreement %" if agreement else "")
    )
    for name in ways:
        told = f"{agreement[name]:>13.1f}" if name in agreement else ""
        print(
            f"{name:<28}{alone[name]:>9.2f}{alone[name] / alone[first]:>7.2f}"
            f"{whole[name]:>15.2f}{whole[name] / whole[first]:>7.2f}{told}"
        )
    for name, bare in (("ours FP32 in OpenVINO", "OpenVINO FP32, bare"), ("ours INT8", "OpenVINO on our INT8, bare")):
        print(f"{name} takes {alone[name] / alone[bare]:.3f} of the time of a bare OpenVINO loop on the same file")
    if options.json:
        options.json.write_text(json.dumps({"alone": alone, "whole": whole, "agreement": agreement}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
