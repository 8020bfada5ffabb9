"""Whether INT8 is any faster on this machine's CPU: measured beside FP32, in turns, in one run.

onnxruntime's own kernels are slow on int8 activations without Q/DQ on both sides; OpenVINO runs TensorRT's placement
as it is. So the INT8 graph is timed on both, where OpenVINO is installed, and the better one counts.

Each engine has a process of its own, as it will have where it is deployed: in one process the threads that one engine
keeps waiting cost the other up to half of its speed (docs/int8.md).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from runtime.backends.processor import saturates

LOST = 1.0  # points of the same-class rate that an engine's arithmetic may cost
WORTH = 1.3  # times faster than FP32; below, the loss of accuracy buys nothing
_TURNS, _WARM, _RUNS, _QUANTILE = 8, 3, 12, 0.1
_SETTLING = 0.06  # s; onnxruntime's threads spin for 25 to 50 ms after a run
Run = Callable[[np.ndarray], object]


@dataclass(frozen=True)
class Speed:
    engine: str
    milliseconds: float  # one image, the quickest tenth of the runs
    gain: float  # times faster than FP32 in onnxruntime
    lost: float = (
        0.0  # points of the same-class rate that the engine's arithmetic costs, beside the file's; 0 where not measured
    )


def measure_speed(fp32: onnx.ModelProto, int8: onnx.ModelProto, side: int, threads: int = 0) -> list[Speed]:
    """Latency of one image [1, 3, side, side]: FP32 first, then INT8 on each engine that there is."""
    subjects = [("FP32, onnxruntime", fp32, "onnxruntime"), ("INT8, onnxruntime", int8, "onnxruntime")]
    if importlib.util.find_spec("openvino"):
        subjects.append(("INT8, OpenVINO", int8, "openvino"))
    times: dict[str, list[float]] = {name: [] for name, _, _ in subjects}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running: dict[str, _Process] = {}
        for name, model, engine in subjects:
            file = folder / f"{len(running)}.onnx"
            onnx.save(model, file)
            running[name] = stack.enter_context(_Process(engine, file, side, threads))
        for _ in range(_TURNS):
            for name, process in running.items():
                times[name] += process.block()
                time.sleep(_SETTLING)
    # Not the median: what another program takes from a busy machine, engines with more threads lose more of.
    quick = {name: 1e3 * float(np.quantile(values, _QUANTILE)) for name, values in times.items()}
    first = quick["FP32, onnxruntime"]
    return [Speed(name, value, first / value) for name, value in quick.items()]


def openvino_logits(int8: onnx.ModelProto, batches: Iterable[np.ndarray], side: int) -> np.ndarray | None:
    """What OpenVINO's integer kernels make of batches [n, 3, side, side] on this processor; None without OpenVINO."""
    if not importlib.util.find_spec("openvino"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        onnx.save(int8, file)
        infer = _openvino(file, side, 0)
        rows = [np.array(next(iter(infer(image[None]).values()))) for batch in batches for image in batch]  # type: ignore[attr-defined]
    return np.concatenate(rows)


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
        return text if len(speeds) > 2 else f"{text}; with OpenVINO (pip install openvino) it may be"
    return f"{best.gain:.2f} times as fast as FP32 on this CPU ({best.engine})"


class _Process:
    """One engine in a process of its own, which runs a block of passes when it is told to."""

    def __init__(self, engine: str, file: Path, side: int, threads: int) -> None:
        command = [sys.executable, "-m", "calibration.report.speed", engine, str(file), str(side), str(threads)]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            start_new_session=True,  # Ctrl-C is the parent's, which ends this
        )

    def block(self) -> list[float]:
        """Seconds of each pass but the first few."""
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that times an engine ended with status {self._child.wait()}")
        return [float(value) for value in json.loads(answer)]

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()


def main() -> None:
    """The child: a block of passes for each line of standard input, its times as a line of JSON."""
    engine, file, side, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    infer = _openvino(file, side, threads) if engine == "openvino" else _onnxruntime(file, threads)
    image = np.random.default_rng(0).normal(0, 1, (1, 3, side, side)).astype(np.float32)
    for _ in sys.stdin:
        spent = []
        for _ in range(_WARM + _RUNS):
            began = time.perf_counter()
            infer(image)
            spent.append(time.perf_counter() - began)
        print(json.dumps(spent[_WARM:]), flush=True)


def _onnxruntime(file: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()  # as the runtime has them, not as calibration does
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs, not within
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})


def _openvino(file: Path, side: int, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    network = core.read_model(file)
    network.reshape([1, 3, side, side])
    options: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}  # the runtime's
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    request = core.compile_model(network, "CPU", options).create_infer_request()
    return lambda image: request.infer([image])


if __name__ == "__main__":
    main()
