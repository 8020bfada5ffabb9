"""Runs `build` in a process of its own, shows how far it is, and puts into words how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from ...invocation import environment, module
from ...progress import Line
from .build import MEMORY_HINT, BuildError
from .layers import Cost, Layer
from .manifest import Manifest, Wanted, write_engine
from .network import Product
from .options import BuildOptions


class Told(NamedTuple):
    """What a build tells about an engine, beside its manifest."""

    layers: List[Layer]  # none where the log does not list them
    products: Dict[str, Product]  # by node

    @property
    def macs(self) -> Dict[str, int]:
        return {name: each.macs for name, each in self.products.items()}


def build_engine(
    engine: Path,
    wanted: Wanted,
    options: BuildOptions,
    building: BuildOptions,
    gpu: str,
    timing_cache: Path,
    verbose: bool = False,
    details: bool = False,
) -> Tuple[Manifest, Told]:
    """Builds `engine` and its manifest from `wanted.onnx`; progress goes to stderr. `options`: as they were given, for the
    manifest, like `gpu`, its name; `building`: those and what they leave to the machine. `details`: the engine can tell its
    layers, if the log does not.

    Raises BuildError if TensorRT refuses, crashes or is killed; what was there before is then still there.
    """
    raw = engine.with_name(f".{engine.name}.{os.getpid()}.building.tmp")  # write_whole clears up after the killed
    request = {
        "module": wanted.module,
        "onnx": str(wanted.onnx),
        "engine": str(raw),
        "timing_cache": str(timing_cache),
        "options": building.as_dict(),
        "verbose": verbose,
        "details": details,
    }
    began = time.monotonic()
    try:
        answer = _run(request, engine.name)
        content = raw.read_bytes()
    finally:
        with contextlib.suppress(OSError):
            raw.unlink()
    told = Told(
        [Layer(**{**each, "nodes": tuple(each["nodes"])}) for each in answer["layers"]],
        _products(answer["products"]),
    )
    manifest = Manifest(
        hashlib.sha256(content).hexdigest(),
        len(content),
        wanted.onnx.name,
        wanted.onnx_sha256,
        wanted.module,
        answer["version"],
        wanted.capability,
        gpu,
        options,
        round(time.monotonic() - began, 1),
        answer["peak_memory"],
        answer["fallbacks"],
        answer["put_back"],
        Cost.of(told.layers) if told.layers else None,
    )
    write_engine(engine, content, manifest)
    return manifest, told


def _run(request: Dict[str, Any], name: str) -> Dict[str, Any]:
    process = subprocess.Popen(
        [*module("backends.tensorrt.build")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        encoding="utf-8",
        start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which then ends that one
    )
    display = _Display(name)
    answer: Dict[str, Any] = {}
    try:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            json.dump(request, process.stdin)
        for line in process.stdout:
            try:
                answer = dict(json.loads(line))
            except (ValueError, TypeError):  # of something that prints before `build` has taken standard output away
                print(line, end="", file=sys.stderr)
                continue
            if "phase" in answer:
                display.show(f"{answer['phase']} {answer['done']}/{answer['of']}")
        status = process.wait()
    finally:
        display.close()
        if process.poll() is None:  # Ctrl-C: TensorRT would go on to the end of the build
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if "error" in answer:
        raise BuildError(answer["error"], answer["status"], _products(answer.get("products", {})))
    if status != 0 or "version" not in answer:
        raise BuildError(_ended(status))
    return answer


def _products(told: Dict[str, List[Any]]) -> Dict[str, Product]:
    return {name: Product(*each) for name, each in told.items()}


def _ended(status: int) -> str:
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return f"The builder was killed, most likely because memory ran out: {MEMORY_HINT}."
    if status < 0:
        name = signal.Signals(-status).name
        return f"TensorRT crashed while building ({name}). Try a lower OPT_LEVEL or another precision, and report it to NVIDIA."
    return f"The builder ended with status {status}; what it said is above."


class _Display:
    """Counts the seconds, since TensorRT 8 says nothing while it builds."""

    def __init__(self, name: str) -> None:
        self.name, self.text, self.began, self.line = name, "", time.monotonic(), Line(pause=30.0)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def show(self, text: str) -> None:
        self.text = text

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self.line.end(erase=True)

    def _count(self) -> None:
        while not self._closed.wait(0.5):
            self.line.show(f"building {self.name}: {time.monotonic() - self.began:.0f} s  {self.text}")
