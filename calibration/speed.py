"""Whether INT8 is any faster on this machine's CPU: measured beside FP32, in turns, in one run.

onnxruntime's own kernels are slow on int8 activations without Q/DQ on both sides; OpenVINO runs TensorRT's placement
as it is. So the INT8 graph is timed on both, where OpenVINO is installed, and the better one counts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from runtime.measure.latency import settled

WORTH = 1.3  # times faster than FP32; below, the loss of accuracy buys nothing
_TURNS, _WARM, _RUNS, _QUANTILE = 8, 3, 12, 0.1
Run = Callable[[np.ndarray], object]


@dataclass(frozen=True)
class Speed:
    engine: str
    milliseconds: float  # one picture, the quickest tenth of the runs
    gain: float  # times faster than FP32 in onnxruntime


def measure_speed(fp32: onnx.ModelProto, int8: onnx.ModelProto, side: int, threads: int = 0) -> list[Speed]:
    """Latency of one picture [1, 3, side, side]: FP32 first, then INT8 on each engine that there is."""
    runs: dict[str, Run] = {
        "FP32, onnxruntime": _onnxruntime(fp32, threads),
        "INT8, onnxruntime": _onnxruntime(int8, threads),
    }
    if importlib.util.find_spec("openvino"):
        runs["INT8, OpenVINO"] = _openvino(int8, side, threads)
    picture = np.random.default_rng(0).normal(0, 1, (1, 3, side, side)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_TURNS):
        for name, infer in runs.items():
            settled()  # the other's threads would go on spinning into this one's time
            for i in range(_WARM + _RUNS):
                began = time.perf_counter()
                infer(picture)
                if i >= _WARM:
                    times[name].append(time.perf_counter() - began)
    # Not the median: what another program takes from a busy machine, engines with more threads lose more of.
    quick = {name: 1e3 * float(np.quantile(values, _QUANTILE)) for name, values in times.items()}
    first = quick["FP32, onnxruntime"]
    return [Speed(name, value, first / value) for name, value in quick.items()]


def verdict(speeds: list[Speed]) -> str:
    """One sentence on whether INT8 is worth it here."""
    best = max(speeds[1:], key=lambda speed: speed.gain)
    if best.gain < WORTH:
        text = f"not worth it on this CPU: at best {best.gain:.2f} times as fast as FP32 ({best.engine})"
        return text if len(speeds) > 2 else f"{text}; with OpenVINO (pip install openvino) it may be"
    return f"{best.gain:.2f} times as fast as FP32 on this CPU ({best.engine})"


def _onnxruntime(model: onnx.ModelProto, threads: int) -> Run:
    options = onnxruntime.SessionOptions()  # as the runtime has them, not as calibration does
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs, not within
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda picture: session.run(None, {name: picture})


def _openvino(model: onnx.ModelProto, side: int, threads: int) -> Run:
    import io

    import openvino

    core = openvino.Core()
    network = core.read_model(io.BytesIO(model.SerializeToString()))
    network.reshape([1, 3, side, side])
    options: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}  # the runtime's
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    request = core.compile_model(network, "CPU", options).create_infer_request()
    return lambda picture: request.infer([picture])
