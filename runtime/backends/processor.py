"""The processor: cores that this process may use, how runs share them, and whether its INT8 kernels can be trusted."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Optional, Set, Tuple

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact

# What x86 processors call the instructions that add products of bytes in 32 bits.
_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}
SATURATES = (
    "This processor has no VNNI: its INT8 kernels add pairs of products in 16 bits and cut off what does not fit, which costs "
    "accuracy"
)
# docs/int8_compared.md, "On the processor": lite0, v2-b0 and b0 on an x86 processor with VNNI.
SLOW_INT8 = "onnxruntime's own INT8 kernels took 2.1 to 3.9 times as long as FP32 where this was measured"


def processors() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def saturates() -> bool:
    """Whether this processor's INT8 kernels, in onnxruntime and OpenVINO alike, lose what does not fit into 16 bits: x86 without
    VNNI. Intel, "Lower numerical precision deep learning inference and training", 2018. Unknown processors count as good.
    """
    flags = vector_flags()
    return platform.machine().lower() in ("x86_64", "amd64") and bool(flags) and not _WIDE_SUMS & flags


def vector_flags() -> Set[str]:
    """What an x86 processor can do, in Linux's words; none where that isn't told."""
    return set(_told("flags").split())


def model_name() -> str:
    """Of the processor, as far as it is told."""
    return _told("model name") or platform.processor() or platform.machine()


def _told(what: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(what)), "")
    except OSError:
        return ""


def share_cores(threads: Optional[int], lanes: int) -> Tuple[Optional[int], int]:
    """(threads of one run, lanes) for a backend on the CPU: no more of both together than there are cores."""
    if lanes == 1:
        return threads, 1
    if threads is None:
        return max(1, processors() // lanes), lanes
    return threads, max(1, min(lanes, processors() // threads))


def cpu_batch(artifact: Artifact) -> int:
    """Images a run: lite0 gains 1.25 times from 8 and nothing from more; of large ones fewer, for their memory."""
    side = artifact.preprocessing.resolution
    return max(1, min(8, 8 * 256 * 256 // (side * side)))
