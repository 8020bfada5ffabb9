"""What executes an artifact. A backend is a file in this folder with one class; its library is imported when it is opened."""

from __future__ import annotations

import importlib.util
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


BACKENDS = ("onnxruntime", "openvino")


def open_backend(artifact: Artifact, name: str = "auto", threads: Optional[int] = None) -> Backend:
    """Loads `artifact` into the backend `name`. "auto" is OpenVINO for INT8 where it is installed, since onnxruntime's
    own kernels are slower on those files than on FP32, and onnxruntime otherwise.

    `threads`: of the CPU, for one run; None leaves it to the backend. Raises UserError if the backend is not installed
    or refuses the artifact.
    """
    if name not in ("auto", *BACKENDS):
        raise UserError(f"There is no backend '{name}': choose auto or {', '.join(BACKENDS)}.")
    if name == "auto":
        integer = artifact.precision == "int8" and importlib.util.find_spec("openvino") is not None
        name = "openvino" if integer else "onnxruntime"
    if name == "openvino":
        from runtime.backends.openvino_cpu import OpenVino

        return OpenVino(artifact, threads)
    from runtime.backends.onnxruntime_cpu import OnnxRuntime

    return OnnxRuntime(artifact, threads)
