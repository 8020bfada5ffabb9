"""What executes an artifact. A backend is a file in this folder with one class; its library is imported when it is opened."""

from __future__ import annotations

from typing import Optional, Protocol

import numpy as np

from runtime.artifact import Artifact
from runtime.errors import UserError


class Backend(Protocol):
    """An artifact loaded and ready to run."""

    name: str
    description: str  # library, its version and where it runs, for reports

    def run(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images float32 [N, 3, resolution, resolution] -> logits float32 [N, classes]."""
        ...

    def close(self) -> None:
        """Frees what the backend holds; it can't be run afterwards."""
        ...


BACKENDS = ("onnxruntime",)


def open_backend(artifact: Artifact, name: str = "auto", threads: Optional[int] = None) -> Backend:
    """Loads `artifact` into the backend `name`, or into the best one that works here.

    `threads`: of the CPU, for one run; None leaves it to the backend. Raises UserError if the backend is not installed
    or refuses the artifact.
    """
    if name not in ("auto", *BACKENDS):
        raise UserError(f"There is no backend '{name}': choose auto or {', '.join(BACKENDS)}.")
    from runtime.backends.onnxruntime_cpu import OnnxRuntime

    return OnnxRuntime(artifact, threads)
