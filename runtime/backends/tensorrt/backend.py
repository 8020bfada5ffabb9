"""TensorRT as a backend: the fitting engine of an artifact, and a runner for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np

from ...artifacts.artifact import Artifact
from ...errors import UserError
from ..cuda import open_device
from .loader import (
    Say,
    checked_engine,
    deserialize,
    fitting_engine,
    open_site,
    wanted_of,
)
from .runner import Runner

NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class TensorRt:
    """An artifact's engine, ready to run. Several threads may call `run` at once; each has its own context and stream."""

    def __init__(
        self,
        artifact: Artifact,
        module: str = "tensorrt",
        *,
        engine: Optional[Path] = None,
        rebuild: bool = True,
        trust: bool = False,
        say: Say = to_stderr,
    ) -> None:
        """`engine`: just that file, never built anew. `rebuild=False`: no building. `trust`: without a manifest too."""
        site = open_site(module)
        self._loaded: Any = None
        if engine is not None:
            path, content = engine, checked_engine(engine, wanted_of(artifact, site), trust)
        else:
            path, content = fitting_engine(artifact, site, rebuild, trust, say)  # before there is a context: memory
        self._device = open_device()
        try:
            with self._device:
                try:
                    self._loaded = deserialize(site, content, path)
                except UserError as error:
                    if engine is not None or not rebuild:
                        raise
                    say(f"building {path.name}: {error}")
                    path.unlink()
                    path, content = fitting_engine(artifact, site, True, False, say)
                    self._loaded = deserialize(site, content, path)
                self._runner: Any = Runner(site.trt, self._loaded.engine, self._device, self._loaded.log)
        except BaseException:
            self._device.close()
            raise
        self.name, self.engine, self.lanes = module, path, 1
        self._names = [output.name for output in artifact.outputs]
        self.batch = min(self._runner.max_batch, 32)
        gpu = site.gpu.name if site.gpu else site.capability
        self._where = f"{NAMES[module]} {site.trt.__version__}, {gpu}, {path.name}, {self._device.name}"

    @property
    def description(self) -> str:
        """See runtime.backends.Backend."""
        return f"{self._where}, {self._runner.description}" if self._runner else self._where

    def run(self, images: np.ndarray) -> np.ndarray:
        """See runtime.backends.Backend."""
        return self._runner.run(images)

    def run_all(self, images: np.ndarray) -> Tuple[np.ndarray, ...]:
        """See runtime.backends.Backend."""
        found = self._runner.run_all(images)
        if len(self._names) == 1:
            return (found[0],)
        by_name = dict(zip(self._runner.outputs, found))  # an engine has an order of its own
        return tuple(by_name[name] for name in self._names)

    def timed(self, images: np.ndarray) -> Any:
        """(logits, milliseconds of copying in, computing and copying out), by the GPU's clock."""
        return self._runner.timed(images)

    def close(self) -> None:
        """See runtime.backends.Backend."""
        if self._runner is None:
            return
        self._runner.close()
        with self._device:  # contexts before the engine, the engine before its runtime, all before the context
            self._runner = None
            self._loaded = None
        self._device.close()
