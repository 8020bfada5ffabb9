"""An exported ONNX network as calibration sees it: layers that multiply, residual additions, and how to run it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

BATCH_PIXELS = 8 * 224 * 224  # a run: enough to amortise onnxruntime's overhead, and B7's activations stay below 2 GB


LAYERS = ("Conv", "Gemm", "MatMul")  # where the MACs are


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul with constant weights. Names are the graph's."""

    name: str
    op: str  # "Conv" | "Gemm" | "MatMul"
    input: str
    weight: str
    bias: str  # "" without one
    output: str
    groups: int
    kernel: int  # side, px
    stride: int
    pads: tuple[int, ...]  # top, left, bottom, right
    positions: int  # output pixels of one image
    macs: int  # of one image
    unfit: str = ""  # why it has to stay in float, in words; "" if int8 is a choice

    @property
    def depthwise(self) -> bool:
        return self.groups > 1

    @property
    def pooled(self) -> bool:
        """Whether it works on one vector an image: squeeze-and-excitation, the classifier."""
        return self.positions == 1

    @property
    def kind(self) -> str:
        if self.pooled:
            return "squeeze" if self.op == "Conv" else "classifier"
        if self.op != "Conv":
            return "matrix"
        return "depthwise" if self.depthwise else f"{self.kernel}x{self.kernel}"


@dataclass(frozen=True)
class Residual:
    """An Add that closes a residual block: `identity` comes past the block, or out of a convolution that shrinks it, and the
    other input out of layer `branch`."""

    name: str
    identity: str
    branch: str


