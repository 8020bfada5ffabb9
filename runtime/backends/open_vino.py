"""OpenVINO on the CPU: runs INT8 artifacts with integer kernels, where onnxruntime's own are slower than FP32."""

from __future__ import annotations

import threading
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..artifacts.artifact import Artifact
from ..artifacts.onnx_metadata import require_one_file
from ..errors import UserError
from ..invocation import install
from .backend import in_pieces
from .processor import cpu_batch, share_cores


class OpenVino:
    """An artifact compiled by OpenVINO, once for each batch size in use. Several threads may call `run` at once; each has its
    own requests.

    A graph whose batch is dynamic costs OpenVINO 7 to 20 % (docs/int8_compared.md), so it is compiled for one image and, when a
    batch first comes, for `batch` images. Other sizes are cut into these two.
    """

    name = "openvino"

    def __init__(self, artifact: Artifact, threads: Optional[int] = None, lanes: int = 1) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UserError(f"openvino can't be imported ({error}): {install('openvino')}.") from None
        require_one_file(artifact.path)
        # Its default on the CPU is bf16 where the processor has it; what is measured here is the artifact's own precision.
        # Pinning threads to cores gains nothing where this process is alone, and loses where it is not.
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": "NO",
        }
        threads, self.lanes = share_cores(threads, lanes)
        if self.lanes > 1:
            self._options["NUM_STREAMS"] = str(self.lanes)
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = str(threads * self.lanes)
        self.description = f"OpenVINO {openvino.__version__.split('-')[0]}, CPU"
        self._path, self._core, self._local = artifact.path, openvino.Core(), threading.local()
        self._compiled: Dict[int, Any] = {}  # by batch size
        self._compiling = threading.Lock()
        # The first look at a tensor's type sets up what all share. Two lanes at that wait for each other for ever: one holds
        # Python's lock, the other OpenVINO's guard (seen with OpenVINO 2026.4.1).
        openvino.Type.f32.to_dtype()
        try:
            self._graph = self._core.read_model(str(artifact.path))
            batch = self._graph.input(0).partial_shape[0]
            self.fixed = batch.get_length() if batch.is_static else None  # as many third-party graphs are exported
            self.batch = self.fixed or cpu_batch(artifact)
            self._model(self.fixed or 1)
        except Exception as error:  # RuntimeError, or what the artifact's damage leads to
            raise UserError(
                f"OpenVINO {openvino.__version__} can't load {artifact.path}: {str(error).splitlines()[0]}"
            ) from None
        self._count = len(artifact.outputs)

    def run(self, images: np.ndarray) -> np.ndarray:
        """See runtime.backends.Backend."""
        return self._pieces(1, images)[0]

    def run_all(self, images: np.ndarray) -> Tuple[np.ndarray, ...]:
        """See runtime.backends.Backend."""
        return tuple(self._pieces(self._count, images))

    def _pieces(self, count: int, images: np.ndarray) -> List[np.ndarray]:
        """The first `count` outputs of any number of images, in batches of the sizes that are compiled."""
        if self.fixed is not None:
            return [self._fixed(index, images) for index in range(count)]
        starts = list(range(0, len(images) - self.batch + 1, self.batch)) if self.batch > 1 else []
        rest = self.batch * len(starts)
        found = [self._run(count, images[start : start + self.batch]) for start in starts]
        found += [self._run(count, images[start : start + 1]) for start in range(rest, len(images))]
        if not found:  # no images: outputs of the right shape for none
            return [output[:0] for output in self._run(count, np.zeros((1, *images.shape[1:]), images.dtype))]
        return found[0] if len(found) == 1 else [np.concatenate(outputs) for outputs in zip(*found)]

    def _fixed(self, index: int, images: np.ndarray) -> np.ndarray:
        return in_pieces(lambda piece: self._run(index + 1, piece)[index], images, self.fixed)

    def _model(self, size: int) -> Any:
        """The graph compiled for `size` images."""
        with self._compiling:
            if size not in self._compiled:
                graph = self._graph.clone()
                if self.fixed is None:
                    graph.reshape([size, *graph.input(0).partial_shape[1:]])
                self._compiled[size] = self._core.compile_model(graph, "CPU", self._options)
            return self._compiled[size]

    def _run(self, count: int, images: np.ndarray) -> List[np.ndarray]:
        try:
            requests = self._local.__dict__.setdefault("requests", {})
            if len(images) not in requests:
                requests[len(images)] = self._model(len(images)).create_infer_request()
            request = requests[len(images)]
            request.infer([images], share_inputs=True, share_outputs=True)
            return [np.array(request.get_output_tensor(index).data) for index in range(count)]  # copies: it reuses them
        except Exception as error:  # RuntimeError, or IndexError where the graph has no output
            raise UserError(f"OpenVINO can't run {self._path}: {' '.join(str(error).split())[:300]}") from error

    def close(self) -> None:
        """See runtime.backends.Backend."""
        for name in ("_compiled", "_graph", "_local"):
            self.__dict__.pop(name, None)
