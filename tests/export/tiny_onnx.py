"""A tiny classifier as ONNX (convolution, pooling, Gemm, fixed weights), to be given other ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES = 32, 10
_random = np.random.default_rng(0)
WEIGHTS = {
    "w": _random.normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32),
    "fw": _random.normal(0, 3, (16, CLASSES)).astype(np.float32),
    "fb": _random.normal(0, 0.2, CLASSES).astype(np.float32),
}
node = helper.make_node


def body(first: str = "x") -> list[onnx.NodeProto]:
    """Nodes from `first` [N, 3, H, W] to the logits z [N, 10]; the pooled features are f [N, 16]."""
    return [
        node("Conv", [first, "w"], ["c"], strides=[2, 2], pads=[1] * 4),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "fw", "fb"], ["z"]),
    ]


def made(
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, Sequence[Any]],
    extra: Mapping[str, np.ndarray] | None = None,
    takes: Sequence[Any] = ("N", 3, SIDE, SIDE),
    dtype: int = TensorProto.FLOAT,
    opset: int = 13,
    ir: int = 8,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(value, name) for name, value in {**WEIGHTS, **(extra or {})}.items()]
    ends = [
        helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), list(shape))
        for name, shape in outputs.items()
    ]
    graph = helper.make_graph(
        list(nodes), "tiny", [helper.make_tensor_value_info("x", dtype, list(takes))], ends, weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def saved(folder: Path, name: str, model: onnx.ModelProto) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def logits(images: np.ndarray) -> np.ndarray:
    """What the network computes for `images` [N, 3, 32, 32], in numpy: no ONNX is in between."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    maps = np.einsum("nchwij,ocij->nohw", windows, WEIGHTS["w"])
    return np.maximum(maps, 0).mean((2, 3)) @ WEIGHTS["fw"] + WEIGHTS["fb"]
