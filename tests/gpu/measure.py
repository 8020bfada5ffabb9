"""Everything that only a GPU can show, in the order of its worth: python tests/gpu/measure.py [--json rows.json]

A GPU may be there for minutes only. So this is a list of steps, each in a process of its own that is ended after 90 seconds.
Results are printed as they come and kept in the file of `--json`. What it holds is not done again: the next call goes on where
one was cut off, also with another Python, for which a step is left whose library is missing. `--seconds` starts no step after
that time.

Of engines: logits against the ONNX file in onnxruntime on the CPU (least cosine of any image, top-1 agreement), GPU time by CUDA
events for batches of 1 and 32, what the runtime adds per image beyond that, and in turns in the same process the peers that
this Python has: torch eager, torch.compile, onnxruntime's CUDA provider. Networks without an artifact are exported with random
weights, which is enough for time and parity, and the row says so. INT8 is measured where `make calibrate` has been run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.artifacts.artifact import Artifact, artifact_path, artifacts_folder, read_artifact, sealed  # noqa: E402
from runtime.backends import open_backend  # noqa: E402
from runtime.backends.backend import TENSORRT, Engines  # noqa: E402
from runtime.backends.cuda.device import Device  # noqa: E402
from runtime.backends.cuda.driver import Gpu, gpus  # noqa: E402
from runtime.backends.tensorrt.backend import TensorRt  # noqa: E402
from runtime.backends.tensorrt.compare import compare_with_fp16, noise  # noqa: E402
from runtime.backends.tensorrt.engine import engine_of  # noqa: E402
from runtime.backends.tensorrt.generations import installed  # noqa: E402
from runtime.backends.tensorrt.options import Batch, BuildOptions  # noqa: E402
from runtime.backends.tensorrt.site import open_site  # noqa: E402
from runtime.errors import UserError  # noqa: E402
from runtime.whole_file import write_whole  # noqa: E402
from tests.runtime.artifacts.onnx_bytes import tiny_onnx  # noqa: E402

Row = Dict[str, Any]
LIMIT = 90.0  # seconds of a step
BATCHES = (1, 32)
WARM, ROUNDS = 20, 100
COPIED = 64 << 20  # bytes
TWO_LAYERS = {  # facts of the smallest network, but its name
    "weights": "random",
    "weights_sha256": "",
    "resolution": "4",
    "crop": "1",
    "interpolation": "bilinear",
    "mean": "[0, 0, 0]",
    "std": "[1, 1, 1]",
    "classes": "5",
    "labels": json.dumps(list("abcde")),
}
GATE = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.98}  # least cosine to the ONNX file
TARGETS_MS = {("b0", 1): 0.67, ("b3", 1): 1.24}  # NVIDIA's published A100 figures for one image
OVERHEAD_MS = 0.15  # the most that the runtime may add per image


class Missing(Exception):
    """A step needs what this Python or this folder does not have."""


class Step(NamedTuple):
    name: str
    rows: Callable[[], Iterator[Row]]


# The driver -----------------------------------------------------------------------------------------------------------


def _gpu() -> Gpu:
    found, why, _ = gpus()
    if not found:
        raise Missing(why)
    return found[0]


def driver() -> Iterator[Row]:
    """Memory, copies, events and a graph through the driver's own interface, and memory that CPU and GPU share."""
    yield copied(Device(_gpu()))
    yield copied(Device(_gpu()._replace(integrated=True)))


def pycuda() -> Iterator[Row]:
    if importlib.util.find_spec("pycuda") is None:
        raise Missing("pycuda is not installed")
    from runtime.backends.cuda.pycuda_device import PyCuda

    yield copied(PyCuda(_gpu()))