class LayerGraph:
    """`model` with its weights as arrays, by name. Edits of `weights` count; the graph itself is `model`'s.

    A layer of a form that int8 is not made for is `unfit`, and stays in float. Raises ValueError for an opset without a scale
    for each channel, or a batch that is fixed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if opset < 13:
            raise ValueError(f"opset {opset}, and int8 needs 13")
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        if batch.dim_value:
            raise ValueError(f"it takes {batch.dim_value} images at a time and no other number")
        self.model = onnx.shape_inference.infer_shapes(model)
        graph = self.model.graph
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)  # the batch is 0
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.layers = [
            self._layer(node) for node in graph.node if node.op_type in LAYERS and node.input[1] in self.weights
        ]
        self.residuals = [found for node in graph.node if node.op_type == "Add" and (found := self._residual(node))]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def clip_limits(self, tensor: str) -> tuple[float, float] | None:
        """(least, greatest) of `tensor` if a Clip with constant limits makes it."""
        node = self.producers.get(tensor)
        if node is None or node.op_type != "Clip" or len(node.input) < 3:
            return None
        if not all(self.is_constant(name) for name in node.input[1:3]):
            return None
        low, high = (self.constant(name) for name in node.input[1:3])
        return low, high

    def is_constant(self, name: str) -> bool:
        """Whether `name` is an initialiser, or what a Constant node makes."""
        return name in self.weights or (name in self.producers and self.producers[name].op_type == "Constant")

    def constant(self, name: str) -> float:
        """Value of the scalar `name`, an initialiser or what a Constant node makes."""
        if name in self.weights:
            return float(self.weights[name])
        return float(numpy_helper.to_array(self.producers[name].attribute[0].t))

    def _layer(self, node: onnx.NodeProto) -> Layer:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weight, bias = self.weights[node.input[1]], node.input[2] if len(node.input) > 2 else ""
        shape, unfit = self.shapes.get(node.output[0], ()), ""
        pads, stride, kernel, groups = (0,) * 4, 1, 1, 1
        if node.op_type == "Conv":
            places = shape[2:]
            groups = attributes.get("group", 1)
            unfit = _unfit(attributes, weight, self.shapes.get(node.input[0], ()), places)
            if not unfit:
                pads, kernel = tuple(attributes.get("pads", pads)), weight.shape[2]
                stride = attributes.get("strides", [1])[0]
        else:
            places = shape[1:-1]
            if node.op_type == "MatMul":
                unfit = "a product of matrices"
            elif not attributes.get("transB") or attributes.get("transA"):
                unfit = "its weights are [in, out]"
            elif {attributes.get("alpha", 1), attributes.get("beta", 1)} != {1}:
                unfit = "scaled by alpha or beta"
        if bias and bias not in self.weights:
            unfit = "a bias that is computed"
        positions = int(np.prod([max(place, 1) for place in places] or [1]))
        return Layer(
            node.name,
            node.op_type,
            node.input[0],
            node.input[1],
            bias,
            node.output[0],
            groups,
            kernel,
            stride,
            pads,
            positions,
            weight.size * positions,
            unfit,
        )

    def _residual(self, node: onnx.NodeProto) -> Residual | None:
        """The branch ends in a Conv that only this Add reads; the identity is read by the block as well, or is what a Conv
        that the block's input goes through makes of it."""
        pairs = (tuple(node.input), tuple(node.input)[::-1])
        ends = {name: self.producers.get(name) for name in node.input}
        convs = {
            name
            for name, end in ends.items()
            if end is not None and end.op_type == "Conv" and len(self.consumers[name]) == 1
        }
        for identity, branch in pairs:
            if branch in convs and len(self.consumers.get(identity, ())) > 1:
                return Residual(node.name, identity, ends[branch].name)  # type: ignore[union-attr]
        for identity, branch in pairs:
            if {identity, branch} <= convs and len(self.consumers[ends[identity].input[0]]) > 1:  # type: ignore[union-attr]
                return Residual(node.name, identity, ends[branch].name)  # type: ignore[union-attr]
        return None

    def to_model(self) -> onnx.ModelProto:
        """The graph with the weights as they stand now, without metadata."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.metadata_props[:], model.graph.value_info[:], model.graph.initializer[:]
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.weights.items())
        return model


def _unfit(attributes: Mapping[str, Any], weight: np.ndarray, inputs: Sequence[int], places: Sequence[int]) -> str:
    """Why int8 is not made for a Conv, "" if it is: ranges, rounding and biases are worked out for square maps and kernels."""
    strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0] * 4)
    if weight.ndim != 4 or len(inputs) != 4 or len(places) != 2 or 0 in (*inputs[1:], *places):
        return "maps of an unknown size"
    if attributes.get("group", 1) not in (1, weight.shape[0]) or (
        attributes.get("group", 1) > 1 and weight.shape[1] > 1
    ):
        return "grouped, but not depthwise"
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return "padding that the runtime works out"
    if set(attributes.get("dilations", [1])) != {1}:
        return "dilated"
    square = len({*weight.shape[2:]}) == len({*strides}) == len({*inputs[2:]}) == 1
    return "" if square and list(pads[::2]) == list(pads[1::2]) else "not square"


def open_session(
    model: onnx.ModelProto, threads: int = 0, integer: bool = True, in_order: bool = False, spinning: bool = True
) -> onnxruntime.InferenceSession:
    """`model` on onnxruntime's CPU kernels; `threads` 0: as many as there are cores.

    `integer=False` computes Q/DQ as written, in float: faster here than int8 kernels and the same but for the order of
    sums. `in_order` runs nodes in the order of the file where they may, as `ranges.collect` wants it. `spinning=False`
    leaves the cores to others between runs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = (
        False  # it is planned anew, page by page, in the second run: longer than the run itself
    )
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not integer:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def logits_of(session: onnxruntime.InferenceSession, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Logits float32 [images, classes]."""
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


def sqnr(expected: np.ndarray, got: np.ndarray) -> float:
    """Power of the logits over that of their error, dB; 200 where they are the same."""
    error = np.square(expected - got, dtype=np.float64).sum()
    return float(min(200.0, 10 * np.log10(np.square(expected, dtype=np.float64).sum() / max(error, 1e-30))))


def top1_agreement(expected: np.ndarray, got: np.ndarray) -> float:
    """Share of images with the same top-1 class."""
    return float((expected.argmax(1) == got.argmax(1)).mean())


def by_input(layers: Iterable[Layer]) -> Mapping[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.input, []).append(layer)
    return found


def batch_size(side: int) -> int:
    """Images of `side` px a run."""
    return max(1, BATCH_PIXELS // side**2)


def chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """`images` [n, 3, side, side] in batches."""
    size = batch_size(images.shape[-1])
    for start in range(0, len(images), size):
        yield images[start : start + size]
