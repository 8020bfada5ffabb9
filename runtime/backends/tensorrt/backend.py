"""TensorRT as a backend: the fitting engine of an artifact, and a runner for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Optional, Set, Tuple

import numpy as np

from ...artifacts.artifact import Artifact
from ...errors import UserError
from ..backend import ANY_ENGINE, Engines, Say, to_stderr
from ..cuda import open_device
from .engine import Engine, engine_of
from .runner import Runner
from .site import Site, open_site

_LONG = 1.0  # seconds of a first run that are told: compiling, not running


class TensorRt:
    """An artifact's engine, ready to run. Several threads may call `run` at once; each has its own context and stream."""

    def __init__(
        self,
        artifact: Artifact,
        module: str = "tensorrt",
        engines: Engines = ANY_ENGINE,
        say: Say = to_stderr,
        site: Optional[Site] = None,
    ) -> None:
        """`engines.path`: just that file, never built anew. `site`: that of `module`, where it is open already."""
        site = site or open_site(module)
        if engines.path is not None:
            self._engine = Engine(site, artifact, artifact.asked, engines.path)
            content = self._engine.content(engines.trust)
        else:
            self._engine = engine_of(artifact, site)
            content = self._engine.fitting(engines.rebuild, engines.trust, say)  # before there is a context: memory
        self._device = open_device()
        self._loaded: Any = None
        try:
            with self._device:
                try:
                    self._loaded = self._engine.load(content)
                except UserError as error:
                    if engines.path is not None or not engines.rebuild:
                        raise
                    say(f"building {self.engine.name}: {error}")
                    self.engine.unlink()
                    self._loaded = self._engine.load(self._engine.fitting(say=say))
                self._runner: Any = Runner(site.trt, self._loaded, self._device)
        except BaseException:
            with self._device:
                self._loaded = None
            self._device.close()
            raise
        self.name, self.lanes, self._say = module, 1, say
        self._names = [output.name for output in artifact.outputs]
        self.batch = min(self._runner.max_batch, 32)
        self._ran: Set[int] = set()  # numbers of images that were run
        gpu = site.gpu.name if site.gpu else site.capability
        self._where = f"{site.library}, {gpu}, {self.engine.name}, {self._device.name}"

    @property
    def engine(self) -> Path:
        """The file that runs."""
        return self._engine.path

    @property
    def description(self) -> str:
        """See runtime.backends.Backend."""
        return f"{self._where}, {self._runner.description}" if self._runner else self._where

    def run(self, images: np.ndarray) -> np.ndarray:
        """See runtime.backends.Backend."""
        return self.run_all(images)[0] if len(images) not in self._ran else self._runner.run(images)

    def run_all(self, images: np.ndarray) -> Tuple[np.ndarray, ...]:
        """See runtime.backends.Backend."""
        began = time.monotonic()
        found = self._runner.run_all(images)
        if len(images) not in self._ran:
            self._first_run(len(images), time.monotonic() - began)
        if len(self._names) == 1:
            return (found[0],)
        by_name = dict(zip(self._runner.outputs, found))  # an engine has an order of its own
        return tuple(by_name[name] for name in self._names)

    def _first_run(self, count: int, seconds: float) -> None:
        self._ran.add(count)
        kernels = self._loaded.kernels
        if kernels is None:
            return
        try:
            kept = f"kept in {kernels.path.name} for the next time" if kernels.save() else ""
        except UserError as error:
            kept = f"not kept: {error}"
        if seconds > _LONG and kept:
            self._say(f"the first run of {count} images took {seconds:.1f} s: TensorRT-RTX compiled kernels, {kept}")

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
