"""How this package is called here: `runtime` in a checkout or a bundle, `efficientnet_edge` where pip installed it;
and what to say where a package is missing."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Dict, List, Mapping, Optional, Type, Union

PACKAGE = __name__.rpartition(".")[0]
SCRIPT = "efficientnet-edge"
CHECKOUT = PACKAGE == "runtime"
ROOT = Path(__file__).resolve().parents[1]


def module(name: str) -> List[str]:
    """The beginning of a command line that runs the module `name` of this package, as "measure.cold", in a new process."""
    return [sys.executable, "-m", f"{PACKAGE}.{name}"]


def environment(over: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The environment for such a process: this very package is found there, whatever the current directory."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **(over or {}), "PYTHONPATH": os.pathsep.join(paths)}


def typed(name: str) -> str:
    """What a user types to run command `name`, as "engine", here."""
    return f"python -m {PACKAGE}.{name}" if CHECKOUT else f"{SCRIPT} {name}"


# What pip calls the packages that commands need, where it is another name than import's.
_PACKAGES = {"PIL": "Pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "cv2": "opencv-python-headless"}
_NEEDED = {"numpy", "onnxruntime", "torch", "onnx", "onnxsim", "safetensors", "matplotlib", "kornia", *_PACKAGES}


_OF_ENGINES = re.compile(r"'make [^']*'|\b(WORKSPACE|BATCH|GPU|OPT_LEVEL|DLA|BACKEND|PRECISION)=([\w,]+)")


def without_make(text: str, root: Path = ROOT) -> str:
    """`text` as it helps where there is no make, as in a bundle: variables of make engine are options there (WORKSPACE=256M is
    --workspace 256M), and what else make does is done where the network was exported. Unchanged beside a Makefile."""
    if (root / "Makefile").is_file():
        return text
    text = _OF_ENGINES.sub(
        lambda found: f"--{found[1].lower().replace('_', '-')} {found[2]}" if found[1] else found[0], text
    )
    elsewhere = " There is no make here: do that where the network was exported, and copy what it writes."
    return text + elsewhere if "'make " in text else text


def install(*packages: str) -> str:
    """The command that installs `packages` for the Python that runs: another one's pip would not help."""
    return f"{_shown(sys.executable)} -m pip install {' '.join(map(shlex.quote, packages))}"


def missing(error: ModuleNotFoundError, root: Path = ROOT) -> Optional[str]:
    """What to say if `error` is about a package that this project needs, else None: it is a bug of ours. Where `root`, the
    checkout, has an environment and another Python runs, that is the mistake."""
    name = (error.name or "").split(".")[0]
    if name not in _NEEDED:
        return None
    said, environment = f"{_PACKAGES.get(name, name)} is not installed for {sys.executable}", root / ".venv"
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file() or Path(sys.prefix) == environment:
        return f"{said}: {install(_PACKAGES.get(name, name))}."
    words = getattr(sys, "orig_argv", [])  # since Python 3.10
    rest = words[words.index("-m") :] if "-m" in words else []
    return f"{said}. The project's own Python has it: {' '.join([_shown(python), *map(shlex.quote, rest)])}"


def say_what_is_missing(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    """As `sys.excepthook` while `python -m` imports a command: a missing package is a sentence and status 2."""
    said = missing(error) if isinstance(error, ModuleNotFoundError) else None
    if said is None:
        return sys.__excepthook__(kind, error, trace)
    print(f"error: {said}", file=sys.stderr)
    raise SystemExit(2)


def _shown(path: Union[str, Path]) -> str:
    """`path` from the current folder on where that is shorter, as a shell takes it."""
    try:
        return shlex.quote(min(os.path.relpath(path), str(path), key=len))
    except ValueError:  # another drive
        return shlex.quote(str(path))
