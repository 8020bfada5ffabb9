"""What TensorRT-RTX says of its kernels, through the command: real builds of a small network, for a GPU that is not here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import quantised_graph, to_half
from calibration.quantise.prepare import prepare
from export.fp16 import to_fp16
from runtime import engine
from runtime.backends.tensorrt.manifest import read_manifest
from tests.calibration.small_network import SIDE, small_model, write_artifact
from tests.in_process import called

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network in FP32, FP16 and INT8."""
    folder, model = tmp_path_factory.mktemp("small"), small_model()
    network = LayerGraph(model)
    normalised = np.random.default_rng(0).normal(0, 1, (4, 3, SIDE, SIDE)).astype(np.float32)
    prepared = prepare(network, lambda: [normalised], 1)
    int8 = to_half(quantised_graph(network, prepared.layers, prepared.identities))
    for precision, graph in (("fp32", model), ("fp16", to_fp16(model)), ("int8-fp16", int8)):
        write_artifact(folder, graph, precision)
    return folder


def test_int8_is_shown_beside_fp16_and_not_recommended(folder: Path) -> None:
    arguments = ("--variant", "small", "--gpu", "sm_89", "--artifacts", folder)
    done = called(engine.main, *arguments, "--precision", "int8", "--explain")
    assert done.status == 0, done.err
    heads, fp16, int8, advice = done.out.splitlines()[:4]
    assert heads.split()[0] == "kernels" and fp16.split()[0] == "fp16" and int8.split()[0] == "int8"
    assert int(int8.split()[1]) > int(fp16.split()[1]) and float(int8.split()[2]) > float(fp16.split()[2])
    assert advice.startswith("INT8 moves ") and advice.endswith("use PRECISION=fp16 here.")
    path = folder / "small" / "small.int8.rtx-sm89.engine"
    cost, layers = read_manifest(path).cost, json.loads(path.with_suffix(".layers.json").read_text())["layers"]
    assert cost and cost.kernels == len(layers) == int(int8.split()[1])
    network = LayerGraph(small_model())
    assert network.macs - 256 == sum(
        layer["macs"] for layer in layers
    )  # two gates of four values are no product any more
    in_int8 = sum(layer["macs"] for layer in layers if layer["precision"] == "int8")
    pooled = sum(layer.macs for layer in network.layers if layer.pooled)  # those stay in FP16
    assert in_int8 == network.macs - pooled and cost.int8_macs == pytest.approx(in_int8 / network.macs, abs=1e-3)
    assert "/first/depthwise" in "".join(f"/{name}" for layer in layers for name in layer["nodes"])
    assert "<script>" in path.with_suffix(".layers.html").read_text()


def test_best_is_fp16_and_says_why(folder: Path, tmp_path: Path) -> None:
    arguments = ("--variant", "small", "--gpu", "sm_89", "--artifacts")
    done = called(engine.main, *arguments, folder)
    assert done.status == 0, done.err
    assert "small.fp16.rtx-sm89.engine" in done.out and "PRECISION=best is FP16 here. INT8 moves" in done.out
    (tmp_path / "small").mkdir()
    for file in folder.glob("small/small.fp*.onnx"):
        (tmp_path / "small" / file.name).symlink_to(file)
    done = called(engine.main, *arguments, tmp_path)  # not calibrated
    assert done.status == 0 and "INT8 was not looked at:" in done.out and "make calibrate VARIANT=small" in done.out
