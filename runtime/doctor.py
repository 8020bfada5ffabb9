"""What works here, and what is missing for what; a bug report needs it: python -m runtime.doctor"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.util import find_spec
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from . import __version__
from .backends.processor import processors, saturates
from .command import run
from .invocation import CHECKOUT, SCRIPT, install, typed
from .measure.machine import machine


class Feature(NamedTuple):
    """Something that works once these modules can be imported."""

    what: str
    modules: Sequence[str]
    install: str  # what pip is told


FEATURES = (
    Feature("images on the CPU", ("onnxruntime",), "onnxruntime"),
    Feature("INT8 on x86 processors", ("openvino",), "openvino"),
    Feature("engines (TensorRT)", ("tensorrt",), ""),
    Feature("engines (TensorRT-RTX)", ("tensorrt_rtx",), "tensorrt-rtx"),
    Feature("cameras and videos", ("cv2",), "opencv-python-headless"),
    Feature("HEIC images", ("pillow_heif",), "pillow-heif"),
    Feature("the live page", ("aiohttp", "prometheus_client"), "aiohttp prometheus-client"),
    Feature("charts", ("matplotlib",), "matplotlib"),
    Feature("Parquet", ("pyarrow",), "pyarrow"),
    Feature("Triton's client", ("tritonclient",), "tritonclient[http,grpc]"),
    Feature("clusters (--ray)", ("ray",), "ray[data]"),
)


def found() -> Dict[str, Any]:
    """Versions, the machine, the GPU or why there is none, backends, and the features whose modules are missing."""
    here = machine()
    missing = {
        feature.what: [name for name in feature.modules if find_spec(name) is None]
        for feature in FEATURES
        if any(find_spec(name) is None for name in feature.modules)
    }
    return {
        "version": __version__,
        "python": f"{platform.python_version()} ({platform.machine()})",
        "os": here.get("os", platform.platform()),
        "processor": here.get("cpu", "unknown"),
        "cores": processors(),
        "int8_kernels": "they add in 16 bits, so INT8 loses accuracy" if saturates() else "they add in 32 bits",
        "jetson": here.get("jetson"),
        "gpus": here.get("gpus", []),
        "no_gpu_because": _no_gpu(),
        "libraries": here.get("libraries", {}),
        "missing": missing,
    }


def _no_gpu() -> str:
    from .backends.cuda.driver import gpus

    there, why = gpus()[:2]
    return "" if there else why or "there is no NVIDIA driver"


def lines(facts: Dict[str, Any]) -> List[str]:
    """The same for people."""
    gpus = [
        f"{gpu['name']}, sm_{gpu['capability'].replace('.', '')}, {gpu['memory_gb']} GB, driver {gpu['driver']}"
        for gpu in facts["gpus"]
    ]
    jetson = facts["jetson"] or {}
    rows = [
        ("version", f"{SCRIPT} {facts['version']}{', a checkout or bundle' if CHECKOUT else ''}"),
        ("python", facts["python"]),
        ("system", facts["os"]),
        ("processor", f"{facts['processor']}, {facts['cores']} cores; INT8 kernels: {facts['int8_kernels']}"),
        *([("jetson", ", ".join(f"{name} {value}" for name, value in jetson.items()))] if jetson else []),
        *[("gpu", gpu) for gpu in gpus],
        *([("gpu", f"none: {facts['no_gpu_because']}")] if not gpus else []),
        ("libraries", ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())),
    ]
    told = [f"{name:<10} {value}" for name, value in rows]
    for feature in FEATURES:
        missing = facts["missing"].get(feature.what)
        if not missing:
            told.append(f"{'works':<10} {feature.what}")
            continue
        remedy = install(*feature.install.split()) if feature.install else "it comes with JetPack or from NVIDIA"
        told.append(f"{'missing':<10} {feature.what}: {', '.join(missing)} ({remedy})")
    return told


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("doctor"),
        description="What works here, and what is missing for what: for you, and for a bug report.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(argv)
    facts = found()
    print(json.dumps(facts, indent=1) if options.json else "\n".join(lines(facts)))
    return 0


if __name__ == "__main__":
    run(main)
