"""The versions of TensorRT, a row for each generation: which module it is, and what its Python API can do.

Names were held against NVIDIA's bindings of 8.5.3, 10.3.0, 10.13.3, 10.16.1, 11.4.0 and TensorRT-RTX 1.7.1 (tests keep
them as a table). Enum numbers move between versions, so the code uses names only.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from typing import Any, NamedTuple, Tuple

from ...errors import UserError
from ...invocation import install

NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
INSTALL = {
    "tensorrt": "On a Jetson it comes with JetPack (sudo apt install python3-libnvinfer); on a desktop: "
    + install("tensorrt"),
    "tensorrt_rtx": f"{install('tensorrt-rtx')} (GeForce and RTX GPUs since Turing)",
}
JETSONS = ("sm_53", "sm_62", "sm_72", "sm_87", "sm_110")  # Nano, TX2, Xavier, Orin, Thor
_PARTS = (
    "__version__",
    "Builder",
    "OnnxParser",
    "Runtime",
    "ILogger",
)  # without these it is something else of that name


class Generation(NamedTuple):
    """What one range of versions can do."""

    module: str
    since: Tuple[int, int]  # up to the next row of the same module
    strongly_typed: bool = True  # precisions come from the graph alone; else from the builder flags FP16 and INT8
    explicit_batch: bool = False  # networks must be created with EXPLICIT_BATCH
    opt_level: bool = True  # builder_optimization_level
    progress: bool = True  # IProgressMonitor
    timing_cache: bool = True  # one that holds anything
    libraries: bool = False  # may take kernels from cuBLAS and cuDNN
    profiles: int = 1  # equal ones in an engine: before 10 no two contexts, so no two threads, may use one at a time
    dla: bool = False
    targets: bool = False  # builds for GPUs that are not there, and without one
    kernel_cache: bool = False  # compiles kernels at an engine's first runs, and can keep them
    depthwise_silu: bool = True  # has an INT8 kernel for a depthwise convolution with SiLU
    implicit_int8: bool = False  # may choose INT8 by itself, from ranges of tensors, without Q/DQ
    layer_log: bool = False  # its builder logs which layers it made; else a loaded engine tells, on a GPU

    def source(self, precision: str) -> str:
        """The precision of the artifact that an engine in the asked `precision` is built from."""
        return "int8-fp16" if precision == "int8" and self.strongly_typed else precision


GENERATIONS = (
    Generation(
        "tensorrt",
        (8, 5),
        strongly_typed=False,
        explicit_batch=True,
        opt_level=False,
        progress=False,
        libraries=True,
        profiles=2,
        dla=True,
        depthwise_silu=False,
        implicit_int8=True,
    ),
    Generation(
        "tensorrt",
        (8, 6),
        strongly_typed=False,
        explicit_batch=True,
        progress=False,
        libraries=True,
        profiles=2,
        dla=True,
        depthwise_silu=False,
        implicit_int8=True,
    ),
    Generation("tensorrt", (10, 0), libraries=True, dla=True, depthwise_silu=False, implicit_int8=True),
    # NVIDIA's release notes: 10.7 was the last with DLA.
    Generation("tensorrt", (10, 8), libraries=True, depthwise_silu=False, implicit_int8=True),
    # By the names of the kernels in its libraries; 8.5.3 has none (NVIDIA/TensorRT#3385), what lies between is unknown.
    Generation("tensorrt", (10, 15), libraries=True, implicit_int8=True),
    # Flags, calibrators and weak typing are gone. 11.4.1 has DLA again, for strongly typed networks on an AGX Orin: not
    # tried here, so not offered.
    Generation("tensorrt", (11, 0)),
    Generation("tensorrt_rtx", (1, 0), timing_cache=False, targets=True, kernel_cache=True, layer_log=True),
)


def generation(module: str, version: str) -> Generation:
    """The row for `version` ("10.3.0") of `module`. Raises UserError if it is older than the first."""
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    rows = [row for row in GENERATIONS if row.module == module and row.since <= number]
    if not rows:
        oldest = next(row for row in GENERATIONS if row.module == module)
        raise UserError(
            f"{module} {version} is too old: the first that this project runs on is {'.'.join(map(str, oldest.since))}."
        )
    return rows[-1]


def installed(module: str) -> bool:
    """Whether something of that name can be imported. A folder that is called so is not meant: people keep engines in one."""
    if module in sys.modules:
        return sys.modules[module] is not None and isinstance(getattr(sys.modules[module], "__path__", []), list)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent that can't be imported, or a module that says nothing of itself
        return False
    return found is not None and found.loader is not None and found.origin is not None


def load(module: str) -> Tuple[Any, Generation]:
    """Imports `module`, one of NAMES. Does not touch the GPU.

    Raises UserError if it isn't installed, can't be loaded, is too old or something else of that name.
    """
    if not installed(module):
        raise UserError(f"{module} is not installed. {INSTALL[module]}.")
    try:
        trt = importlib.import_module(module)
        missing = [name for name in _PARTS if not hasattr(trt, name)]
    except Exception as error:  # a library it links to is missing, is of another version, or built for another numpy
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{module} can't be loaded ({reason}). {INSTALL[module]}.") from None
    if missing:
        where = getattr(trt, "__file__", None) or "unknown"
        raise UserError(
            f"{where} is called {module} and is not NVIDIA's (it has no {missing[0]}): rename it, or start elsewhere, "
            f"or install {module} again. {INSTALL[module]}."
        )
    return trt, generation(module, str(trt.__version__))


def compute_capability(trt: Any, wanted: str) -> Any:
    """TensorRT-RTX's name for the architecture `wanted` ("sm_89"). Raises UserError if it does not build for that."""
    known = [name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
    name = wanted.replace("_", "").upper()
    if name not in known:
        there = ", ".join(f"sm_{number}" for number in sorted(int(name[2:]) for name in known))
        remedy = (
            "A Jetson builds its own engines, with JetPack's TensorRT" if wanted in JETSONS else "TensorRT does, there"
        )
        raise UserError(f"TensorRT-RTX {trt.__version__} can't build for {wanted}: it knows {there}. {remedy}.")
    return getattr(trt.ComputeCapability, name)
