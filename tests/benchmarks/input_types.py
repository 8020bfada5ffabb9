"""What a network that takes the camera's own bytes saves, against the one that takes normalised floats, in turns in one run.

    python tests/benchmarks/input_types.py [--variant b0] [--precision fp32] [--backend onnxruntime] [--batches 1,8]
                                           [--seconds 20] [--threads N]

Both are exported here, with random weights (it is the network that takes the time), and must give the same logits before
anything is timed. `prepare` is what the CPU does per pixel once it has the network's square, and `network` the whole call
of the backend, in which uint8 input is normalised; on TensorRT it holds the copy to the GPU as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from export.stage import Request, export  # noqa: E402
from models.dead_leaves import dead_leaves  # noqa: E402
from models.variants import VARIANTS  # noqa: E402
from models.weights import find_weights  # noqa: E402
from runtime.images.preprocess import INPUTS, normalize  # noqa: E402
from runtime.measure.latency import settled  # noqa: E402
from runtime.measure.machine import machine, warnings  # noqa: E402
from runtime.networks.classifier import Classifier  # noqa: E402

AGREE = 1e-3  # of the logits' spread
WARM = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="b0", choices=VARIANTS, metavar="V")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--backend", default="onnxruntime", metavar="B")
    parser.add_argument("--batches", default="1,8", metavar="N,M")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each batch size (default 20)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        classifiers = {}
        for name in INPUTS:
            print(f"exporting {options.variant} with {name} input", file=sys.stderr)
            variant = VARIANTS[options.variant]
            made = export(Request(variant, find_weights(variant, "random"), input=name), Path(folder) / name)
            classifiers[name] = Classifier(
                made.files[options.precision], backend=options.backend, threads=options.threads
            )
        where = (
            f"{classifiers['uint8'].backend.description}, {options.threads} threads of {before.get('cpu', 'this CPU')}"
        )
        print(f"{options.variant} {options.precision} (random weights) on {where}; medians in ms, for the batch")
        for batch in map(int, options.batches.split(",")):
            if not compare(classifiers, batch, options.seconds):
                return 1
    for text in warnings(before, machine()):
        print(f"warning: {text}", file=sys.stderr)
    return 0


def compare(classifiers: dict[str, Classifier], batch: int, seconds: float) -> bool:
    """Prints a line for each input; False if they give different logits."""
    side = classifiers["uint8"].artifact.preprocessing.resolution
    leaves = (dead_leaves(batch, side).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    squares = [Image.fromarray(picture) for picture in leaves]
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in classifiers}
    logits, began = {}, time.perf_counter()
    while time.perf_counter() - began < seconds or len(spent["uint8"]) < 2 * WARM:
        for name, classifier in classifiers.items():
            settled()  # the other's threads would go on spinning into this one's time
            recipe, start = classifier.artifact.preprocessing, time.perf_counter()
            images = recipe.empty(batch)
            for row, square in zip(images, squares):
                normalize(square, recipe, row)
            prepared = time.perf_counter()
            logits[name] = classifier.logits(images)
            spent[name].append(((prepared - start) * 1e3, (time.perf_counter() - prepared) * 1e3))
    error = float(np.abs(logits["uint8"] - logits["float32"]).max() / logits["float32"].std())
    if not error <= AGREE:
        print(f"the two give different logits: off by {error:.2g} of their spread", file=sys.stderr)
        return False
    floats = [sum(each) for each in spent["float32"][WARM:]]
    for name, times in spent.items():
        times = times[WARM:]
        ratio = statistics.median(sum(each) / other for each, other in zip(times, floats))
        prepare, network = (statistics.median(column) for column in zip(*times))
        nbytes = classifiers[name].artifact.preprocessing.empty(batch).nbytes
        print(
            f"  batch {batch:<3} {name:<8} {nbytes / 1e3:9.1f} kB   prepare {prepare:6.3f}   network {network:8.3f}"
            f"   together {prepare + network:8.3f}   x float32 {ratio:.3f} ({len(times)} pairs)"
        )
    print(
        f"  batch {batch:<3} logits {'the same bit for bit' if error == 0 else f'apart by {error:.1e} of their spread'}"
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
