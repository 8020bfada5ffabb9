"""The versions of TensorRT, a row for each generation: which module it is, and what its Python API can do.

Names were held against NVIDIA's bindings of 8.5.3, 10.3.0, 10.13.3, 10.16.1, 11.4.0 and TensorRT-RTX 1.7.1 (tests keep
them as a table). Enum numbers move between versions, so the code uses names only.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Mapping, NamedTuple, Tuple

from ...errors import UserError

MODULES = ("tensorrt", "tensorrt_rtx")
INSTALL = {
    "tensorrt": "On a Jetson it comes with JetPack (sudo apt install python3-libnvinfer); on a desktop: pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx (GeForce and RTX GPUs since Turing)",
}
# Which artifact a precision is built from, where the graph alone says what is computed how, and where flags do.
_TYPED = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-fp16"}
_FLAGGED = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}


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

    @property
    def sources(self) -> Mapping[str, str]:
        """Precision asked for -> precision of the artifact that it is built from."""
        return _TYPED if self.strongly_typed else _FLAGGED


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
    ),
    Generation("tensorrt", (10, 0), libraries=True, dla=True),
    Generation("tensorrt", (10, 8), libraries=True),  # NVIDIA's release notes: 10.7 was the last with DLA
    # Flags, calibrators and weak typing are gone. 11.4.1 has DLA again, for strongly typed networks on an AGX Orin: not
    # tried here, so not offered.
    Generation("tensorrt", (11, 0)),
    Generation("tensorrt_rtx", (1, 0), timing_cache=False, targets=True),
)


def generation(module: str, version: str) -> Generation:
    """The row for `version` ("10.3.0") of `module`. Raises UserError if it is older than the first."""
    number = tuple(int(part) for part in version.split(".")[:2])
    rows = [row for row in GENERATIONS if row.module == module and row.since <= number]
    if not rows:
        oldest = next(row for row in GENERATIONS if row.module == module)
        raise UserError(
            f"{module} {version} is too old: the first that this project runs on is {'.'.join(map(str, oldest.since))}."
        )
    return rows[-1]


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def load(module: str) -> Tuple[Any, Generation]:
    """Imports `module`, one of MODULES. Does not touch the GPU.

    Raises UserError if it isn't installed, can't be loaded or is too old.
    """
    if not installed(module):
        raise UserError(f"{module} is not installed. {INSTALL[module]}.")
    try:
        trt = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # a library it links to is missing
        reason = str(error).splitlines()[0]
        raise UserError(f"{module} can't be loaded ({reason}). {INSTALL[module]}.") from None
    return trt, generation(module, trt.__version__)
