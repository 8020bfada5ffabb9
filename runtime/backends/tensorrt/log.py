"""What TensorRT says, kept: its errors belong into the sentence that says what failed."""

from __future__ import annotations

import collections
import re
import sys
from typing import Any, Deque

_KEPT = 20  # of TensorRT's last errors; the first of a failure names its cause, more repeat it


def log_of(trt: Any, verbose: bool = False) -> Any:
    """A logger for the module `trt`. `errors`: the last that it was told; `said()`: those in one line, then forgotten.

    `layers`: the message that lists the engine's layers, "" until there is one. `verbose`: prints all to stderr.

    An IErrorRecorder would be told the errors instead of the logger (seen with TensorRT-RTX 1.7.1), and crash the process
    where it goes before what it was set on: so there is none.
    """

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: Deque[str] = collections.deque(maxlen=_KEPT)
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif re.search("insufficient memory|out of memory", message, re.IGNORECASE):
                self.errors.append(message)  # a warning each time a kernel is passed over for want of memory
            elif "LayerType: " in message:
                self.layers = message
            if verbose:
                print(message, file=sys.stderr)

        def said(self) -> str:
            text = " ".join(" ".join(dict.fromkeys(self.errors)).split())
            self.errors.clear()
            return text or "nothing"

    return Log()