def copied(device: Device) -> Row:
    """Bytes to the GPU and back, as a graph and for time. Raises AssertionError where others come back."""
    with device:
        buffer, stream, count = device.buffer((COPIED // 4,), np.float32), device.stream(), COPIED // 4
        first, between, last = (device.event() for _ in range(3))
        wanted = np.arange(count, dtype=np.float32)
        buffer.host[:] = wanted

        def both_ways() -> None:
            stream.copy_in(buffer, count)
            stream.copy_out(buffer, count)

        graph = stream.capture(both_ways)
        for _ in range(3):
            graph.launch(stream)
            stream.synchronize()
        assert (buffer.host == wanted).all(), f"other bytes came back from {device.name}"
        stream.record(first)
        stream.copy_in(buffer, count)
        stream.record(between)
        stream.copy_out(buffer, count)
        stream.record(last)
        stream.synchronize()
        times = between.milliseconds_since(first), last.milliseconds_since(between)
        began = time.perf_counter()
        for _ in range(1000):
            stream.record(first)
        call = (time.perf_counter() - began) * 1e3
        stream.synchronize()
        free, total = device.free_memory()
        row: Row = {"what": device.name, "call_us": call, "free_gb": free / 1e9, "total_gb": total / 1e9}
        if buffer.shared:
            row["what"] += ", shared memory"
        else:
            row["in_ms"], row["out_ms"] = times
    device.close()
    return row


# Networks -------------------------------------------------------------------------------------------------------------


def onnxruntime_cuda() -> Iterator[Row]:
    """onnxruntime's CUDA provider, which needs no TensorRT."""
    _gpu()
    artifact = exported("b0", "fp32")
    try:
        on_gpu = open_backend(artifact, "onnxruntime_cuda")
    except UserError as error:
        raise Missing(str(error)) from None
    images = noise(artifact.preprocessing, max(BATCHES))
    expected = reference(artifact, images)
    for batch in BATCHES:
        yield {
            **_about(artifact, "onnxruntime CUDA", batch),
            **_timed(on_gpu.run, images[:batch]),
            **_like(expected, on_gpu.run, images, batch),
        }
    on_gpu.close()


def two_layers() -> Iterator[Row]:
    """The smallest engine: whether this TensorRT's kernels run on this GPU at all."""
    metadata = {**TWO_LAYERS, "variant": "two-layers"}
    path = artifact_path("two-layers", "fp32")
    write_whole(path, sealed(tiny_onnx(), "fp32", metadata)[0])
    yield from measured("two-layers", "fp32")


def network(variant: str, precision: str) -> Callable[[], Iterator[Row]]:
    return lambda: measured(variant, precision)


def int8_against_fp16() -> Iterator[Row]:
    """What `make engine` says of INT8 on this GPU, with the layers to blame."""
    site = open_site(_module())
    for line_ in compare_with_fp16(exported("b0", "int8"), site, BuildOptions("int8", Batch(1, 1, max(BATCHES)))):
        yield {"what": line_}


def _module() -> str:
    module = next((name for name in TENSORRT if installed(name)), None)
    if module is None:
        raise Missing("neither tensorrt nor tensorrt_rtx is installed")
    _gpu()
    return module


def measured(variant: str, precision: str) -> Iterator[Row]:
    """An engine and its peers, in turns."""
    module, artifact = _module(), exported(variant, precision)
    images = noise(artifact.preprocessing, max(BATCHES))
    expected, opened, site = reference(artifact, images), [], open_site(module)
    engine = engine_of(artifact, site, precision)
    options = BuildOptions(precision, Batch(1, 1, max(BATCHES)))
    if engine.current(options) is None:
        made = engine.build(options)
        yield {
            **_about(artifact, f"built by {site.library}", 0),
            "all_ms": made.seconds * 1e3,
            "peak_mb": made.peak_memory / 2**20,
        }
    try:
        ours = TensorRt(artifact, module, Engines(rebuild=False))
        opened.append(ours)
        runs: Dict[str, Callable[[np.ndarray], Any]] = {f"ours, {site.library}": ours.run, **peers(artifact)}
        for batch in BATCHES:
            spent: Dict[str, List[float]] = {name: [] for name in runs}
            stages: List[Any] = []
            for _ in range(WARM + ROUNDS):
                for name, call in runs.items():  # in turns, so that drift hits all alike
                    start = time.perf_counter()
                    if call == ours.run:
                        stages.append(ours.timed(images[:batch])[1])
                    else:
                        call(images[:batch])
                    spent[name].append((time.perf_counter() - start) * 1e3)
            for name, call in runs.items():
                row = {**_about(artifact, name, batch), "all_ms": float(np.median(spent[name][WARM:]))}
                if call == ours.run:
                    on_gpu = np.array([sum(each) for each in stages[WARM:]])
                    row["copy_in_ms"] = float(np.median([each.copy_in for each in stages[WARM:]]))
                    row["gpu_ms"] = float(np.median([each.compute for each in stages[WARM:]]))
                    row["overhead_ms"] = float(np.median(np.array(spent[name][WARM:]) - on_gpu)) / batch
                    row["runs"] = ours.description
                if not name.startswith("torch"):  # its network has random weights of its own
                    row.update(_like(expected, call, images, batch))
                yield row
    finally:
        for thing in opened:
            thing.close()


def reference(artifact: Artifact, images: np.ndarray) -> np.ndarray:
    """The first eight answers of the ONNX file, on the CPU."""
    backend = open_backend(artifact, "onnxruntime")
    expected = backend.run(images[:8])
    backend.close()
    return expected


def _about(artifact: Artifact, what: str, batch: int) -> Row:
    about = {"variant": artifact.variant, "precision": artifact.asked, "what": what, "batch": batch}
    return {**about, "random": artifact.random, "input": artifact.preprocessing.input}


def _timed(call: Callable[[np.ndarray], Any], images: np.ndarray) -> Row:
    spent = []
    for _ in range(WARM + ROUNDS):
        start = time.perf_counter()
        call(images)
        spent.append((time.perf_counter() - start) * 1e3)
    return {"all_ms": float(np.median(spent[WARM:]))}


def _like(expected: np.ndarray, call: Callable[[np.ndarray], Any], images: np.ndarray, batch: int) -> Row:
    got = np.concatenate([np.asarray(call(images[:8][i : i + batch])) for i in range(0, len(expected), batch)])
    return {"cosine": cosine(expected, got), "agreement": float((expected.argmax(1) == got.argmax(1)).mean())}


def exported(variant: str, precision: str) -> Artifact:
    """The artifact; made with random weights if there is none and this Python can export."""
    path = artifact_path(variant, precision)
    if not path.is_file():
        if precision == "int8" or importlib.util.find_spec("torch") is None:
            raise Missing(f"there is no {path}")
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


STEPS = (
    Step("driver", driver),
    Step("pycuda", pycuda),
    Step("onnxruntime-cuda", onnxruntime_cuda),
    Step("two-layers", two_layers),
    Step("b0-fp16", network("b0", "fp16")),
    Step("b0-int8", network("b0", "int8")),
    Step("b0-int8-fp16", int8_against_fp16),
    Step("b3-fp16", network("b3", "fp16")),
    Step("b4-fp16", network("b4", "fp16")),
    Step("b7-fp16", network("b7", "fp16")),
    Step("b3-int8", network("b3", "int8")),
    Step("b4-int8", network("b4", "int8")),
    Step("b0-fp32", network("b0", "fp32")),
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    names = ", ".join(step.name for step in STEPS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", metavar="A,B", help=f"of {names} (default: all, in this order)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keeps results there, and does not do again what it has"
    )
    parser.add_argument(
        "--seconds", type=float, default=560, metavar="S", help="starts no step after that (default 560)"
    )
    parser.add_argument("--one", metavar="STEP", help=argparse.SUPPRESS)  # in its own process: rows as lines of JSON
    given = parser.parse_args(argv)
    if given.one:
        return one(given.one)
    began, done = time.monotonic(), json.loads(given.json.read_text()) if given.json and given.json.is_file() else {}
    left: List[str] = []
    for step in STEPS:
        if given.steps and step.name not in given.steps.split(","):
            continue
        if step.name in done:
            print(f"{step.name}: done before", flush=True)
        elif time.monotonic() - began > given.seconds:
            left.append(f"{step.name}: no time left")
        else:
            rows, why = run(step.name)
            if why:
                left.append(f"{step.name}: {why}")
                print(f"{step.name}: {why}", file=sys.stderr, flush=True)
                continue
            done[step.name] = rows
            if given.json:
                write_whole(given.json, json.dumps(done, indent=1).encode())
    failed = [problem for rows in done.values() for row in rows for problem in problems(row)]
    print("\n".join(f"BELOW THE BAR  {problem}" for problem in failed) or "all bars met that were measured")
    print("".join(f"NOT MEASURED   {what}\n" for what in left), end="")
    return 1 if failed else 0


def one(name: str) -> int:
    step = next(each for each in STEPS if each.name == name)
    try:
        for row in step.rows():
            print(json.dumps(row), flush=True)
    except (Missing, UserError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 3
    return 0


def run(name: str) -> Tuple[List[Row], str]:
    """The rows of a step, printed as they come, and why they are not all."""
    rows: List[Row] = []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, __file__, "--one", name], stdout=-1, stderr=errors, text=True)
        ending = threading.Timer(LIMIT, process.kill)
        ending.start()
        assert process.stdout is not None
        for text in process.stdout:
            try:
                rows.append({**json.loads(text), "step": name})
            except (ValueError, TypeError):  # a library that prints
                continue
            print(line(rows[-1]), flush=True)
        status = process.wait()
        ending.cancel()
        errors.seek(0)
        said = errors.read().strip().splitlines() or [f"ended with status {status}, as after {LIMIT:.0f} s"]
    return rows, "" if status == 0 else f"{said[-1]} (status {status})"


def line(row: Row) -> str:
    numbers = {key: value for key, value in row.items() if isinstance(value, float)}
    figures = "  ".join(
        f"{key} {value:.5f}" if key == "cosine" else f"{key} {value:.3f}" for key, value in numbers.items()
    )
    about = [str(row[key]) for key in ("variant", "precision", "what") if key in row]
    about += [f"batch {row['batch']}"] if row.get("batch") else []
    about += ["uint8 input"] if row.get("input") == "uint8" else []
    about += ["random weights"] if row.get("random") else []
    return f"{row['step']:<17}{', '.join(about)}  {figures}".rstrip()


def problems(row: Row) -> List[str]:
    if not str(row["what"]).startswith("ours"):
        return []
    name, found = f"{row['variant']} {row['precision']} batch {row['batch']}", []
    if row["cosine"] < GATE[row["precision"]]:
        found.append(f"{name}: cosine {row['cosine']:.5f}, at least {GATE[row['precision']]}")
    bar = TARGETS_MS.get((row["variant"], row["batch"]))
    if bar and row["precision"] != "fp32" and row["gpu_ms"] > bar:
        found.append(f"{name}: {row['gpu_ms']:.3f} ms, at most {bar} (an A100's)")
    if row["overhead_ms"] > OVERHEAD_MS:
        found.append(f"{name}: the runtime adds {row['overhead_ms']:.3f} ms an image, at most {OVERHEAD_MS}")
    return found


if __name__ == "__main__":
    sys.exit(main())
