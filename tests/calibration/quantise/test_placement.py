"""The Q/DQ graphs obey TensorRT's rules, read from the graph, and compute what they say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from calibration.collect.ranges import LEVELS
from calibration.layer_graph import LayerGraph, chunks, logits_of, open_session, sqnr
from calibration.quantise.placement import (
    offset_site,
    quantised_graph,
    share_in_int8,
    to_half,
    with_float_weights,
)
from calibration.quantise.prepare import Prepared, from_arrays, prepare, to_arrays
from calibration.search.sensitivity import simulate
from export.graphs import with_outputs
from tests.calibration.small_network import small_model


@pytest.fixture(params=["squeeze", "relu6"])
def prepared(request: pytest.FixtureRequest, batch: np.ndarray) -> Prepared:
    network = LayerGraph(small_model(relu6=request.param == "relu6"))
    return prepare(network, lambda: chunks(batch), 1)


def assert_obeys_tensorrt(model: onnx.ModelProto, float_type: int) -> None:
    """Every rule of explicit quantisation that TensorRT checks or punishes with a lost fusion."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    seen: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            assert types[node.input[1]] == float_type
            assert zero.dtype == np.int8 and not zero.any(), "symmetric int8"
            assert (scale > 0).all() and np.isfinite(scale).all()
        if node.op_type == "QuantizeLinear":
            seen["activation"] += 1
            assert constants[node.input[1]].shape == (), "one scale for a whole activation"
            assert [user.op_type for user in users[node.output[0]]] == ["DequantizeLinear"]
            source = producers.get(node.input[0])
            if source is not None and source.op_type == "Conv":
                others = {user.op_type for user in users[node.input[0]]}
                assert others <= {"QuantizeLinear", "Add"}, "nothing between a Conv and its activation"
        if node.op_type == "DequantizeLinear":
            for user in users[node.output[0]]:
                at = list(user.input).index(node.output[0])
                if node.input[0] in constants:
                    assert user.op_type in ("Conv", "Gemm") and at == 1, "weights, never biases"
                    assert onnx.helper.get_node_attr_value(node, "axis") == 0
                    assert constants[node.input[1]].shape == (len(constants[node.input[0]]),), (
                        "a scale an output channel"
                    )
                    assert np.abs(constants[node.input[0]].astype(int)).max() <= 127
                else:
                    assert user.op_type == "Add" or (user.op_type in ("Conv", "Gemm") and at == 0)
        if node.op_type in ("Conv", "Gemm"):
            quantised = [
                producers[name].op_type == "DequantizeLinear" if name in producers else False for name in node.input
            ]
            assert quantised[:2] in ([True, True], [False, False]), "both or neither"
            assert types[node.input[2]] == float_type, "biases in float"
            seen["int8 layer"] += quantised[0]
        if node.op_type == "Add" and not any(name in constants for name in node.input):
            kinds = sorted(producers[name].op_type for name in node.input)
            branch = next(producers[n] for n in node.input if producers[n].op_type == "Conv")
            if producers[branch.input[1]].op_type == "DequantizeLinear" if branch.input[1] in producers else False:
                assert kinds == ["Conv", "DequantizeLinear"], "Q/DQ on the identity, none on the branch"
                seen["residual"] += 1
    assert seen["int8 layer"] and seen["activation"] and seen["residual"]


def test_rules_in_fp32_and_fp16(prepared: Prepared) -> None:
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities, ["first/depthwise"])
    onnx.checker.check_model(graph, full_check=True)
    assert graph.opset_import[0].version == 17
    assert_obeys_tensorrt(graph, TensorProto.FLOAT)
    half = to_half(graph)
    assert half.opset_import[0].version == 19
    assert_obeys_tensorrt(half, TensorProto.FLOAT16)
    assert {tensor.data_type for tensor in half.graph.initializer} <= {
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.INT64,
    }
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_layers_kept_in_float_are_untouched(prepared: Prepared) -> None:
    kept = ["first/project", "stem"]
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities, kept)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for name in kept:
        node = next(node for node in graph.graph.node if node.name == name)
        np.testing.assert_array_equal(constants[node.input[1]], prepared.network.weights[node.input[1]])
    assert share_in_int8(prepared.network, kept) < share_in_int8(prepared.network, [])


def test_pooled_layers_stay_in_float(prepared: Prepared) -> None:
    assert not {layer.name for layer in prepared.network.layers if layer.pooled} & set(prepared.layers)


def test_an_identity_is_quantised_only_beside_an_int8_branch(prepared: Prepared) -> None:
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities, ["second/project"])
    add = next(node for node in graph.graph.node if node.name == "second_sum")
    assert not any(name.endswith("_dq") for name in add.input)


def test_offset_is_taken_off_again(prepared: Prepared, batch: np.ndarray) -> None:
    network, name = prepared.network, "second/project"
    layer, quantised = network.layer(name), prepared.layers[name]
    assert offset_site(network, layer) and quantised.range.offset
    tensors = [layer.input, layer.output]
    before = open_session(with_outputs(network.to_model(), tensors), 1).run(tensors, {"images": batch})
    graph = quantised_graph(network, {name: quantised}, {})
    got = open_session(with_outputs(graph, [layer.output]), 1, integer=False).run([layer.output], {"images": batch})[0]
    moved = before[0] + quantised.range.offset
    held = (
        np.clip(np.round(moved / quantised.range.scale), -LEVELS, LEVELS) * quantised.range.scale
        - quantised.range.offset
    )
    expected = np.einsum("nchw,kc->nkhw", held, quantised.floats[:, :, 0, 0]) + quantised.bias[:, None, None]
    np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max())
    assert sqnr(before[1], got) > 15


def test_no_offset_where_padding_would_see_it(network: LayerGraph) -> None:
    assert offset_site(network, network.layer("first/depthwise")) is None
    assert offset_site(network, network.layer("stem")) is None
    assert offset_site(network, network.layer("second/expand")) is None


def test_int8_computes_nearly_what_fp32_does(prepared: Prepared, batch: np.ndarray) -> None:
    reference = logits_of(open_session(prepared.network.to_model(), 1), [batch])
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities)
    logits = simulate(graph, [batch], 1)
    assert sqnr(reference, logits) > 20
    assert sqnr(reference, simulate(to_half(graph), [batch], 1)) > 20


def test_prepared_survives_being_kept(prepared: Prepared, batch: np.ndarray, tmp_path: Path) -> None:
    again = from_arrays(prepared.network, to_arrays(prepared))
    graphs = [quantised_graph(p.network, p.layers, p.identities).SerializeToString() for p in (prepared, again)]
    assert graphs[0] == graphs[1]
    assert {name: h.max for name, h in again.histograms.items()} == {
        name: h.max for name, h in prepared.histograms.items()
    }


def test_weights_as_tensorrt_8_reads_them(prepared: Prepared, batch: np.ndarray) -> None:
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities, ["stem"])
    paired = with_float_weights(graph)
    floats = {tensor.name for tensor in paired.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    producers = {name: node for node in paired.graph.node for name in node.output}
    for node in paired.graph.node:
        if node.op_type == "DequantizeLinear":
            quantise = producers[node.input[0]]
            assert quantise.op_type == "QuantizeLinear" and list(quantise.input[1:]) == list(node.input[1:])
            weight = quantise.input[0] in floats
            assert onnx.helper.get_node_attr_value(quantise, "axis") == 0 if weight else True
    np.testing.assert_array_equal(simulate(paired, [batch], 1), simulate(graph, [batch], 1))
