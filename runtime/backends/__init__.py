"""What executes an artifact. A backend is a file or folder here with one class; its library is imported when it is opened."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional, Protocol, Tuple

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact


class Backend(Protocol):
    """An artifact loaded and ready to run."""

    name: str
    lanes: int  # runs at once, from as many threads, that it was opened for
    batch: int  # pictures a run from which more gain nothing, as far as its memory goes

    @property
    def description(self) -> str:
        """Library, its version and where it runs, for reports."""
        ...

    def run(self, images: np.ndarray) -> np.ndarray:
        """A batch as the artifact's preprocessing makes it (float32 [N, 3, resolution, resolution], or uint8 [N, resolution,
        resolution, 3]) -> the first output, float32: logits [N, classes], or what another head gives."""
        ...

    def run_all(self, images: np.ndarray) -> Tuple[np.ndarray, ...]:
        """The same -> each of the artifact's outputs, in its order, float32."""
        ...

    def close(self) -> None:
        """Frees what the backend holds; it can't be run afterwards."""
        ...


class Engines(NamedTuple):
    """How TensorRT's engines are dealt with."""

    path: Optional[Path] = None  # just this one; None: the one of the artifact and the GPU
    rebuild: bool = True  # one that doesn't fit is built anew
    trust: bool = False  # one without a manifest is loaded


ANY_ENGINE = Engines()
TENSORRT = ("tensorrt", "tensorrt_rtx")
BACKENDS = (*TENSORRT, "onnxruntime", "onnxruntime_cuda", "openvino")
# What x86 processors call the instructions that add products of bytes in 32 bits.
_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}
SATURATES = (
    "This processor has no VNNI: its INT8 kernels add pairs of products in 16 bits and cut off what does not fit, which costs "
    "accuracy (v2-b0: 94.2 to 89.4 % top-1)"
)
Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def open_backend(
    artifact: Artifact,
    name: str = "auto",
    threads: Optional[int] = None,
    engines: Engines = ANY_ENGINE,
    say: Say = to_stderr,
    lanes: int = 1,
) -> Backend:
    """Loads `artifact` into the backend `name`. "auto" takes the best that works here: an engine that was built for this
    GPU; onnxruntime on a GPU if it really runs there; OpenVINO for INT8 where the processor adds in 32 bits, since
    onnxruntime's own kernels are slower on those files than on FP32; onnxruntime on the CPU. Where there is a GPU, or INT8 is
    better left alone, `say` is told which it is and why.

    `threads`: of the CPU, for one run; None leaves it to the backend. `lanes`: runs that are to go on at once; on the CPU the
    cores are divided among them, a GPU has one, since more cost its memory. Raises UserError if the backend is not installed
    or refuses the artifact.
    """
    if name not in ("auto", *BACKENDS):
        raise UserError(f"There is no backend '{name}': choose auto or {', '.join(BACKENDS)}.")
    if name in TENSORRT or (name == "auto" and engines.path is not None):
        return _tensorrt(artifact, name if name != "auto" else _module_of(engines.path), engines, say)
    if name == "auto":
        found = _on_gpu(artifact, threads, engines, say)
        if found is not None:
            return found
        integer = artifact.precision == "int8" and importlib.util.find_spec("openvino") is not None
        name = "openvino" if integer and not saturates() else "onnxruntime"
        if artifact.precision.startswith("int8") and saturates():
            say(f"{SATURATES}. So the file is computed in float, as it is written: FP32 is quicker here.")
    elif name == "openvino" and artifact.precision.startswith("int8") and saturates():
        say(f"{SATURATES}. Take FP32 or FP16 here, or another processor.")
    if name == "openvino":
        from .open_vino import OpenVino

        return OpenVino(artifact, threads, lanes)
    from .onnx_runtime import OnnxRuntime

    return OnnxRuntime(
        artifact, threads, "CUDAExecutionProvider" if name == "onnxruntime_cuda" else "CPUExecutionProvider", lanes
    )


