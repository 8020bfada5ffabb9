"""OpenVINO on the CPU: runs INT8 artifacts with integer kernels, where onnxruntime's own are slower than FP32."""

from __future__ import annotations

import threading
from typing import List, Optional, Tuple

import numpy as np

from ..artifacts.artifact import Artifact
from ..artifacts.onnx_metadata import require_one_file
from ..errors import UserError
from .backend import in_pieces
from .processor import cpu_batch, share_cores


class OpenVino:
    """An artifact compiled by OpenVINO. Several threads may call `run` at once; each has its own request."""

    name = "openvino"

    def __init__(self, artifact: Artifact, threads: Optional[int] = None, lanes: int = 1) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UserError(f"openvino can't be imported ({error}): pip install openvino.") from None
        require_one_file(artifact.path)
        # Its default on the CPU is bf16 where the processor has it; what is measured here is the artifact's own precision.
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        threads, self.lanes = share_cores(threads, lanes)
        if self.lanes > 1:
            options["NUM_STREAMS"] = str(self.lanes)
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads * self.lanes)
        try:
            self._model = openvino.Core().compile_model(str(artifact.path), "CPU", options)
        except Exception as error:  # RuntimeError, or what the artifact's damage leads to
            raise UserError(
                f"OpenVINO {openvino.__version__} can't load {artifact.path}: {str(error).splitlines()[0]}"
            ) from None
        batch = self._model.input(0).partial_shape[0]
        self.fixed = batch.get_length() if batch.is_static else None  # as many third-party graphs are exported
        self.batch = self.fixed or cpu_batch(artifact)
        self._count = len(artifact.outputs)
        self._path, self._local = artifact.path, threading.local()
        self.description = f"OpenVINO {openvino.__version__.split('-')[0]}, CPU"

    def run(self, images: np.ndarray) -> np.ndarray:
        """See runtime.backends.Backend."""
        return in_pieces(lambda piece: self._run(1, piece)[0], images, self.fixed)

    def run_all(self, images: np.ndarray) -> Tuple[np.ndarray, ...]:
        """See runtime.backends.Backend."""
        if self._count == 1:
            return (self.run(images),)
        return tuple(self._run(self._count, images))

    def _run(self, count: int, images: np.ndarray) -> List[np.ndarray]:
        try:
            if not hasattr(self._local, "request"):
                self._local.request = self._model.create_infer_request()
            outputs = [self._model.output(index) for index in range(count)]
            answer = self._local.request.infer([images])
            return [np.array(answer[output]) for output in outputs]  # copies: it reuses them
        except Exception as error:  # RuntimeError, or IndexError where the graph has no output
            raise UserError(f"OpenVINO can't run {self._path}: {' '.join(str(error).split())[:300]}") from error

    def close(self) -> None:
        """See runtime.backends.Backend."""
        self.__dict__.pop("_model", None)
        self.__dict__.pop("_local", None)
