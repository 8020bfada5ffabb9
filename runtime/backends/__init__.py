"""Opens the backend that executes an artifact: one file or folder here for each, whose library is imported when it is opened."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import UserError
from ..invocation import install, typed
from .backend import ANY_ENGINE, BACKENDS, TENSORRT, Backend, Engines, Say, to_stderr
from .cuda.driver import Gpus, gpus
from .processor import SATURATES, SLOW_INT8, saturates
from .trial import CLEAR, FP32, fp32_beside, obvious, tried

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact


class Asked(NamedTuple):
    """What open_backend was asked for, beside the backend."""

    artifact: Artifact
    threads: Optional[int] = None
    engines: Engines = ANY_ENGINE
    say: Say = to_stderr
    lanes: int = 1
    shared: bool = False


def open_backend(
    artifact: Artifact,
    name: str = "auto",
    threads: Optional[int] = None,
    engines: Engines = ANY_ENGINE,
    say: Say = to_stderr,
    lanes: int = 1,
    shared: bool = False,
) -> Backend:
    """Loads `artifact` into the backend `name`. "auto" takes the best that works here, see `choice`; where there is a GPU, or
    INT8 is not the fastest, `say` is told which it is and why.

    `threads`: of the CPU, for one run; None leaves it to the backend. `lanes`: runs that are to go on at once; on the CPU the
    cores are divided among them, a GPU has one, since more cost its memory. `shared`: on the CPU, each run may take all cores
    instead, and lets go of those that it doesn't need at the moment: for a server, to which requests come one at a time or
    many at once, and which has other work to do. Raises UserError if the backend is not installed or refuses the artifact.
    """
    if name not in ("auto", *BACKENDS):
        raise UserError(f"There is no backend '{name}': choose auto or {', '.join(BACKENDS)}.")
    asked = Asked(artifact, threads, engines, say, lanes, shared)
    if name == "auto" and engines.path is not None:
        name = _module_of(engines)
    if name != "auto":
        if name == "openvino" and artifact.asked == "int8" and saturates():
            say(f"{SATURATES}. --backend auto computes the file in FP32.")
        return _OPENERS[name](asked)
    return _best(asked)


class Choice(NamedTuple):
    """What "auto" tries, best first. said: what the user is told if it ends on the CPU."""

    backends: Tuple[str, ...]
    said: Tuple[str, ...] = ()


def choice(precision: str, found: Gpus, installed: Sequence[str], saturates: bool, fp32: str = "") -> Choice:
    """An engine that was built for this GPU; onnxruntime on a GPU; OpenVINO for INT8 where the processor adds in 32 bits, since
    onnxruntime's own kernels are slower on those files than on FP32; onnxruntime on the CPU.

    `installed`: modules of TENSORRT and "openvino" that are there, whether they work or not. `saturates`: see processor.
    `fp32`: name of the FP32 file beside an INT8 one, "" where there is none, as in a bundle.
    """
    said = []
    if found.broken:
        said.append(f"on the CPU: {found.why}")
    if precision.startswith("int8") and saturates:
        faster = f": {fp32} is faster here" if fp32 else ""
        said.append(f"{SATURATES}. So the file is computed in FP32, as its Q/DQ nodes say{faster}.")
    elif precision.startswith("int8") and "openvino" not in installed and not found.found:
        said.append(f"{SLOW_INT8}: {install('openvino')}{f', or take {fp32}' if fp32 else ''}.")
    on_gpu = [*(module for module in TENSORRT if module in installed), "onnxruntime_cuda"] if found.found else []
    openvino = ["openvino"] if precision == "int8" and "openvino" in installed and not saturates else []
    return Choice((*on_gpu, *openvino, "onnxruntime"), tuple(said))


def _best(asked: Asked) -> Backend:
    from .tensorrt.generations import installed

    found = gpus()  # the driver itself: TensorRT crashes in places where there is no GPU
    there = [module for module in TENSORRT if installed(module)]
    there += ["openvino"] if importlib.util.find_spec("openvino") is not None else []
    fp32 = asked.artifact.path.with_name(f"{asked.artifact.variant}.fp32.onnx")
    backends, said = choice(asked.artifact.precision, found, there, saturates(), fp32.name if fp32.is_file() else "")
    if not found.found and not (saturates() and asked.artifact.asked == "int8"):
        backends, said = _on_processor(asked, Choice(backends, said), "openvino" in there)
    failed: Dict[str, str] = (
        {} if set(there) & set(TENSORRT) else {"tensorrt": "neither tensorrt nor tensorrt_rtx is installed"}
    )
    for name in backends:
        try:
            backend = _built_engine(asked, name) if name in TENSORRT else _OPENERS[name](asked)
        except Exception as error:  # half-installed libraries raise anything, and another backend may well work
            if name == backends[-1]:
                raise
            failed[name] = _reason(name, error)
            continue
        for sentence in _told(backend, name, found, failed, said):
            asked.say(sentence)
        return backend
    raise AssertionError("the last one is returned or raises")


def _on_processor(asked: Asked, choice: Choice, openvino: bool) -> Choice:
    """`choice`, or what a trial found to be fastest where that is not obvious. Says what is slower than it need be."""
    artifact = asked.artifact
    if obvious(artifact.precision, openvino):
        return choice
    alone = asked._replace(lanes=1, shared=False)
    names = ["onnxruntime", *(["openvino"] if openvino else [])]
    openers = {name: partial(_OPENERS[name], alone) for name in names}
    fp32 = fp32_beside(artifact)
    if fp32 is not None:
        openers[FP32] = partial(_onnxruntime, alone._replace(artifact=fp32))
    if len(openers) == 1:
        return choice
    took = tried(artifact, openers, asked.threads)
    order = sorted((name for name in names if name in took), key=took.__getitem__)
    if not order:
        return choice
    if took.get("onnxruntime", float("inf")) < CLEAR * took[order[0]]:
        order.sort(key=names.index)  # it starts faster
    best = order[0]  # what was measured is said in place of what others measured
    said = [sentence for sentence in choice.said if FP32 not in took or not sentence.startswith(SLOW_INT8)]
    title = "OpenVINO" if best == "openvino" else best
    if fp32 is not None and took[best] > CLEAR * took.get(FP32, float("inf")):
        remedy = f", or {install('openvino')}" if artifact.asked == "int8" and not openvino else ""
        said.append(
            f"in a trial on this processor {artifact.path.name} took {took[best]:.1f} ms an image in {title}, and "
            f"{fp32.path.name} {took[FP32]:.1f}: take --precision fp32{remedy}."
        )
    elif best == "openvino" and artifact.precision == "fp16":
        told = f"; onnxruntime took {took['onnxruntime']:.1f}" if "onnxruntime" in took else ""
        said.append(f"in OpenVINO, which took {took[best]:.1f} ms an image in a trial on this processor{told}.")
    return Choice((*order, *(name for name in choice.backends if name not in order)), tuple(said))


def _reason(name: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    return said.rstrip(".") if isinstance(error, UserError) else f"{name} failed ({type(error).__name__}: {said[:200]})"


def _told(backend: Backend, name: str, found: Gpus, failed: Dict[str, str], said: Sequence[str]) -> List[str]:
    """Which backend "auto" took, and why none that would be better; nothing where that goes without saying."""
    if name in TENSORRT:
        return [f"on {backend.description}"]
    without = "; ".join(failed[module] for module in TENSORRT if module in failed)
    if name == "onnxruntime_cuda":
        return [f"on {backend.description}, {found.found[0].name}; not TensorRT: {without}"]
    told = [f"on the CPU, although there is a GPU ({found.found[0].name}): {without}"] if found.found else []
    return [*told, *said, *(f"in {name}: {failed[better]}" for better in ("openvino",) if better in failed)]


def _built_engine(asked: Asked, module: str) -> Backend:
    """The engine that was built for this GPU. Raises UserError if there is none: "auto" does not spend minutes on building."""
    from .tensorrt.backend import TensorRt
    from .tensorrt.engine import engine_of
    from .tensorrt.site import open_site

    site, variant = open_site(module), asked.artifact.variant
    if not engine_of(asked.artifact, site).path.is_file():
        command = f"{typed('engine')} --variant {variant} --precision {asked.artifact.asked}"
        raise UserError(f"no engine was built for it yet ('{command}' does)")
    return TensorRt(asked.artifact, module, asked.engines, asked.say, site)


def _module_of(engines: Engines) -> str:
    """Which module built an engine; without a manifest, by the name that engines of TensorRT-RTX have."""
    from .tensorrt.manifest import read_manifest

    assert engines.path is not None
    try:
        return read_manifest(engines.path).module
    except UserError:
        return "tensorrt_rtx" if ".rtx-" in engines.path.name else "tensorrt"


def _tensorrt(module: str) -> Callable[[Asked], Backend]:
    def opener(asked: Asked) -> Backend:
        from .tensorrt.backend import TensorRt

        return TensorRt(asked.artifact, module, asked.engines, asked.say)

    return opener


def _onnxruntime(asked: Asked) -> Backend:
    from .onnx_runtime import OnnxRuntime

    return OnnxRuntime(asked.artifact, asked.threads, "CPUExecutionProvider", asked.lanes, asked.shared)


def _onnxruntime_cuda(asked: Asked) -> Backend:
    from .onnx_runtime import OnnxRuntime

    return OnnxRuntime(asked.artifact, asked.threads, "CUDAExecutionProvider", asked.lanes)


def _openvino(asked: Asked) -> Backend:
    from .open_vino import OpenVino

    # It gives each lane cores of its own, so of one lane a single run has them all.
    return OpenVino(asked.artifact, asked.threads, 1 if asked.shared else asked.lanes)


_OPENERS: Dict[str, Callable[[Asked], Backend]] = {
    **{module: _tensorrt(module) for module in TENSORRT},
    "onnxruntime": _onnxruntime,
    "onnxruntime_cuda": _onnxruntime_cuda,
    "openvino": _openvino,
}
