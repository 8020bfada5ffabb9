"""Which backend runs a file fastest on this processor, where that is not obvious: tried once, and remembered beside the file."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional

import numpy as np

from ..artifacts.artifact import read_artifact
from ..digest import sha256_of_facts
from ..errors import UserError
from ..whole_file import write_whole
from .backend import Backend
from .processor import model_name, processors, vector_flags

if TYPE_CHECKING:
    from ..artifacts.artifact import Artifact

FP32 = "fp32"  # the FP32 file beside the one that is tried, in onnxruntime
CLEAR = 1.1  # times as long, from which a difference counts: shorter ones are the machine's noise
_RUNS, _SECONDS = 10, 0.05  # of each candidate, at most
_LIBRARIES = ("onnxruntime", "openvino", "numpy")

Openers = Mapping[str, Callable[[], Backend]]


def obvious(precision: str, openvino: bool) -> bool:
    """Whether no trial is needed: FP32 is onnxruntime's; OpenVINO's INT8 took 0.6 to 0.75 of FP32's time wherever the processor
    multiplies bytes in 512-bit vectors or tiles (docs/int8_compared.md); INT8 with FP16 is not for processors."""
    if precision == "int8":
        return openvino and bool(vector_flags() & {"avx512_vnni", "amx_int8"})
    return precision != "fp16"


def fp32_beside(artifact: Artifact) -> Optional[Artifact]:
    """The FP32 artifact beside `artifact`, if there is one; another network's would have kept `artifact` from being read."""
    with contextlib.suppress(UserError):
        return read_artifact(artifact.path.with_name(f"{artifact.variant}.fp32.onnx"))
    return None


def tried(artifact: Artifact, openers: Openers, threads: Optional[int]) -> Dict[str, float]:
    """Milliseconds for one image by each of `openers` that works; measured now, or before with the same files, libraries,
    processor and threads."""
    file = artifact.path.with_suffix(".trial.json")
    key = sha256_of_facts([artifact.metadata.get("sha256"), sorted(openers), threads, _site()])
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["key"] == key:
            return {str(name): float(ms) for name, ms in known["milliseconds"].items()}
    found = {}
    for name, opener in openers.items():
        with contextlib.suppress(Exception):  # half-installed libraries raise anything: whoever opens it hears of it
            found[name] = _milliseconds(opener(), artifact)
    if _busy():
        return found
    with contextlib.suppress(UserError):  # a folder that can't be written: tried again next time
        write_whole(file, (json.dumps({"key": key, "milliseconds": found, **_site()}, indent=1) + "\n").encode())
    return found


def _milliseconds(backend: Backend, artifact: Artifact) -> float:
    """The fastest of a few runs, after two that don't count."""
    try:
        image = np.zeros_like(artifact.preprocessing.empty(1))
        times: List[float] = []
        for _ in range(2):
            backend.run(image)
        end = time.perf_counter() + _SECONDS
        while not times or (len(times) < _RUNS and time.perf_counter() < end):
            began = time.perf_counter()
            backend.run(image)
            times.append((time.perf_counter() - began) * 1e3)
        return min(times)
    finally:
        backend.close()


def _busy() -> bool:
    """Whether other programs want the cores too: then the figures are not worth remembering."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > processors()


def _site() -> Dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"processor": model_name(), "cores": str(processors())}
    for library in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
