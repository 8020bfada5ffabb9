"""onnxruntime: on the CPU it runs everywhere, and is what the other backends are compared with; on a GPU where its own
CUDA build is installed and really works."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from ..artifacts.artifact import Artifact
from ..artifacts.facts import Output
from ..artifacts.onnx_metadata import require_one_file
from ..errors import UserError
from ..invocation import install
from .backend import in_pieces
from .processor import cpu_batch, processors, saturates, share_cores

MOST_THREADS = 256  # onnxruntime starts them all and gives each memory: 100,000 fill a machine and never return
PROVIDERS = {"CPUExecutionProvider": "CPU", "CUDAExecutionProvider": "CUDA"}


class OnnxRuntime:
    """An artifact in an onnxruntime session. Several threads may call `run` at once."""

    def __init__(
        self,
        artifact: Artifact,
        threads: Optional[int] = None,
        provider: str = "CPUExecutionProvider",
        lanes: int = 1,
        shared: bool = False,
    ) -> None:
        """`provider`: one of PROVIDERS. `shared`: see open_backend. Raises UserError if the session doesn't run on `provider`."""
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise UserError(f"{threads} threads: choose between 1 and {MOST_THREADS}, at most the number of cores.")
        require_one_file(artifact.path)
        on_cpu = provider == "CPUExecutionProvider"
        lanes = lanes if on_cpu else 1
        threads, self.lanes = (threads or processors(), lanes) if shared and on_cpu else share_cores(threads, lanes)
        self._path, self._session = artifact.path, _session(artifact, threads, provider, spin=not shared)
        inputs = self._session.get_inputs()
        self._outputs = _checked_outputs(artifact, inputs, self._session.get_outputs())
        self._input, (batch, *_) = inputs[0].name, inputs[0].shape or [None]
        self.fixed = batch if isinstance(batch, int) and batch > 0 else None  # as many third-party graphs are exported
        self.batch = self.fixed or cpu_batch(artifact)
        self.name = "onnxruntime" if on_cpu else "onnxruntime_cuda"
        self.description = f"{_version()}, {PROVIDERS[provider]}"

    def run(self, images: np.ndarray) -> np.ndarray:
        """See runtime.backends.Backend."""
        return in_pieces(lambda piece: self._run(self._outputs[:1], piece)[0], images, self.fixed)

    def run_all(self, images: np.ndarray) -> Tuple[np.ndarray, ...]:
        """See runtime.backends.Backend."""
        if len(self._outputs) == 1:
            return (self.run(images),)
        return tuple(self._run(self._outputs, images))

    def _run(self, outputs: List[str], images: np.ndarray) -> List[np.ndarray]:
        try:
            return self._session.run(outputs, {self._input: images})
        except Exception as error:  # a graph that is wrong in itself may only show it now
            raise UserError(f"onnxruntime can't run {self._path}: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """See runtime.backends.Backend."""
        self._session = None


def _version() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _session(artifact: Artifact, threads: Optional[int], provider: str, spin: bool) -> Any:
    """An InferenceSession that really runs on `provider`. `spin`: its threads keep their cores between two tasks."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime can't be imported ({error}): {install('onnxruntime')}.") from None
    if provider not in onnxruntime.get_available_providers():
        raise UserError(f"This {_version()} was built without {PROVIDERS[provider]}.")
    onnxruntime.set_default_logger_severity(3)  # its warnings are about providers that nobody asked for
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if artifact.asked == "int8" and provider == "CPUExecutionProvider" and saturates():
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # Q/DQ nodes as written, the rest in FP32
    # Of FP16 biases behind Q/DQ this optimiser makes nonsense (1.31: 0 % top-1 on lite0).
    spared = ["WeightBiasQuantization"] if artifact.precision == "int8-fp16" else []
    try:
        session = onnxruntime.InferenceSession(
            str(artifact.path), options, providers=[provider], disabled_optimizers=spared
        )
    except Exception as error:  # its exceptions have no common base of their own
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{_version()} can't load {artifact.path}: {reason} "
            "If the file is damaged, export it again; if it is newer than onnxruntime, update that."
        ) from None
    if session.get_providers()[0] != provider:  # it falls back to the CPU without an error
        raise UserError(f"{_version()} would run {artifact.path} on the CPU instead of {PROVIDERS[provider]}.")
    return session


def _checked_outputs(artifact: Artifact, inputs: Sequence[Any], outputs: Sequence[Any]) -> List[str]:
    """The names of the graph's outputs that the metadata speak of. Raises UserError if graph and metadata disagree."""
    shapes, wanted = [output.shape for output in outputs], artifact.outputs
    if len(inputs) != 1 or len(shapes) < len(wanted) or not all(map(_fits, shapes, wanted)):
        sought = f"{artifact.classes} classes" if artifact.classes else ", ".join(map(str, wanted))
        raise UserError(
            f"{artifact.path} has {len(inputs)} inputs and an output of {', '.join(map(str, shapes))}, not of {sought}: "
            "it is damaged. Export it again."
        )
    return [output.name for output in outputs[: len(wanted)]]


def _fits(shape: Sequence[Any], output: Output) -> bool:
    """Whether a graph's output of `shape` (names or None where it is open) is what the metadata say."""
    open_or_right = len(shape) > 1 and (not isinstance(shape[1], int) or shape[1] == output.channels)
    return len(shape) == (4 if output.stride else 2) and open_or_right
