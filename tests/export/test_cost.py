"""The kernels of a placement and their bytes, held against what NVIDIA's libraries and others' measurements tell."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from calibration.quantise.blocks import blocks
from calibration.quantise.prepare import Prepared
from export.cost import GENERATIONS, cost, kernels
from tests.calibration.families import everything_in_int8


def placed(prepared: Prepared, form: str) -> onnx.ModelProto:
    """Every block in `form`, or in the next that it has."""
    units = blocks(prepared.network)
    return prepared.graph({block.name: form if form in block.forms() else "chain" for block in units})


def test_b0_in_fp16_is_115_kernels() -> None:
    """By hand: 82 convolutions and Gemm, 16 pools and 16 gate products of squeeze-and-excitation, the last pool."""
    found = kernels(everything_in_int8("b0").network.to_model())
    assert len(found) == 115
    assert sum(kernel.macs for kernel in found) == pytest.approx(385.8e6, rel=1e-3)
    stem = found[0]
    assert (stem.read, stem.written, stem.weights) == (2 * 3 * 224**2, 2 * 32 * 112**2, 2 * 32 * 27)


@pytest.mark.parametrize(
    ("form", "generation", "gain"),  # bytes of FP16 over those of the placement, as counted by hand for issue 17
    [("chain", "10.15", 1.97), ("chain", "8.5", 1.05), ("pointwise", "8.5", 1.20)],
)
def test_bytes_of_b0s_placements(form: str, generation: str, gain: float) -> None:
    prepared = everything_in_int8("b0")
    before, after = cost(prepared.network.to_model()), cost(placed(prepared, form), GENERATIONS[generation])
    assert before.activations / after.activations == pytest.approx(gain, rel=0.04)


def test_a_depthwise_layer_without_a_q_behind_it_moves_more_than_fp16() -> None:
    prepared = everything_in_int8("b0")
    whole, float_end = cost(prepared.graph()), cost(Prepared(*_without_outputs(prepared)).graph())
    assert float_end.activations > 1.1 * cost(prepared.network.to_model()).activations > 2 * whole.activations
    assert float_end.kernels == whole.kernels + 16, "SiLU is a kernel of its own"


def _without_outputs(prepared: Prepared) -> tuple:
    return prepared.network, prepared.layers, prepared.identities, {}, {}


def test_lite_chains_in_every_generation() -> None:
    graph = everything_in_int8("lite0").graph()
    costs = {name: cost(graph, generation) for name, generation in GENERATIONS.items()}
    assert costs["8.5"] == costs["10.15"]
    assert costs["8.5"].conversions == 1, "of the image alone"


def test_a_factor_between_silu_and_q_is_a_kernel_more() -> None:
    def graph(factor: bool) -> onnx.ModelProto:
        end = "scaled" if factor else "act"
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"], "xq"),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], "xd"),
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wd"], "wd"),
            helper.make_node("Conv", ["xd", "wd"], ["y"], "conv"),
            helper.make_node("Sigmoid", ["y"], ["s"], "sigmoid"),
            helper.make_node("Mul", ["y", "s"], ["act"], "mul"),
            *([helper.make_node("Mul", ["act", "f"], ["scaled"], "factor")] if factor else []),
            helper.make_node("QuantizeLinear", [end, "scale", "zero"], ["q"], "q"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["z"], "dq"),
        ]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8, 16, 16]) for name in ("x", "z")]
        constants = [
            helper.make_tensor("w", TensorProto.INT8, [8, 8, 1, 1], [1] * 64),
            helper.make_tensor("f", TensorProto.FLOAT, [1, 8, 1, 1], [2.0] * 8),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
            helper.make_tensor("zero", TensorProto.INT8, [], [0]),
        ]
        return helper.make_model(
            helper.make_graph(nodes, "one", values[:1], values[1:], constants),
            opset_imports=[helper.make_opsetid("", 17)],
        )

    size = 8 * 16 * 16
    plain, factored = kernels(graph(False)), kernels(graph(True))
    image = (2 * size, size)  # is converted
    assert [(kernel.read, kernel.written) for kernel in plain] == [image, (size, size)]
    assert [(kernel.read, kernel.written) for kernel in factored] == [image, (size, 2 * size), (2 * size, size)]
