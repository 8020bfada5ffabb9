"""Where engines are built and run: one TensorRT and one GPU of this machine, or the architecture of another machine's."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from ...errors import UserError
from ..cuda.driver import Gpu, gpus
from .generations import NAMES, Generation, compute_capability, load
from .options import ANY


class Site(NamedTuple):
    """What builds engines, and the GPU they are for."""

    trt: Any  # the module
    generation: Generation
    capability: str  # "sm_89"; ANY for engines that run on several architectures
    gpu: Optional[Gpu]  # None: builds for one that is not here

    @property
    def slug(self) -> str:
        """Part of an engine's name. TensorRT-RTX's engines fit every GPU of an architecture, TensorRT's one model."""
        if self.generation.targets or self.gpu is None:
            return f"rtx-{self.capability.replace('_', '')}"
        return self.gpu.slug

    @property
    def library(self) -> str:
        """ "TensorRT 10.3.0"."""
        return f"{NAMES[self.generation.module]} {self.trt.__version__}"


def open_site(module: str, target: Optional[str] = None, index: int = 0) -> Site:
    """Raises UserError if there is no such module, it can't be loaded or build for the GPU, or there is none and no
    `target`: the driver is asked, since some versions of TensorRT crash where there is none."""
    trt, row = load(module)
    if target is not None:
        if row.targets and target != ANY:
            compute_capability(trt, target)
        return Site(trt, row, target, None)
    found, why, _ = gpus()
    if len(found) <= index:
        rtx = " With TensorRT-RTX, GPU=sm_89 builds for another machine's." if row.targets else ""
        raise UserError(f"{NAMES[module]} needs an NVIDIA GPU, and there is none. {why.rstrip('.')}.{rtx}")
    if row.targets:
        compute_capability(trt, found[index].sm)
    return Site(trt, row, found[index].sm, found[index])
