"""The most memory that this process ever held."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Optional


def peak_bytes() -> Optional[int]:
    """Bytes of resident memory at the highest. None where the system does not tell.

    Linux's VmHWM, not getrusage: ru_maxrss survives exec, so a process started by a large one reports that one's peak
    (getrusage(2), and fs/exec.c's setmax_mm_hiwater_rss).
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
