"""An exported ONNX network as calibration sees it: layers that multiply, residual additions, and how to run it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

BATCH_PIXELS = 8 * 224 * 224  # a run: enough to amortise onnxruntime's overhead, and B7's activations stay below 2 GB


@dataclass(frozen=True)
class Layer:
    """A Conv or Gemm with constant weights. Names are the graph's."""

    name: str
    op: str  # "Conv" | "Gemm"
    input: str
    weight: str
    bias: str  # "" without one
    output: str
    groups: int
    kernel: int  # side, px
    stride: int
    pads: tuple[int, ...]  # top, left, bottom, right
    positions: int  # output pixels of one picture
    multiply_adds: int  # of one picture

    @property
    def depthwise(self) -> bool:
        return self.groups > 1

    @property
    def pooled(self) -> bool:
        """Whether it works on one vector a picture: squeeze-and-excitation, the classifier."""
        return self.positions == 1

    @property
    def kind(self) -> str:
        if self.pooled:
            return "classifier" if self.op == "Gemm" else "squeeze"
        return "depthwise" if self.depthwise else f"{self.kernel}x{self.kernel}"


@dataclass(frozen=True)
class Residual:
    """An Add that closes a residual block: `identity` comes past the block, the other input out of layer `branch`."""

    name: str
    identity: str
    branch: str


class Network:
    """`model` with its weights as arrays, by name. Edits of `weights` count; the graph itself is `model`'s.

    Raises ValueError if a Conv or Gemm is of a form that no network of this project has.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
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
        self.layers = [self._layer(node) for node in graph.node if node.op_type in ("Conv", "Gemm")]
        self.residuals = [found for node in graph.node if node.op_type == "Add" and (found := self._residual(node))]

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def clip_limits(self, tensor: str) -> tuple[float, float] | None:
        """(least, greatest) of `tensor` if a Clip with constant limits makes it."""
        node = self.producers.get(tensor)
        if node is None or node.op_type != "Clip":
            return None
        low, high = (self.constant(name) for name in node.input[1:3])
        return low, high

    def constant(self, name: str) -> float:
        """Value of the scalar `name`, an initialiser or what a Constant node makes."""
        if name in self.weights:
            return float(self.weights[name])
        return float(numpy_helper.to_array(self.producers[name].attribute[0].t))

    def _layer(self, node: onnx.NodeProto) -> Layer:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.input[1] not in self.weights:
            raise ValueError(f"{node.name}: weights that are computed")
        weight, bias = self.weights[node.input[1]], node.input[2] if len(node.input) > 2 else ""
        positions, pads, stride, kernel = 1, [0] * 4, 1, 1
        if node.op_type == "Conv":
            positions = int(np.prod(self.shapes[node.output[0]][2:]))
            pads, stride, kernel = attributes.get("pads", pads), attributes["strides"][0], weight.shape[2]
            if attributes.get("group", 1) not in (1, weight.shape[0]) or set(attributes.get("dilations", [1])) != {1}:
                raise ValueError(f"{node.name}: grouped, but not depthwise, or dilated")
        elif not attributes.get("transB"):
            raise ValueError(f"{node.name}: Gemm with weights [in, out]")
        return Layer(
            node.name, node.op_type, node.input[0], node.input[1], bias, node.output[0], attributes.get("group", 1),
            kernel, stride, tuple(pads), positions, weight.size * positions,
        )  # fmt: skip

    def _residual(self, node: onnx.NodeProto) -> Residual | None:
        """The branch ends in a Conv that only this Add reads; the identity is read by the block as well."""
        for identity, branch in (tuple(node.input), tuple(node.input)[::-1]):
            conv = self.producers.get(branch)
            alone = len(self.consumers[branch]) == 1
            if conv is not None and conv.op_type == "Conv" and alone and len(self.consumers[identity]) > 1:
                return Residual(node.name, identity, conv.name)
        return None

    def to_model(self) -> onnx.ModelProto:
        """The graph with the weights as they stand now, without metadata."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.metadata_props[:], model.graph.value_info[:], model.graph.initializer[:]
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.weights.items())
        return model


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
    options.enable_mem_pattern = False  # it is planned anew, page by page, in the second run: longer than the run itself
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not integer:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Logits float32 [pictures, classes]."""
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


def watched(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """`model` with the tensors `names` as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return copy


def sqnr(expected: np.ndarray, got: np.ndarray) -> float:
    """Power of the logits over that of their error, dB; 200 where they are the same."""
    error = np.square(expected - got, dtype=np.float64).sum()
    return float(min(200.0, 10 * np.log10(np.square(expected, dtype=np.float64).sum() / max(error, 1e-30))))


def same_class(expected: np.ndarray, got: np.ndarray) -> float:
    """Share of pictures with the same top-1 class."""
    return float((expected.argmax(1) == got.argmax(1)).mean())


def by_input(layers: Iterable[Layer]) -> Mapping[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.input, []).append(layer)
    return found


def batch_size(side: int) -> int:
    """Pictures of `side` px a run."""
    return max(1, BATCH_PIXELS // side**2)


def chunks(pictures: np.ndarray) -> Iterator[np.ndarray]:
    """`pictures` [n, 3, side, side] in batches."""
    size = batch_size(pictures.shape[-1])
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]
