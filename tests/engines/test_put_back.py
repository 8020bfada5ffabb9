"""INT8 layers put back to FP16 in TensorRT's own network, before it is built: real builds of TensorRT-RTX, without a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import to_half
from calibration.quantise.prepare import prepare
from export.fp16 import to_fp16
from runtime.backends.tensorrt.build import Built, build
from runtime.backends.tensorrt.generations import generation
from runtime.backends.tensorrt.layers import Cost
from runtime.backends.tensorrt.network import products_of, put_back
from runtime.backends.tensorrt.options import Batch, BuildOptions
from tests.calibration.small_network import SIDE, small_model

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
ROW = generation("tensorrt_rtx", trt.__version__)


def chain() -> bytes:
    """The small network in INT8 from layer to layer: depthwise outputs and the residual's identity too."""
    network = LayerGraph(small_model())
    normalised = np.random.default_rng(0).normal(0, 1, (4, 3, SIDE, SIDE)).astype(np.float32)
    prepared = prepare(network, lambda: [normalised], 1)
    return to_half(prepared.graph()).SerializeToString()


@pytest.fixture(scope="module")
def int8() -> bytes:
    return chain()


def built(graph: bytes, precision: str, higher: Any = None) -> Built:
    options = BuildOptions(precision, Batch(1, 1, 4), opt_level=0, higher=higher, target="sm_89")
    return build(trt, ROW, graph, options)


def in_int8(made: Built) -> set[str]:
    """The layers whose weights a kernel has in INT8, as the builder tells."""
    return {node for layer in made.layers if layer.precision == "int8" for node in layer.nodes} & set(made.products)


def test_layers_that_are_put_back_are_fp16_in_the_engine(int8: bytes) -> None:
    everything = {
        "stem",
        "head",
        *(f"{b}/{part}" for b in ("first", "second") for part in ("expand", "depthwise", "project")),
    }
    assert in_int8(built(int8, "int8")) == everything == in_int8(built(int8, "int8", ()))
    depthwise = ("first/depthwise", "second/depthwise")
    made = built(int8, "int8", depthwise)
    assert in_int8(made) == everything - {*depthwise} and made.put_back == list(depthwise)
    assert {name for name, product in made.products.items() if product.int8} == everything  # as the file has them
    assert [name for name, product in made.products.items() if product.expands] == ["first/expand", "second/expand"]


def test_with_all_put_back_the_engine_is_that_of_fp16(int8: bytes) -> None:
    """Nothing is left of a Q/DQ pair: not of the identity's, and not of those behind depthwise layers."""
    every = [name for name, product in built(int8, "int8").products.items() if product.int8]
    made, fp16 = built(int8, "int8", tuple(every)), built(to_fp16(small_model()).SerializeToString(), "fp16")
    assert not in_int8(made) and not [layer for layer in made.layers if "_int8_" in " ".join(layer.nodes)]
    cost, wanted = Cost.of(made.layers), Cost.of(fp16.layers)
    assert (cost.kernels, cost.reformats) == (wanted.kernels, wanted.reformats)
    assert cost.activation_bytes == wanted.activation_bytes and cost.int8_macs == 0


def test_the_weights_of_a_layer_put_back_are_its_int8_ones_times_their_scales(int8: bytes) -> None:
    network = trt.Builder(trt.Logger()).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, trt.Logger()).parse(int8)
    (kept,) = put_back(trt, network, ["first/project"])
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(int8).graph.initializer
    }
    whole, scale = constants["first/project.weight"], constants["first/project.weight_scale"]
    np.testing.assert_array_equal(kept, (whole.astype(np.float32) * scale.reshape(-1, 1, 1, 1)).astype(np.float16))
    products = products_of(trt, network)
    assert not products["first/project"].int8 and products["second/expand"].int8  # which reads what that one gives
