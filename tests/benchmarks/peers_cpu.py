"""One network on the CPU in five ways, in turns in one process: torch eager, torch.compile, onnxruntime, OpenVINO, ours.

    python tests/benchmarks/peers_cpu.py [--variant b0] [--image FILE] [--seconds 20] [--threads N] [--json FILE]

Each goes the whole way from the bytes of a JPEG file to the five likeliest classes, one image at a time, in FP32. Ours is
runtime.Classifier on onnxruntime; the others are scripts as people write them: torchvision-like preprocessing by Pillow
and numpy, no checks. The weights are random (it is the network that takes the time), all five from one seed, and they
must agree on the logits before anything is timed. torch.compile needs a C++ compiler; who is missing is named.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from export.stage import Request, export  # noqa: E402
from models.pretrained import load_pretrained  # noqa: E402
from models.variants import VARIANTS  # noqa: E402
from models.weights import find_weights  # noqa: E402
from runtime.images.preprocess import Preprocessing  # noqa: E402
from runtime.measure.latency import TOTAL, measure  # noqa: E402
from runtime.measure.machine import machine, warnings  # noqa: E402
from runtime.networks.classifier import Classifier  # noqa: E402

AGREE = 1e-2  # of the logits' spread: kernels differ in the order of their sums, not in more

Way = Callable[[bytes], np.ndarray]  # encoded image -> logits [classes]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="b0", choices=VARIANTS, metavar="V")
    parser.add_argument("--image", type=Path, default=ROOT / "tests" / "data" / "lighthouse.jpg", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each way, at most (default 20)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    picture = options.image.read_bytes()
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        weights = find_weights(VARIANTS[options.variant], "random")
        print(f"exporting {options.variant} with random weights", file=sys.stderr)
        export(Request(VARIANTS[options.variant], weights), Path(folder))
        file = Path(folder) / options.variant / f"{options.variant}.fp32.onnx"
        pretrained = load_pretrained(VARIANTS[options.variant], weights)
        recipe = pretrained.recipe.preprocessing
        classifier = Classifier(file, backend="onnxruntime", threads=options.threads)
        ways: dict[str, Way] = {"ours": lambda data: classifier.logits(classifier.preprocess(data))[0]}
        makers: dict[str, Callable[[], Way]] = {
            "torch eager": lambda: torch_way(pretrained.network, recipe),
            "torch.compile": lambda: torch_way(torch.compile(pretrained.network), recipe),
            "onnxruntime": lambda: onnxruntime_way(file, recipe, options.threads),
            "OpenVINO": lambda: openvino_way(file, recipe, options.threads),
        }
        expected = ways["ours"](picture)
        missing = {}
        for name, make in makers.items():
            try:
                way = make()
                error = float(np.abs(way(picture) - expected).max() / expected.std())
            except Exception as failure:  # not installed, or no compiler
                missing[name] = (str(failure) or repr(failure)).strip().splitlines()[0]
                continue
            if error > AGREE:
                print(f"{name} gives other logits than ours: off by {error:.2g} of their spread", file=sys.stderr)
                return 1
            ways[name] = way

        def run(name: Any, pictures: Any) -> dict[str, float]:
            began = time.perf_counter()
            top5(ways[name](pictures[0])) if name != "ours" else classifier(pictures[0])
            return {TOTAL: (time.perf_counter() - began) * 1e3}

        names: Any = list(ways)
        rows = measure(names, [1], [picture], options.seconds, run=run, say=lambda text: print(text, file=sys.stderr))
    where = f"{options.threads} threads of {before.get('cpu', platform.machine())}"
    print(f"{options.variant} (random weights), FP32, {where}; JPEG bytes to top-5")
    for row in rows:
        total, (median, low, high) = row.total, row.ratio_to_first
        print(
            f"{row.subject!s:<14}{total.p50:8.2f} ms  (95 % {total.low:.2f} to {total.high:.2f}, p99 {total.p99:.2f})"
            f"   {median:.3f} x ours ({low:.3f} to {high:.3f}){'   too noisy' if total.noisy else ''}"
        )
    for name, reason in missing.items():
        print(f"{name:<14} not measured: {reason}")
    for text in (said := warnings(before, machine())):
        print(f"warning: {text}", file=sys.stderr)
    if options.json:
        told = [{"what": row.subject, **row.total._asdict(), "ratio_to_ours": row.ratio_to_first} for row in rows]
        options.json.write_text(
            json.dumps({"rows": told, "missing": missing, "machine": before, "warnings": said}, indent=1)
        )
    return 0


def tensor(data: bytes, recipe: Preprocessing) -> np.ndarray:
    """As people write it: float32 [1, 3, S, S]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale, side = recipe.resize_to / min(image.size), recipe.resolution
    method = getattr(Image.Resampling, recipe.interpolation.upper())
    image = image.resize((int(image.width * scale), int(image.height * scale)), method)
    left, top = (round((length - side) / 2) for length in image.size)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    normal = (pixels - np.float32(recipe.mean)) / np.float32(recipe.std)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def top5(logits: np.ndarray) -> list[tuple[int, float]]:
    likely = np.exp(logits - logits.max())
    likely /= likely.sum()
    return [(int(index), float(likely[index])) for index in np.argsort(-likely)[:5]]


def torch_way(network: Any, recipe: Preprocessing) -> Way:
    def run(data: bytes) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(tensor(data, recipe)))[0].numpy()

    return run


def onnxruntime_way(file: Path, recipe: Preprocessing, threads: int) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda data: session.run(None, {name: tensor(data, recipe)})[0][0]


def openvino_way(file: Path, recipe: Preprocessing, threads: int) -> Way:
    import openvino

    # Its own default is bf16 where the processor has it; here all five compute in FP32.
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(str(file), "CPU", hints).create_infer_request()
    return lambda data: request.infer([tensor(data, recipe)])[0][0]


if __name__ == "__main__":
    sys.exit(main())
