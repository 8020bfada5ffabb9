"""What TensorRT needs of a placement to fuse it, on every family."""

from __future__ import annotations

import onnx
import pytest

from calibration.quantise.blocks import FORMS, blocks
from tests.calibration.families import FAMILIES, everything_in_int8

_ACTIVATIONS = ("Sigmoid", "Clip", "Relu", "HardSwish")


def assert_fuses(model: onnx.ModelProto) -> int:
    """Returns how many depthwise layers are INT8."""
    producers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name for tensor in model.graph.initializer}
    quantised = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == len(set(quantised)), "one Q a tensor"
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            maker = producers.get(node.input[0])
            gate = maker is not None and maker.op_type == "Add"  # an offset belongs to the gate's product
            if maker is not None and not gate:
                assert not any(name in constants for name in maker.input if maker.op_type == "Mul"), "a factor"
    found = 0
    for node in model.graph.node:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        weight = producers.get(node.input[1]) if node.op_type == "Conv" and groups > 1 else None
        if weight is None or weight.op_type != "DequantizeLinear":
            continue
        found += 1
        end = node.output[0]
        after = readers[end]
        if {reader.op_type for reader in after} == {"Sigmoid", "Mul"}:
            end = next(reader.output[0] for reader in after if reader.op_type == "Mul")
        elif after[0].op_type in _ACTIVATIONS:
            end = after[0].output[0]
        assert [reader.op_type for reader in readers[end]] == ["QuantizeLinear"], f"{node.name} writes floats"
        dequantised = readers[readers[end][0].output[0]]
        assert [reader.op_type for reader in dequantised] == ["DequantizeLinear"], (
            "one pair for the pool and the product"
        )
    return found


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_chain_has_every_tensor_in_int8(variant: str) -> None:
    prepared = everything_in_int8(variant)
    model = prepared.graph()
    onnx.checker.check_model(model, full_check=True)
    depthwise = [layer for layer in prepared.network.layers if layer.depthwise]
    assert assert_fuses(model) == len(depthwise) > 0
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        layer = next((layer for layer in prepared.network.layers if layer.name == node.name), None)
        if layer is not None and not layer.pooled:
            assert producers[node.input[0]].op_type == "DequantizeLinear", node.name
    adds = {residual.name for residual in prepared.network.residuals}
    for node in model.graph.node:
        if node.name in adds:
            assert sorted(producers[name].op_type for name in node.input) == ["Conv", "DequantizeLinear"]


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_each_block_fuses(variant: str, form: str) -> None:
    prepared = everything_in_int8(variant)
    units = blocks(prepared.network)
    assert {name for block in units for name in block.layers} == set(prepared.layers), "no layer is left out"
    for block in units[2::5]:
        if form not in block.forms():
            continue
        model = prepared.graph({block.name: form})
        assert_fuses(model)
        producers = {name: node for node in model.graph.node for name in node.output}
        nodes = {node.name: node for node in model.graph.node}
        int8 = {
            name
            for name in block.layers
            if producers.get(nodes[name].input[0], nodes[name]).op_type == "DequantizeLinear"
        }
        assert int8 == set(block.layers) - set(block.higher(form))


def test_the_rules_see_a_float_output() -> None:
    prepared = everything_in_int8("b0")
    prepared.outputs.clear()
    with pytest.raises(AssertionError, match="writes floats"):
        assert_fuses(prepared.graph())
