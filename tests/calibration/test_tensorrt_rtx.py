"""NVIDIA's own parser and builder accept the INT8+FP16 graph, strongly typed; building needs no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.layer_graph import LayerGraph, chunks
from calibration.quantise.placement import quantised_graph, to_half
from calibration.quantise.prepare import prepare
from tests.calibration.small_network import small_model

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.mark.parametrize("relu6", [False, True])
def test_builds(relu6: bool, batch: np.ndarray, tmp_path: Path) -> None:
    network = LayerGraph(small_model(relu6=relu6))
    prepared = prepare(network, lambda: chunks(batch), 1)
    half = to_half(quantised_graph(network, prepared.layers, prepared.identities, ["first/depthwise"]))
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    graph = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(graph, logger)
    assert parser.parse(half.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(n, *tuple(graph.get_input(0).shape)[1:]) for n in (1, 1, 4)])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(graph, config)
    assert engine is not None and engine.nbytes > 10_000
