"""What calibration's two passes cost beside plain inference, and whether memory grows with the number of images.

    python tests/benchmarks/calibration_cost.py --variant v2-b0 [--pictures 64,1024] [--threads 1]

Each number of images (noise, preprocessed) is a process of its own, whose peak memory is printed. In it, plain
inference, the pass for ranges and the pass for moments take turns; ratios are medians over the turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from calibration.collect.ranges import collect  # noqa: E402
from calibration.layer_graph import batch_size, by_input, logits_of, open_session  # noqa: E402
from calibration.quantise.rounding import collect_moments  # noqa: E402
from calibration.search.fitting import ROUNDED_ON  # noqa: E402
from calibration.stage import read_network  # noqa: E402
from runtime.artifacts.artifact import find_artifact, read_artifact  # noqa: E402

PASSES = ("plain inference", "ranges", "moments")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", metavar="NAME")
    parser.add_argument("--pictures", default="64,1024", metavar="N,M")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", choices=("plain", "ranges", "all"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.variant, int(given.pictures), given.threads, given.turns, given.one)))
        return 0
    for count in given.pictures.split(","):
        command = [sys.executable, __file__, "--pictures", count, "--threads", str(given.threads)]
        command += ["--turns", str(given.turns), *(["--variant", given.variant] if given.variant else [])]
        peaks = {}
        for passes in ("plain", "ranges"):
            once = [*command, "--turns", "1", "--one", passes]
            answer = json.loads(subprocess.run(once, check=True, capture_output=True).stdout)
            peaks[passes] = answer["peak_mb"]
        answer = json.loads(subprocess.run([*command, "--one", "all"], check=True, capture_output=True).stdout)
        plain, *others = (answer["seconds"][name] for name in PASSES)
        ratios = [statistics.median(b / a for a, b in zip(plain, other)) for other in others]
        print(
            f"{answer['variant']}, {count} images: plain inference {statistics.median(plain):.1f} s, ranges {ratios[0]:.2f} "
            f"times that, moments {ratios[1]:.2f} (a calibration takes "
            f"at most {ROUNDED_ON} images for those); peak memory {peaks['plain']:.0f} MB, with ranges {peaks['ranges']:.0f}"
        )
    return 0


def one(variant: str | None, pictures: int, threads: int, turns: int, passes: str) -> dict[str, object]:
    path = find_artifact(variant, "fp32")
    network = read_network(read_artifact(path))
    side = network.shapes[network.input][2]
    layers = [layer for layer in network.layers if not layer.pooled]
    tensors = sorted({*by_input(layers), *(residual.identity for residual in network.residuals)})

    noise = np.random.default_rng(0).normal(0, 1, (batch_size(side), 3, side, side)).astype(np.float32)

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, pictures, len(noise)):
            yield np.roll(noise, start, axis=3)[: pictures - start]

    seconds: dict[str, list[float]] = {name: [] for name in PASSES}
    for _ in range(turns):
        for name in PASSES[: {"plain": 1, "ranges": 2, "all": 3}[passes]]:
            began = time.perf_counter()
            if name == "plain inference":
                logits_of(open_session(network.to_model(), threads), batches())
            elif name == "ranges":
                collect(network, tensors, batches(), threads)
            else:
                collect_moments(network, layers, batches(), threads)
            seconds[name].append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"variant": path.parent.name, "seconds": seconds, "peak_mb": peak}


if __name__ == "__main__":
    sys.exit(main())