def processors() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def saturates() -> bool:
    """Whether this processor's INT8 kernels, in onnxruntime and OpenVINO alike, lose what does not fit into 16 bits: x86 without
    VNNI. Intel, "Lower numerical precision deep learning inference and training", 2018. Unknown processors count as good.
    """
    flags = _cpu_flags()
    return platform.machine().lower() in ("x86_64", "amd64") and bool(flags) and not _WIDE_SUMS & set(flags)


def _cpu_flags() -> List[str]:
    """What an x86 processor can do, in Linux's words; [] where that isn't told."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next((line.split(":", 1)[1] for line in file if line.startswith("flags")), "").split()
    except OSError:
        return []


def share_cores(threads: Optional[int], lanes: int) -> Tuple[Optional[int], int]:
    """(threads of one run, lanes) for a backend on the CPU: no more of both together than there are cores."""
    if lanes == 1:
        return threads, 1
    if threads is None:
        return max(1, processors() // lanes), lanes
    return threads, max(1, min(lanes, processors() // threads))


def cpu_batch(artifact: Artifact) -> int:
    """Pictures a run: lite0 gains 1.25 times from 8 and nothing from more; of large ones fewer, for their memory."""
    side = artifact.preprocessing.resolution
    return max(1, min(8, 8 * 256 * 256 // (side * side)))


def in_pieces(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, fixed: Optional[int]) -> np.ndarray:
    """`run` on a graph that takes `fixed` pictures and no other number (None: any): as often as it takes, the last time
    filled up with zeros."""
    if fixed is None or len(images) == fixed:
        return run(images)
    answers = []
    for start in range(0, max(len(images), 1), fixed):
        piece = images[start : start + fixed]
        if len(piece) < fixed:
            filled = np.zeros((fixed, *images.shape[1:]), images.dtype)
            filled[: len(piece)] = piece
            piece = filled
        answers.append(run(piece))
    return np.concatenate(answers)[: len(images)]


def _tensorrt(artifact: Artifact, module: str, engines: Engines, say: Say) -> Backend:
    from .tensorrt.backend import TensorRt

    return TensorRt(artifact, module, engine=engines.path, rebuild=engines.rebuild, trust=engines.trust, say=say)


def _module_of(engine: Optional[Path]) -> str:
    """Which module built `engine`; without a manifest, by the name that engines of TensorRT-RTX have."""
    from .tensorrt.manifest import read_manifest

    assert engine is not None
    try:
        return read_manifest(engine).module
    except UserError:
        return "tensorrt_rtx" if ".rtx-sm" in engine.name else "tensorrt"


def _on_gpu(artifact: Artifact, threads: Optional[int], engines: Engines, say: Say) -> Optional[Backend]:
    """The best backend on a GPU. None if there is no GPU, or nothing that works on it, which `say` is then told."""
    from .cuda.driver import gpus
    from .tensorrt.generations import installed

    found, _ = gpus()  # the driver itself: TensorRT crashes in places where there is no GPU
    if not found:
        return None
    missed: List[str] = []
    for module in TENSORRT:
        if not installed(module):
            continue
        try:
            from .tensorrt.loader import existing_engine, open_site

            if existing_engine(artifact, open_site(module)) is None:
                missed.append(
                    f"no engine was built for it yet ('python -m runtime.engine --variant {artifact.variant}' does)"
                )
                continue
            backend = _tensorrt(artifact, module, engines, say)
            say(f"on {backend.description}")
            return backend
        except UserError as error:
            missed.append(str(error).rstrip("."))
    missed = missed or ["neither tensorrt nor tensorrt_rtx is installed"]
    try:
        from .onnx_runtime import OnnxRuntime

        backend = OnnxRuntime(artifact, threads, "CUDAExecutionProvider")
        say(f"on {backend.description}, {found[0].name}; not TensorRT: {'; '.join(missed)}")
        return backend
    except UserError:  # most often the CPU's build of onnxruntime
        say(f"on the CPU, although there is a GPU ({found[0].name}): {'; '.join(missed)}")
    return None
