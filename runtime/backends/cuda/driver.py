"""Which GPUs there are, asked of the CUDA driver itself through ctypes.

Asking needs no CUDA package, and it comes before TensorRT is: some of its libraries crash where there is no GPU.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from typing import Any, List, NamedTuple, Optional, Tuple

from .errors import MEANINGS

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, cuda.h


class Gpu(NamedTuple):
    """A GPU as the driver describes it. memory: in bytes; driver: the newest CUDA it serves, 12020 for 12.2."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a GPU
    name: str
    capability: Tuple[int, int]
    memory: int
    driver: int

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


def gpus() -> Tuple[List[Gpu], str]:
    """The GPUs this process may use, and where there are none one sentence why. Never raises for that.

    The driver honours CUDA_VISIBLE_DEVICES, as it was when the process first asked.
    """
    driver = _library()
    if driver is None:
        return [], "No NVIDIA driver is installed: its library (libcuda.so.1, nvcuda.dll) can't be loaded."
    code = driver.cuInit(0)
    count, version = ctypes.c_int(), ctypes.c_int()
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code == 0 and count.value == 0:
        code = 100  # what cuInit says; an empty list of devices is the same to the user
    if code:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = f", and CUDA_VISIBLE_DEVICES is '{visible}'" if code == 100 and visible is not None else ""
        return [], f"CUDA can't be used: {MEANINGS.get(code, 'the driver refuses')}{hint} (CUDA error {code})."
    driver.cuDriverGetVersion(ctypes.byref(version))
    return [_described(driver, index, version.value) for index in range(count.value)], ""


def code_of(text: str) -> int:
    """CUDA's number for one of its error texts, as cuGetErrorString words it, or -1."""
    driver, words = _library(), ctypes.c_char_p()
    for code in MEANINGS:
        if (
            driver is not None
            and driver.cuGetErrorString(code, ctypes.byref(words)) == 0
            and words.value == text.encode()
        ):
            return code
    return -1


def _described(driver: Any, index: int, version: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    text = name.value.decode("utf-8", "replace")
    return Gpu(index, text, (major.value, minor.value), memory.value, version)


def _library() -> Optional[Any]:
    for name in ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
