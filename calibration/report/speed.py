"""Whether INT8 is any faster on this machine's CPU: `runtime.bench` times it beside FP32, in turns.

onnxruntime's own kernels are slow on int8 activations without Q/DQ on both sides; OpenVINO runs TensorRT's placement
as it is. So the INT8 graph is timed on both, where OpenVINO is installed, and the better one counts.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact, sealed
from runtime.backends.open_vino import OpenVino
from runtime.backends.processor import saturates
from runtime.invocation import install
from runtime.sweep.children import run_module
from runtime.whole_file import write_whole

LOST = 1.0  # points of top-1 agreement that an engine's arithmetic may cost
WORTH = 1.3  # times faster than FP32; below, the loss of accuracy buys nothing
_SECONDS = 3  # for each network on each engine
_ENGINES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Speed:
    engine: str
    milliseconds: float  # one image, the network alone, median
    gain: float  # times faster than FP32 in onnxruntime
    lost: float = (
        0.0  # points of top-1 agreement that the engine's arithmetic costs, beside the file's; 0 if unmeasured
    )


def measure_speed(fp32: onnx.ModelProto, int8: onnx.ModelProto, like: Artifact, threads: int = 0) -> list[Speed]:
    """Latency of one image: FP32 in onnxruntime first, then INT8 on each engine that there is. `like`: an artifact of the
    same network, whose metadata the models lack."""
    engines = ["onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    with tempfile.TemporaryDirectory() as folder:
        models = [_as_artifact(fp32, "fp32", like, folder), _as_artifact(int8, "int8", like, folder)]
        found = Path(folder) / "bench.json"
        options = ["--backend", ",".join(engines), "--seconds", _SECONDS, "--json", found]
        options += ["--threads", threads] if threads else []
        run_module("bench", "--models", ",".join(str(model.path) for model in models), *options)
        rows = json.loads(found.read_text())["rows"]
    times = {(row["precision"], row["backend_name"]): row["stages"]["compute"]["p50"] for row in rows}
    first = times["fp32", "onnxruntime"]
    measured = {"FP32, onnxruntime": first, **{f"INT8, {_ENGINES[name]}": times["int8", name] for name in engines}}
    return [Speed(name, value, first / value) for name, value in measured.items()]


def openvino_logits(int8: onnx.ModelProto, batches: Iterable[np.ndarray], like: Artifact) -> np.ndarray | None:
    """What OpenVINO's integer kernels make of batches [n, 3, side, side] on this processor; None without OpenVINO."""
    if not importlib.util.find_spec("openvino"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        backend = OpenVino(_as_artifact(int8, "int8", like, folder))
        try:
            return np.concatenate([backend.run(batch) for batch in batches])
        finally:
            backend.close()


def _as_artifact(model: onnx.ModelProto, precision: str, like: Artifact, folder: str) -> Artifact:
    """`model`, which takes normalised images, as an artifact in `folder`."""
    metadata = {key: value for key, value in like.metadata.items() if key != "input"}
    path = artifact_path(like.variant, precision, Path(folder))
    write_whole(path, sealed(model.SerializeToString(), precision, metadata)[0])
    return read_artifact(path)


def verdict(speeds: list[Speed]) -> str:
    """One sentence on whether INT8 is worth it here."""
    best = max(speeds[1:], key=lambda speed: speed.gain)
    if best.lost > LOST:
        why = ": this processor has no VNNI, and they add in 16 bits" if saturates() else ""
        return (
            f"not worth it on this CPU: {best.gain:.2f} times as fast as FP32 ({best.engine}), but its integer kernels keep "
            f"the class of {best.lost:.1f} % fewer images than the file does{why}"
        )
    if best.gain < WORTH:
        text = f"not worth it on this CPU: at best {best.gain:.2f} times as fast as FP32 ({best.engine})"
        return text if len(speeds) > 2 else f"{text}; with OpenVINO ({install('openvino')}) it may be"
    return f"{best.gain:.2f} times as fast as FP32 on this CPU ({best.engine})"
