"""Everything that only a GPU can show, in one run: python tests/gpu/measure.py [--variants b0,b3] [--json rows.json]

For each variant and precision: the engine against the ONNX file in onnxruntime on the CPU (cosine of the logits, same
class), GPU time for batches of 1 and 32 by CUDA events, what the runtime adds per image beyond copies and compute, and
next to it, in turns in the same process, whatever peers this Python has: torch eager, torch.compile, onnxruntime's CUDA
provider. Networks without an artifact are exported with random weights, which is enough for time and parity, and the
table says so. INT8 is measured where `make calibrate` has been run.

Python with TensorRT and Python with torch may be two: run it with each, `--json` the same file, and the rows add up.
Meant to take under eight minutes for B0-B7 on a large GPU; `--seconds` bounds it, and what did not fit is named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.artifacts.artifact import Artifact, artifact_path, artifacts_folder, read_artifact  # noqa: E402
from runtime.backends import open_backend  # noqa: E402
from runtime.backends.backend import TENSORRT, Engines  # noqa: E402
from runtime.backends.cuda.driver import gpus  # noqa: E402
from runtime.backends.tensorrt.backend import TensorRt  # noqa: E402
from runtime.backends.tensorrt.compare import noise  # noqa: E402
from runtime.backends.tensorrt.engine import engine_of  # noqa: E402
from runtime.backends.tensorrt.generations import installed  # noqa: E402
from runtime.backends.tensorrt.options import Batch, BuildOptions  # noqa: E402
from runtime.backends.tensorrt.site import open_site  # noqa: E402
from runtime.errors import UserError  # noqa: E402

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")
PRECISIONS = ("fp32", "fp16", "int8")
BATCHES = (1, 32)
WARM, ROUNDS = 20, 100
GATE = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.98}  # least cosine to the ONNX file; issue 4 asks 0.999 of FP16
TARGETS_MS = {("b0", 1): 0.67, ("b3", 1): 1.24}  # NVIDIA's published A100 figures for one image
OVERHEAD_MS = 0.15  # the most that the runtime may add per image


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", default=",".join(VARIANTS), metavar="A,B")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), metavar="A,B")
    parser.add_argument("--json", type=Path, metavar="FILE", help="adds the rows to those in FILE")
    parser.add_argument(
        "--seconds", type=float, default=460, metavar="S", help="starts nothing after that (default 460)"
    )
    given = parser.parse_args()
    found, why, _ = gpus()
    if not found:
        print(f"no GPU: {why}", file=sys.stderr)
        return 2
    print(
        f"{found[0].name}, {found[0].sm}, driver for CUDA {found[0].driver / 1000:.1f}, Python {sys.version.split()[0]}"
    )
    began, rows, missed = time.monotonic(), [], []
    for variant in given.variants.split(","):
        for precision in given.precisions.split(","):
            if time.monotonic() - began > given.seconds:
                missed.append(f"{variant} {precision}: no time left")
                continue
            try:
                for row in measure(variant, precision):
                    rows.append({**row, "gpu": found[0].name})
                    print(line(rows[-1]), flush=True)
            except Exception as error:  # one combination that fails must not cost the others
                missed.append(f"{variant} {precision}: {type(error).__name__}: {str(error).splitlines()[0]}")
                print(f"{missed[-1]}", file=sys.stderr, flush=True)
    if given.json:
        before = json.loads(given.json.read_text()) if given.json.is_file() else []
        given.json.write_text(json.dumps(before + rows, indent=1))
    print(
        f"\n{'network':<8}{'':<6}{'what':<22}{'batch':>5}{'GPU ms':>9}{'all ms':>9}{'over ms':>9}{'cosine':>9}{'class':>7}"
    )
    print("\n".join(line(row) for row in rows))
    failed = [problem for row in rows for problem in problems(row)]
    print("\n".join(f"BELOW THE BAR  {problem}" for problem in failed) or "all bars met that were measured")
    print("\n".join(f"NOT MEASURED   {what}" for what in missed))
    return 1 if failed else 0


def measure(variant: str, precision: str) -> List[Dict[str, Any]]:
    artifact = exported(variant, precision)
    images = noise(artifact.preprocessing, max(BATCHES))
    module = next((name for name in TENSORRT if installed(name)), None)
    rows: List[Dict[str, Any]] = []
    runs: Dict[str, Tuple[Callable[[np.ndarray], Any], Optional[TensorRt]]] = {}
    opened: List[Any] = []
    try:
        if module:
            site = open_site(module)
            engine_of(artifact, site, precision).build(BuildOptions(precision, Batch(1, 1, max(BATCHES))))
            engine = TensorRt(artifact, module, Engines(rebuild=False))
            opened.append(engine)
            runs[f"ours, {module} {site.trt.__version__}"] = engine.run, engine
        for name, peer in peers(artifact).items():
            runs[name] = peer, None
        reference = open_backend(artifact, "onnxruntime")
        expected = reference.run(images[:8])
        reference.close()
        for batch in BATCHES:
            spent: Dict[str, List[float]] = {name: [] for name in runs}
            stages: Dict[str, List[Any]] = {name: [] for name in runs}
            for _ in range(WARM + ROUNDS):
                for name, (call, ours) in runs.items():  # in turns, so that drift hits all alike
                    start = time.perf_counter()
                    if ours:
                        stages[name].append(ours.timed(images[:batch])[1])
                    else:
                        call(images[:batch])
                    spent[name].append((time.perf_counter() - start) * 1e3)
            for name, (call, ours) in runs.items():
                row: Dict[str, Any] = {
                    "variant": variant,
                    "precision": precision,
                    "what": name,
                    "batch": batch,
                    "random": artifact.random,
                    "input": artifact.preprocessing.input,
                    "all_ms": float(np.median(spent[name][WARM:])),
                }
                if ours:
                    on_gpu = np.array([sum(each) for each in stages[name][WARM:]])
                    row["copy_in_ms"] = float(np.median([each.copy_in for each in stages[name][WARM:]]))
                    row["gpu_ms"] = float(np.median([each.compute for each in stages[name][WARM:]]))
                    row["overhead_ms"] = float(np.median(np.array(spent[name][WARM:]) - on_gpu)) / batch
                if not name.startswith("torch"):  # its network has random weights of its own
                    got = np.concatenate(
                        [np.asarray(call(images[:8][i : i + batch])) for i in range(0, len(expected), batch)]
                    )
                    row["cosine"] = cosine(expected, got)
                    row["same_class"] = float((expected.argmax(1) == got.argmax(1)).mean())
                rows.append(row)
    finally:
        for thing in opened:
            thing.close()
    return rows


def exported(variant: str, precision: str) -> Artifact:
    """The artifact; made with random weights if there is none and this Python can export."""
    path = artifact_path(variant, precision)
    if not path.is_file():
        if precision == "int8" or importlib.util.find_spec("torch") is None:
            raise UserError(f"there is no {path}")
        command = [sys.executable, "-m", "export", "--variant", variant, "--weights", "random"]
        subprocess.run(
            [*command, "--artifacts", str(artifacts_folder())], cwd=str(ROOT), check=True, stdout=subprocess.DEVNULL
        )
    return read_artifact(path)


def peers(artifact: Artifact) -> Dict[str, Callable[[np.ndarray], Any]]:
    """What else this Python can run the network with, on the GPU: from images to logits, both in host memory."""
    found: Dict[str, Callable[[np.ndarray], Any]] = {}
    if artifact.precision in ("fp32", "fp16"):
        try:
            found["onnxruntime CUDA"] = open_backend(artifact, "onnxruntime_cuda").run
        except UserError as error:
            print(f"onnxruntime CUDA: {error}", file=sys.stderr)
    floats = artifact.precision in ("fp32", "fp16") and artifact.preprocessing.input == "float32"
    if importlib.util.find_spec("torch") and floats:
        import torch

        if torch.cuda.is_available() and artifact.random:
            from models.network import EfficientNet
            from models.variants import VARIANTS as NETWORKS

            kind = torch.float16 if artifact.precision == "fp16" else torch.float32
            network = (
                EfficientNet(NETWORKS[artifact.variant]).eval().to("cuda", kind, memory_format=torch.channels_last)
            )
            compiled = torch.compile(network, mode="reduce-overhead")

            def run(model: Any) -> Callable[[np.ndarray], Any]:
                def call(images: np.ndarray) -> np.ndarray:
                    with torch.inference_mode():
                        batch = torch.from_numpy(images).to("cuda", kind).contiguous(memory_format=torch.channels_last)
                        return model(batch).float().cpu().numpy()

                return call

            found.update({"torch eager": run(network), "torch.compile": run(compiled)})
    return found


def cosine(expected: np.ndarray, got: np.ndarray) -> float:
    """Least cosine of the logits of any image."""
    a, b = (x.astype(np.float64) - x.mean(1, keepdims=True) for x in (expected, got))
    return float(((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))).min())


def line(row: Dict[str, Any]) -> str:
    def figure(key: str, digits: int) -> str:
        value = row.get(key)
        return f"{value:9.{digits}f}" if value is not None and value == value else f"{'-':>9}"

    weights = (" uint8 input" if row.get("input") == "uint8" else "") + (" random weights" if row["random"] else "")
    same = f"{row['same_class']:7.0%}" if "same_class" in row else f"{'-':>7}"
    return (
        f"{row['variant']:<8}{row['precision']:<6}{row['what'][:21]:<22}{row['batch']:>5}{figure('gpu_ms', 3)}"
        f"{figure('all_ms', 3)}{figure('overhead_ms', 3)}{figure('cosine', 5)}{same}{weights}"
    )


def problems(row: Dict[str, Any]) -> List[str]:
    name = f"{row['variant']} {row['precision']} batch {row['batch']}"
    found = []
    if row["what"].startswith("ours"):
        if row["cosine"] < GATE[row["precision"]]:
            found.append(f"{name}: cosine {row['cosine']:.5f}, at least {GATE[row['precision']]}")
        bar = TARGETS_MS.get((row["variant"], row["batch"]))
        if bar and row["precision"] != "fp32" and row["gpu_ms"] > bar:
            found.append(f"{name}: {row['gpu_ms']:.3f} ms, at most {bar} (an A100's)")
        if row.get("overhead_ms", 0) > OVERHEAD_MS:
            found.append(f"{name}: the runtime adds {row['overhead_ms']:.3f} ms an image, at most {OVERHEAD_MS}")
    return found


if __name__ == "__main__":
    sys.exit(main())
