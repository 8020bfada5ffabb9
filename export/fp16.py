"""The FP16 graph: weights and arithmetic in half precision, input and output still float32."""

from __future__ import annotations

import logging
import warnings

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with FP16 weights and arithmetic, a Cast at either end.

    Weights beyond FP16's range are clamped to it and those below its smallest value become it (onnxruntime's
    converter); the parity gate tells whether that mattered.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one line for each tensor that has a tiny value
        logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)
        half = convert_float_to_float16(copy, keep_io_types=True)
    OnnxModel.graph_topological_sort(half.graph, is_deterministic=True)  # the converter appends its Casts at the end
    del half.graph.value_info[:]
    onnx.checker.check_model(half, full_check=True)
    return half
