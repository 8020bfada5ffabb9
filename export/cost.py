"""What a placement of Q/DQ is worth: the kernels that TensorRT would fuse a graph into, and the bytes that each moves.

Read from the graph alone, before anything is built: nothing here is a measured latency. The fusions are those of
TensorRT's documentation ("Working with quantized types"), of the kernel names in its libraries and of published layer
dumps (NVIDIA/TensorRT, tools/experimental/trt-engine-explorer/tests/inputs):

- A convolution takes its activation with it, and the Q behind. Without an activation it takes a residual Add instead; in
  INT8 only if the other operand is INT8 too.
- An FP16 convolution writes FP16. Where INT8 is wanted behind it, a kernel of its own converts.
- An INT8 depthwise kernel writes INT8 or FP32, never FP16. With SiLU it is one kernel from some version on (`GENERATIONS`);
  before that SiLU is a kernel of its own, behind an output in FP32.
- A chain of elementwise operators is one pointwise kernel, which takes the Q behind it with it.
- A Q that no kernel can take, and an FP16 layer that is given INT8, cost a conversion kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import onnx

from runtime.measure.bound import Kernel as Least
from runtime.measure.bound import kernels_fact

INT8, FP16, FP32 = 1, 2, 4  # bytes of an element
_MULTIPLIES = ("Conv", "Gemm", "MatMul")
_ELEMENTWISE = (
    "Add", "Sub", "Mul", "Div", "Min", "Max", "Clip", "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish",
    "Tanh", "Erf", "Sqrt", "Pow",
)  # fmt: skip
_ACTIVATIONS = ("Clip", "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish")
_FREE = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast", "DequantizeLinear", "Constant")


@dataclass(frozen=True)
class Generation:
    """What versions of TensorRT differ in, as far as bytes go."""

    depthwise_silu: bool  # one INT8 kernel for a depthwise convolution, SiLU and Q


# 8.5.3 has no such kernel (NVIDIA/TensorRT#3385), 10.15.1 and 11.4 do, by the names in their libraries; what lies between
# is unknown and counts as without.
GENERATIONS = {"10.15": Generation(depthwise_silu=True), "8.5": Generation(depthwise_silu=False)}
NEWEST = GENERATIONS["10.15"]


@dataclass(frozen=True)
class Kernel:
    """One fused kernel. Bytes and MACs are of one image; weights are read once a run, whatever the batch."""

    name: str  # of its first node
    nodes: tuple[str, ...]
    read: int  # bytes of activations
    written: int
    weights: int  # bytes
    macs: int
    int8: bool  # whether its MACs are INT8
    conversion: bool = False  # does nothing but change the type of a tensor

    @property
    def activations(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class Cost:
    """Of a whole graph, for one image."""

    kernels: int
    conversions: int  # of these kernels
    activations: int  # bytes read and written
    weights: int  # bytes read

    @classmethod
    def of(cls, kernels: Sequence[Kernel]) -> Cost:
        return cls(
            len(kernels),
            sum(kernel.conversion for kernel in kernels),
            sum(kernel.activations for kernel in kernels),
            sum(kernel.weights for kernel in kernels),
        )

    def microseconds(self, batch: int = 1, bandwidth: float = 204.8, launch: float = 8.0) -> float:
        """Memory traffic and launches of a run of `batch` images: what placements are compared by, not a latency.

        `bandwidth` in GB/s and `launch` in microseconds a kernel are an AGX Orin 64 GB's: NVIDIA's data sheet, and published
        kernel times of this family at batch 1, which launches bound.
        """
        return (self.activations * batch + self.weights) / (bandwidth * 1e3) + self.kernels * launch


def cost(model: onnx.ModelProto, generation: Generation = NEWEST) -> Cost:
    """`Cost` of `model`, a float or Q/DQ graph of any tool."""
    return Cost.of(kernels(model, generation))


def fact(model: onnx.ModelProto) -> dict[str, str]:
    """What an artifact of `model` says of its kernels, for `runtime.measure.bound`; nothing where a tensor's size is unknown."""
    try:
        found = least(model)
    except ValueError:
        return {}
    return kernels_fact(found) if any(each.macs for each in found) else {}  # none: operators that aren't known here


