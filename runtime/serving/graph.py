"""What the graph of a network of others calls its input and output."""

from __future__ import annotations

from typing import Tuple

from runtime.artifact import Artifact
from runtime.errors import UserError


def ends_of(artifact: Artifact) -> Tuple[str, str]:
    """Names of the input and the output, which onnxruntime is asked for. Raises UserError for a graph that takes just so
    many pictures at once: Triton can't batch for it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime can't be imported ({error}): pip install onnxruntime.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        raise UserError(f"onnxruntime can't load {artifact.path}: {str(error).splitlines()[0]}") from None
    batch = session.get_inputs()[0].shape[0]
    if isinstance(batch, int):
        raise UserError(f"{artifact.path} takes just {batch} at once, and Triton can't batch for it: --models python serves it.")
    return session.get_inputs()[0].name, session.get_outputs()[0].name
