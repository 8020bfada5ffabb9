"""How much memory there is, and how to keep what a step gives back for the next one."""

from __future__ import annotations

import contextlib
import ctypes

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt, <malloc.h>


def free_memory() -> int:
    """Bytes; 4 GB where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 << 30


def keep_freed_memory() -> None:
    """Makes glibc keep large blocks that torch frees: by default each goes back to the kernel, and the next one is
    zeroed page by page. Lite0, batch 32, CPU ms an image: training 275 -> 158, features 109 -> 36. Elsewhere nothing."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library of None
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
