"""How tests wait: for a condition, not for a time."""

from __future__ import annotations

import time
from typing import Any, Callable

LONG = 120.0  # seconds, until which a machine that is busy or stood still has done what a test waits for


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()
