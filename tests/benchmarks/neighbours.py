"""Networks of others from timm to an INT8 engine, with random weights: ResNet-50 and MobileNetV3-Large exported, calibrated, and
built by TensorRT-RTX, which needs no GPU for it.

    python tests/benchmarks/neighbours.py [--variants timm:resnet50,...] [--calib photos/] [--target sm_89] [--resolution PX]

Each step is the command that people run, and prints what it says; at the end one line for each network. Random weights say
nothing of accuracy, but "same class" and SQNR tell whether INT8 computes what FP32 does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.artifacts.artifact import artifact_path  # noqa: E402
from runtime.artifacts.variant_names import canonical  # noqa: E402

VARIANTS = "timm:resnet50,timm:mobilenetv3_large_100"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", default=VARIANTS, metavar="A,B")
    parser.add_argument("--calib", type=Path, metavar="DIR", help="images (default: scikit-image's samples)")
    parser.add_argument("--target", default="sm_89", metavar="SM", help="GPU that the engine is for (default sm_89)")
    parser.add_argument("--resolution", type=int, metavar="PX", help="instead of the network's own")
    parser.add_argument("--threads", type=int, metavar="N", help="of the calibration")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for variant in options.variants.split(","):
            size = given("--resolution", options.resolution)
            taken = [step(folder, "export", "--variant", variant, "--weights", "random", *size)]
            pictures = (*given("--calib", options.calib), *given("--threads", options.threads))
            taken.append(step(folder, "calibration", "--variant", variant, *pictures))
            engine = "not built: tensorrt_rtx is not installed"
            if find_spec("tensorrt_rtx"):
                target = ("--precision", "int8", "--target", options.target, "--batch", "1,1,8")
                taken.append(step(folder, "runtime.engine", "--variant", variant, *target))
                (built,) = (folder / canonical(variant)).glob("*.engine")
                engine = f"engine {built.stat().st_size / 1e6:.1f} MB in {taken[2]:.0f} s"
            calibrated = f"calibrated in {taken[1]:.0f} s ({told(folder, variant)})"
            lines.append(f"{variant}: exported in {taken[0]:.0f} s, {calibrated}, {engine}")
    print("\n".join(lines))
    return 0


def step(folder: Path, module: str, *arguments: object) -> float:
    """Runs a command of the project on the artifacts in `folder`; the seconds that it took."""
    began = time.perf_counter()
    command = [sys.executable, "-m", module, "--artifacts", str(folder), *map(str, arguments)]
    print("$", " ".join(command[1:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return time.perf_counter() - began


def given(option: str, value: object) -> list[object]:
    return [] if value is None else [option, value]


def told(folder: Path, variant: str) -> str:
    """Of the calibration: how much is in INT8, and how near FP32 it stays."""
    name = canonical(variant)
    facts = json.loads(artifact_path(variant, "int8", folder).with_name(f"{name}.calibration.json").read_text())
    score = facts["scores"][-1]
    share = f"{facts['multiply_adds_in_int8']:.1%} of the MACs in INT8"
    return f"{share}, same class {score['same_class']:.1f} %, {score['sqnr']:.1f} dB"


if __name__ == "__main__":
    sys.exit(main())
