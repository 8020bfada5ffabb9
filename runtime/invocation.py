"""How this package is called here: `runtime` in a checkout or a bundle, `efficientnet_edge` where pip installed it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Optional

PACKAGE = __name__.rpartition(".")[0]
SCRIPT = "efficientnet-edge"
CHECKOUT = PACKAGE == "runtime"


def module(name: str) -> List[str]:
    """The beginning of a command line that runs the module `name` of this package, as "measure.cold", in a new process."""
    return [sys.executable, "-m", f"{PACKAGE}.{name}"]


def environment(over: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The environment for such a process: this very package is found there, whatever the current directory."""
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **(over or {}), "PYTHONPATH": os.pathsep.join(paths)}


def typed(name: str) -> str:
    """What a user types to run command `name`, as "engine", here."""
    return f"python -m {PACKAGE}.{name}" if CHECKOUT else f"{SCRIPT} {name}"
