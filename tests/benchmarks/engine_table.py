"""What TensorRT-RTX's builder makes of networks in FP16 and in INT8: python tests/benchmarks/engine_table.py --variants lite0,b0

Prints the table of docs/engines.md. Needs TensorRT-RTX, the FP16 and INT8 artifacts of each variant (`make engine-table` makes
them), and no GPU. Not a test, and no measurement of speed: the kernels and the bytes are the builder's own account.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runtime.artifacts.artifact import artifacts_folder, read_artifact
from runtime.backends.tensorrt.engine import engine_of
from runtime.backends.tensorrt.explain import explained
from runtime.backends.tensorrt.layers import Cost
from runtime.backends.tensorrt.options import BuildOptions, parse_target
from runtime.backends.tensorrt.site import open_site
from runtime.command import run
from runtime.sweep.plan import variants_of


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", default="lite0,b0,v2-b0,b4")
    parser.add_argument("--gpu", default="sm_89")
    given = parser.parse_args()
    target = parse_target(given.gpu)
    site = open_site("tensorrt_rtx", target)
    print(f"{site.library} for {target}, batch 1\n")
    heads = [
        "FP16: kernels",
        "MB of activations",
        "MB of weights",
        "INT8: kernels",
        "MB of activations",
        "MB of weights",
    ]
    print(f"| | {' | '.join(heads)} | INT8's activations over FP16's |\n{'|---' * 8}|")
    for variant in variants_of(given.variants):
        costs = []
        with tempfile.TemporaryDirectory() as folder:  # engines of one number of images, beside links to the artifacts
            for precision in ("fp16", "int8-fp16"):
                source = artifacts_folder() / variant / f"{variant}.{precision}.onnx"
                Path(folder, source.name).symlink_to(source.resolve())
            artifact = read_artifact(Path(folder, f"{variant}.fp16.onnx"))
            for precision in ("fp16", "int8"):
                options = BuildOptions(precision, target=target)
                costs.append(explained(engine_of(artifact, site, precision), options).cost)
        print(
            f"| {variant} | {' | '.join(map(_cells, costs))} | {costs[1].activation_bytes / costs[0].activation_bytes:.2f} |"
        )
    return 0


def _cells(cost: Cost) -> str:
    return f"{cost.kernels} | {cost.activation_bytes / 1e6:.1f} | {cost.weight_bytes / 1e6:.1f}"


if __name__ == "__main__":
    run(main)