def least(model: onnx.ModelProto) -> list[Least]:
    """The kernels of `model` as `runtime.measure.bound` takes them. Raises ValueError for a tensor of unknown size."""
    return [Least(each.activations, each.weights, each.macs, each.int8) for each in kernels(model)]


@cache
def least_of_variant(name: str) -> list[Least]:
    """Those of a variant of the family, traced with random weights: which ones they are changes nothing here."""
    from export.to_onnx import trace
    from models.network import EfficientNet
    from models.variants import VARIANTS

    variant = VARIANTS[name]
    return least(trace(EfficientNet(variant).eval(), variant.resolution))


def kernels(model: onnx.ModelProto, generation: Generation = NEWEST) -> list[Kernel]:
    """The kernels of `model` in the order of its nodes; what is not INT8 counts as FP16, whatever the file holds.

    Raises ValueError for a tensor of unknown size.
    """
    return _Fusion(model, generation).kernels


class _Fusion:
    """Goes through the nodes once; each that no kernel has taken begins one."""

    def __init__(self, model: onnx.ModelProto, generation: Generation) -> None:
        self.generation = generation
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.sizes: dict[str, int] = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            self.sizes[value.name] = prod(dims[1:]) if all(dims[1:]) else 0
        self.constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}  # their dimensions
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.producers: dict[str, onnx.NodeProto] = {}
        nodes = []
        for node in graph.node:
            if node.op_type == "Constant" or (
                node.op_type in ("QuantizeLinear", "DequantizeLinear", "Identity", "Cast")
                and node.input[0] in self.constants
            ):
                self.constants[node.output[0]] = self.constants[node.input[0]] if node.input else ()
                self.producers[node.output[0]] = node
                continue
            nodes.append(node)
            self.producers[node.output[0]] = node
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.bytes = {value.name: FP16 for value in graph.input}  # of an element of each tensor that has been made
        self.taken: set[str] = set()  # names of outputs of nodes that are part of a kernel
        self.kernels: list[Kernel] = []
        for node in nodes:
            if node.output[0] not in self.taken:
                self._begin(node)

    def _begin(self, node: onnx.NodeProto) -> None:
        if node.op_type in _FREE:
            source = next((name for name in node.input if name not in self.constants), "")
            self.bytes[node.output[0]] = self.bytes.get(source, FP16)
        elif node.op_type in _MULTIPLIES:
            self._multiply(node)
        elif node.op_type == "QuantizeLinear":
            self._emit([node], node.output[0], INT8, conversion=True)
        elif node.op_type in _ELEMENTWISE:
            self._pointwise([node], node.output[0])
        else:
            self._emit(*self._with_quantise([node], node.output[0], FP16))

    def _multiply(self, node: onnx.NodeProto) -> None:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        int8 = all(self._dequantised(name) for name in node.input[:2])
        depthwise, chain, end = groups > 1, [node], node.output[0]
        if not int8:
            self._to_float(node)
        activation = self._activation(end)
        if activation and depthwise and int8 and len(activation) > 1:  # SiLU
            last = activation[-1].output[0]
            if not (self.generation.depthwise_silu and self._only_quantised(last)):
                activation = []
        if activation:
            chain, end = [*chain, *activation], activation[-1].output[0]
        else:
            add = self._sole_reader(end)
            if add is not None and add.op_type == "Add":
                other = next((name for name in add.input if name != end), end)
                made = other in self.bytes and (self.bytes[other] == INT8) == int8
                if made and other not in self.constants and not depthwise:
                    chain, end = [*chain, add], add.output[0]
        wide = FP32 if int8 and depthwise else FP16
        if int8:
            chain, end, wide = self._with_quantise(chain, end, wide)
        self._emit(chain, end, wide, int8=int8)

    def _pointwise(self, chain: list[onnx.NodeProto], end: str) -> None:
        """Takes what follows as long as it is elementwise and its other operands have been made."""
        while True:
            silu = self._activation(end)
            following = silu or ([node] if (node := self._sole_reader(end)) is not None else [])
            if not following or any(node.op_type not in _ELEMENTWISE for node in following):
                break
            inner = {end, *(node.output[0] for node in following)}
            others = {name for node in following for name in node.input if name} - inner
            if not all(name in self.constants or name in self.bytes for name in others):
                break
            chain, end = [*chain, *following], following[-1].output[0]
        self._emit(*self._with_quantise(chain, end, FP16))

    def _activation(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes of the activation that alone reads `tensor`: one, or the two of SiLU."""
        readers = self.readers.get(tensor, [])
        if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
            return readers
        if len(readers) == 2:
            gates = [node for node in readers if node.op_type in ("Sigmoid", "HardSigmoid")]
            products = [node for node in readers if node.op_type == "Mul"]
            if gates and products and {tensor, gates[0].output[0]} == set(products[0].input):
                return [gates[0], products[0]]
        return []

    def _with_quantise(self, chain: list[onnx.NodeProto], end: str, wide: int) -> tuple[list[onnx.NodeProto], str, int]:
        """`chain` with the Q behind it, where that is all that reads its end."""
        if self._only_quantised(end):
            quantise = self.readers[end][0]
            return [*chain, quantise], quantise.output[0], INT8
        return chain, end, wide

    def _only_quantised(self, tensor: str) -> bool:
        reader = self._sole_reader(tensor)
        return reader is not None and reader.op_type == "QuantizeLinear"

    def _sole_reader(self, tensor: str) -> onnx.NodeProto | None:
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 else None

    def _dequantised(self, name: str) -> bool:
        node = self.producers.get(name)
        return node is not None and node.op_type == "DequantizeLinear"

    def _to_float(self, node: onnx.NodeProto) -> None:
        """A conversion kernel in front of an FP16 layer that is given INT8."""
        for name in node.input[:2]:
            if name not in self.constants and self.bytes.get(name) == INT8:
                size = self._size(name)
                kernel = Kernel(f"{name} to FP16", (), size * INT8, size * FP16, 0, 0, False, conversion=True)
                self.kernels.append(kernel)
                self.bytes[name] = FP16

    def _emit(
        self, chain: list[onnx.NodeProto], end: str, width: int, int8: bool = False, conversion: bool = False
    ) -> None:
        inner = {name for node in chain for name in node.output}
        reads = dict.fromkeys(name for node in chain for name in node.input if name and name not in inner)
        first, macs = chain[0], self._macs(chain[0])
        self.kernels.append(
            Kernel(
                name=first.name or first.output[0],
                nodes=tuple(node.name for node in chain),
                read=sum(self._size(name) * self.bytes.get(name, FP16) for name in reads if name not in self.constants),
                written=self._size(end) * width,
                weights=prod(self.constants[first.input[1]]) * (INT8 if int8 else FP16) if macs else 0,
                macs=macs,
                int8=int8,
                conversion=conversion,
            )
        )
        self.taken |= inner
        self.bytes[end] = width

    def _macs(self, node: onnx.NodeProto) -> int:
        dims = self.constants.get(node.input[1], ()) if node.op_type in _MULTIPLIES else ()
        if not dims:
            return 0
        outputs = dims[-1] if node.op_type == "MatMul" else dims[0]
        return prod(dims) * self._size(node.output[0]) // outputs

    def _size(self, name: str) -> int:
        """Elements of one image; a Q or DQ has its input's."""
        while name not in self.sizes or not self.sizes[name]:
            node = self.producers.get(name)
            if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                raise ValueError(f"the size of {name} is unknown")
            name = node.input[0]
        return self.sizes[name]
