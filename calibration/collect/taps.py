"""Nodes that hand small pieces of a network's tensors out of onnxruntime: whole maps would take longer than making them.

onnxruntime keeps maps in blocks of channels between convolutions (its NCHWc layout) and pooling works on those as they
are, while a Slice or a Reduce wants the whole map copied to the plain layout first. So a pooling that strides stands in
front: what is left of the map is copied. That is what keeps a collecting pass near plain inference (docs/int8.md).
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.layer_graph import LayerGraph

_END = 1 << 30
_WINDOW = 4  # px: a maximum is taken of windows that wide first


class Taps:
    """A copy of a network's graph that grows taps; `model()` puts each right behind what makes its tensor, so that the
    tensor need not be kept for it."""

    def __init__(self, network: LayerGraph) -> None:
        self.network = network
        self.outputs: list[str] = []
        self._origins: dict[str, int] = {}  # graph inputs int64 [2]: where a grid begins, each below its step
        self._model = network.to_model()
        self._nodes: dict[str, list[onnx.NodeProto]] = {}  # by tensor

    def grid(self, tensor: str, positions: int) -> None:
        """Output [n, C, ~sqrt(positions), ~sqrt(positions)]: every so many pixels of a map. A vector comes whole."""
        shape, source = self.network.shapes[tensor], tensor
        if len(shape) < 4:
            self._add(tensor, helper.make_node("Identity", [tensor], [f"{tensor}_grid"]), output=True)
            return
        wanted, side = math.sqrt(positions), shape[2]
        coarse = max(1, int(side / wanted / 3))
        if coarse > 1:
            source, side = f"{tensor}_coarse", math.ceil(side / coarse)
            pool = helper.make_node("MaxPool", [tensor], [source], kernel_shape=[1, 1], strides=[coarse, coarse])
            self._add(tensor, pool)
        step = math.ceil(side / wanted)
        origin = self._input(f"origin_{step}", 2)
        self._origins[origin] = step
        ends = [self._constant(name, value) for name, value in (("end_hw", [_END] * 2), ("axes_hw", [2, 3]))]
        inputs = [source, origin, *ends, self._constant(f"step_{step}", [step, step])]
        self._add(tensor, helper.make_node("Slice", inputs, [f"{tensor}_grid"]), output=True)

    def crossings(self, tensor: str, name: str, rows: int, columns: int) -> None:
        """Output [n, C, rows, columns]: where rows and columns of a map cross, whose indices the graph's inputs
        rows_<name> and columns_<name> give, int64."""
        names = [self._input(f"rows_{name}", rows), self._input(f"columns_{name}", columns)]
        self._add(tensor, helper.make_node("Gather", [tensor, names[0]], [f"{tensor}_rows"], axis=2))
        crossed = helper.make_node("Gather", [f"{tensor}_rows", names[1]], [f"{tensor}_crossings"], axis=3)
        self._add(tensor, crossed, output=True)

    def highest(self, tensor: str) -> None:
        """Output []: the greatest value."""
        source, shape = tensor, self.network.shapes[tensor]
        if len(shape) == 4 and shape[2] > _WINDOW:
            source, sides = f"{tensor}_pooled", [_WINDOW, _WINDOW]
            self._add(
                tensor, helper.make_node("MaxPool", [tensor], [source], kernel_shape=sides, strides=sides, ceil_mode=1)
            )
        self._add(tensor, helper.make_node("ReduceMax", [source], [f"{tensor}_high"], keepdims=0), output=True)

    def lowest(self, tensor: str) -> None:
        """Output []: the least value. Copies the whole map: for small ones."""
        self._add(tensor, helper.make_node("ReduceMin", [tensor], [f"{tensor}_low"], keepdims=0), output=True)

    def random_origins(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Values for the graph's inputs that say where grids begin."""
        return {name: random.integers(0, step, 2) for name, step in self._origins.items()}

    def model(self) -> onnx.ModelProto:
        """The graph with its taps as the only outputs, in the order of `outputs`."""
        graph = self._model.graph
        nodes = list(self._nodes.get(self.network.input, []))
        for node in list(graph.node):
            nodes.append(node)
            for name in node.output:
                nodes += self._nodes.get(name, [])
        del graph.node[:], graph.output[:]
        graph.node.extend(nodes)
        graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs)
        return self._model

    def _add(self, tensor: str, node: onnx.NodeProto, output: bool = False) -> None:
        self._nodes.setdefault(tensor, []).append(node)
        if output:
            self.outputs.append(node.output[0])

    def _constant(self, name: str, value: list[int]) -> str:
        graph = self._model.graph
        if name not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def _input(self, name: str, length: int) -> str:
        if name not in {value.name for value in self._model.graph.input}:
            self._model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [length]))
        return name
