"""The CUDA driver's own C interface, through ctypes: which GPUs there are, and the calls that using one takes.

Every machine with an NVIDIA GPU has this library, and of one generation with its driver: there is nothing to install, to
compile or to match. It is also asked before TensorRT is imported, some versions of which crash where there is no GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
from typing import Any, List, NamedTuple, Optional, Tuple

from .errors import NO_GPU, CudaError, OutOfDeviceMemory, failure

# cuda.h, CUdevice_attribute
_INTEGRATED, _CAN_MAP_HOST_MEMORY, _MAJOR, _MINOR = 18, 19, 75, 76


class Gpu(NamedTuple):
    """A GPU as the driver describes it. memory: in bytes; driver: the newest CUDA it serves, 12020 for 12.2; integrated: it
    shares the CPU's memory and can work on what lies there."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a GPU
    name: str
    capability: Tuple[int, int]
    memory: int
    driver: int
    integrated: bool = False

    @property
    def sm(self) -> str:
        """The compute capability as compilers write it: "sm_89"."""
        return f"sm_{self.capability[0]}{self.capability[1]}"

    @property
    def slug(self) -> str:
        """A name for files, of a-z, 0-9 and '-': "rtx-4090-sm89", "orin-sm87"."""
        words = re.findall("[a-z0-9]+", self.name.lower())
        told = [word for word in words if word not in ("nvidia", "geforce", "tesla", "quadro", "gpu")]
        return "-".join([*(told or ["gpu"]), self.sm.replace("_", "")])


class Gpus(NamedTuple):
    """What the driver answers. why: one sentence where there is no GPU, else ""; broken: a driver is installed that should
    have given one, and refuses."""

    found: List[Gpu]
    why: str = ""
    broken: bool = False


def gpus() -> Gpus:
    """The GPUs this process may use. Never raises.

    The driver honours CUDA_VISIBLE_DEVICES, as it was when the process first asked.
    """
    driver, why = _library()
    if driver is None:
        return Gpus([], why, "not installed" not in why)
    try:
        call("cuInit", 0)
        count, version = ctypes.c_int(), ctypes.c_int()
        call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise failure("cuDeviceGetCount", NO_GPU)  # what cuInit says; no devices are the same to the user
        call("cuDriverGetVersion", ctypes.byref(version))
        return Gpus([_described(index, version.value) for index in range(count.value)])
    except (CudaError, OutOfDeviceMemory) as error:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = error.code == NO_GPU and visible is not None
        hint = f", and CUDA_VISIBLE_DEVICES is '{visible}'" if hidden else ""
        told = f" (CUDA error {error.code})" if error.code >= 0 else ""
        return Gpus([], f"CUDA can't be used: {error.meaning}{hint}{told}.", not hidden)


def _described(index: int, version: int) -> Gpu:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetName", name, len(name), device)
    call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    shared = bool(attribute(_INTEGRATED)) and bool(attribute(_CAN_MAP_HOST_MEMORY))
    text = name.value.decode("utf-8", "replace")
    return Gpu(index, text, (attribute(_MAJOR), attribute(_MINOR)), memory.value, version, shared)


def call(name: str, *arguments: Any) -> None:
    """Calls the driver's function `name`, as libcuda exports it. Raises OutOfDeviceMemory or CudaError for an error code."""
    library, why = _library()
    function = getattr(library, name, None)
    if function is None:
        raise CudaError(name, -1, why or f"this driver's library has no such function ({name}): update the driver")
    code = function(*arguments)
    if code:
        raise failure(name, code)


def made(name: str, *arguments: Any) -> int:
    """The handle or address that such a function hands back through its first argument."""
    handle = ctypes.c_void_p()
    call(name, ctypes.byref(handle), *arguments)
    return handle.value or 0


# Without these ctypes would cut handles and addresses to 32 bits. tests/data/cuda_driver.tsv has NVIDIA's declarations.
_P, _SIZE, _INT, _UINT, _ULL = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint, ctypes.c_ulonglong
FUNCTIONS = {
    "cuInit": (_UINT,),
    "cuDriverGetVersion": (_P,),
    "cuDeviceGetCount": (_P,),
    "cuDeviceGet": (_P, _INT),
    "cuDeviceGetName": (_P, _INT, _INT),
    "cuDeviceGetAttribute": (_P, _UINT, _INT),
    "cuDeviceTotalMem_v2": (_P, _INT),
    "cuDevicePrimaryCtxRetain": (_P, _INT),
    "cuCtxPushCurrent_v2": (_P,),
    "cuCtxPopCurrent_v2": (_P,),
    "cuMemGetInfo_v2": (_P, _P),
    "cuMemAlloc_v2": (_P, _SIZE),
    "cuMemFree_v2": (_P,),
    "cuMemHostAlloc": (_P, _SIZE, _UINT),
    "cuMemHostGetDevicePointer_v2": (_P, _P, _UINT),
    "cuMemFreeHost": (_P,),
    "cuMemcpyHtoDAsync_v2": (_P, _P, _SIZE, _P),
    "cuMemcpyDtoHAsync_v2": (_P, _P, _SIZE, _P),
    "cuStreamCreate": (_P, _UINT),
    "cuStreamDestroy_v2": (_P,),
    "cuStreamSynchronize": (_P,),
    "cuStreamBeginCapture_v2": (_P, _UINT),
    "cuStreamEndCapture": (_P, _P),
    "cuEventCreate": (_P, _UINT),
    "cuEventDestroy_v2": (_P,),
    "cuEventRecord": (_P, _P),
    "cuEventElapsedTime": (_P, _P, _P),
    "cuGraphInstantiateWithFlags": (_P, _P, _ULL),  # CUDA 11.4; cuGraphInstantiate has changed its arguments since
    "cuGraphDestroy": (_P,),
    "cuGraphExecDestroy": (_P,),
    "cuGraphLaunch": (_P, _P),
}


@functools.lru_cache(maxsize=None)
def _library() -> Tuple[Optional[Any], str]:
    """The driver's library, or why there is none."""
    refused = ""
    for name in ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so"):
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            if "No such file" not in str(error) and "Could not find" not in str(error):
                refused = refused or str(error)
            continue
        for function, arguments in FUNCTIONS.items():
            with contextlib.suppress(AttributeError):  # an old driver's; call() says so where it is needed
                getattr(library, function).argtypes = arguments
        return library, ""
    if refused:
        return None, f"The NVIDIA driver's library can't be loaded ({refused}): install the driver again."
    return None, "The NVIDIA driver is not installed: there is no libcuda.so.1 (nvcuda.dll on Windows)."
