"""Opens the backend that executes an artifact: one file or folder here for each, whose library is imported when it is opened."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

from ..errors import UserError
from .backend import ANY_ENGINE, BACKENDS, TENSORRT, Backend, Engines, Say, to_stderr
from .processor import SATURATES, saturates

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact


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

    found = gpus().found  # the driver itself: TensorRT crashes in places where there is no GPU
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
