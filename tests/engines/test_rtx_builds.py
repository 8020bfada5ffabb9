"""Real engines: TensorRT-RTX's parser and builder, which need no GPU, on what export and calibration write.

Its parser is TensorRT's: a graph that it refuses is a bug of ours. Weights are random here; engines don't run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import quantised_graph, to_half
from calibration.quantise.prepare import prepare
from export.fp16 import to_fp16
from export.pixels import with_pixels
from export.to_onnx import simplify, trace
from models.network import EfficientNet
from models.variants import VARIANTS
from runtime import engine as command
from runtime.backends.tensorrt.build import BuildError, build
from runtime.backends.tensorrt.generations import generation
from runtime.backends.tensorrt.manifest import read_manifest
from runtime.backends.tensorrt.options import Batch, BuildOptions
from tests.calibration.small_network import PREPROCESSING, SIDE, small_model
from tests.in_process import called
from tests.interruptible import interruptible
from tests.runtime.artifacts.onnx_bytes import taking_pixels

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
ROW = generation("tensorrt_rtx", trt.__version__)
BATCH = Batch(1, 1, 4)


def exported(name: str) -> onnx.ModelProto:
    variant = VARIANTS[name]
    return simplify(trace(EfficientNet(variant).eval(), variant.resolution))


@pytest.fixture(scope="module", params=["b0", pytest.param("b4", marks=pytest.mark.long)])
def graphs(request: pytest.FixtureRequest) -> dict[str, bytes]:
    """The three artifacts' graphs by precision."""
    fp32 = exported(request.param)
    network = LayerGraph(fp32)
    side = network.shapes[network.input][2]
    normalised = np.random.default_rng(0).normal(0, 1, (1, 3, side, side)).astype(np.float32)
    prepared = prepare(network, lambda: [normalised], 1)
    int8 = to_half(prepared.graph())
    models = {"fp32": fp32, "fp16": to_fp16(fp32), "int8": int8}
    return {precision: model.SerializeToString() for precision, model in models.items()}


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        *((precision, "sm_89") for precision in ("fp32", "fp16", "int8")),
        *(("int8", target) for target in ("sm_86", "sm_120")),  # whose kernels differ most
        *(
            pytest.param(precision, target, marks=pytest.mark.long)
            for precision in ("fp32", "fp16")
            for target in ("sm_86", "sm_120")
        ),
    ],
)
def test_builds(graphs: dict[str, bytes], precision: str, target: str) -> None:
    phases = set()
    options = BuildOptions(precision, BATCH, opt_level=0, target=target)
    built = build(trt, ROW, graphs[precision], options, progress=lambda phase, *_: phases.add(phase))
    assert len(built.engine) > 0.5 * min(map(len, graphs.values())) and len(phases) > 3


def test_maps_of_features_build() -> None:
    """Small, since what is new to it are several outputs, of which all but the last are used further on."""
    fp32 = simplify(trace(EfficientNet(VARIANTS["lite0"]).eval(), 64, "features"))
    graph = with_pixels(to_fp16(fp32), PREPROCESSING._replace(resolution=64)).SerializeToString()
    network = trt.Builder(trt.Logger()).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, trt.Logger()).parse(graph)
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    named = {output.name: (list(output.shape), output.dtype) for output in outputs}
    wanted = [("stride4", 24, 16), ("stride8", 40, 8), ("stride16", 112, 4), ("stride32", 320, 2)]
    assert named == {name: ([-1, channels, size, size], trt.DataType.FLOAT) for name, channels, size in wanted}
    built = build(trt, ROW, graph, BuildOptions("fp16", BATCH, opt_level=0, target="sm_89"))
    assert len(built.engine) > 0.5 * len(graph)


@pytest.mark.long
def test_b7_builds() -> None:
    options = BuildOptions("fp16", BATCH, opt_level=0, target="sm_89")
    assert len(build(trt, ROW, to_fp16(exported("b7")).SerializeToString(), options).engine) > 100e6


@pytest.fixture(scope="module")
def lite0() -> bytes:
    return artifacts().joinpath("lite0", "lite0.fp32.onnx").read_bytes()


def artifacts() -> Path:
    folder = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to build (make test sets it)")
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def pixel_graphs() -> dict[str, bytes]:
    """What INPUT=uint8 writes, by precision: of lite0, and for INT8 of the small network that is quicker to calibrate."""
    floats = {precision: onnx.load(artifacts() / "lite0" / f"lite0.{precision}.onnx") for precision in ("fp32", "fp16")}
    network = LayerGraph(small_model())
    normalised = np.random.default_rng(0).normal(0, 1, (4, 3, SIDE, SIDE)).astype(np.float32)
    prepared = prepare(network, lambda: [normalised], 1)
    floats["int8"] = to_half(quantised_graph(network, prepared.layers, prepared.identities))
    return {precision: with_pixels(model, PREPROCESSING).SerializeToString() for precision, model in floats.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_pixels_are_taken(pixel_graphs: dict[str, bytes], precision: str) -> None:
    graph = pixel_graphs[precision]
    network = trt.Builder(trt.Logger()).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, trt.Logger()).parse(graph)
    image, shape = network.get_input(0), [-1, 224, 224, 3] if precision != "int8" else [-1, SIDE, SIDE, 3]
    assert image.name == "pixels" and image.dtype == trt.DataType.UINT8 and list(image.shape) == shape
    built = build(trt, ROW, graph, BuildOptions(precision, BATCH, opt_level=0, target="sm_89"))
    assert len(built.engine) > 0.5 * len(graph)


def test_pixels_go_into_a_cast_and_nothing_else(lite0: bytes) -> None:
    """Why the front begins as it does. The fake of tests/runtime refuses this in the same words."""
    said = refusal(taking_pixels(lite0, PREPROCESSING._replace(resolution=224), wrong_order=True))
    assert "first input has type UInt8 but must have type Float" in said


def refusal(onnx_file: bytes, **options: Any) -> str:
    with pytest.raises(BuildError) as error:
        build(trt, ROW, onnx_file, BuildOptions(**{"precision": "fp32", "target": "sm_89", **options}))
    return str(error.value)


def test_what_it_refuses_comes_out_in_words(lite0: bytes) -> None:
    assert "the ONNX file is damaged: export it again" in refusal(lite0[:100_000])
    assert "the ONNX file is damaged" in refusal(b"no network at all")
    assert "an operator that it doesn't know" in refusal(lite0.replace(b"Clip", b"Clop"))
    assert "FP32 classifiers need a GPU newer than Turing" in refusal(lite0, target="sm_75")


def test_a_missing_profile_comes_out_in_words(lite0: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt.IBuilderConfig, "add_optimization_profile", lambda *_: 0)
    assert "no profile was given" in refusal(lite0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lite0").mkdir()
    for file in artifacts().joinpath("lite0").glob("lite0.*.onnx"):
        (tmp_path / "lite0" / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_command_builds_once_and_tells_what(folder: Path) -> None:
    arguments = ["--precision", "fp16", "--target", "sm_89", "--batch", "1,4,8", "--workspace", "256M"]
    words = [sys.executable, "-m", "runtime.engine", "--variant", "lite0", "--artifacts", str(folder), *arguments]
    first = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert first.returncode == 0, first.stderr
    path = folder / "lite0" / "lite0.fp16.rtx-sm89.engine"
    made = read_manifest(path)
    assert made.options.batch == Batch(1, 4, 8) and made.onnx == "lite0.fp16.onnx" and made.peak_memory > 50e6
    assert str(path) in first.stdout and "has not run it" in first.stdout
    written = path.stat().st_mtime_ns
    given = ("--variant", "lite0", "--artifacts", folder, *arguments)
    assert "up to date" in called(command.main, *given).out and path.stat().st_mtime_ns == written
    again = called(command.main, *given[:-2])  # other options, another engine
    assert again.status == 0 and "up to date" not in again.out
    assert sorted(p.name for p in (folder / "lite0").glob("*engine*")) == [path.name, path.name + ".json"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--precision", "int8", "--target", "sm_89"], "make calibrate VARIANT=lite0"),
        (["--target", "sm_87"], "can't build for sm_87: it knows sm_75, sm_80"),
        (["--target", "ada"], "no GPU architecture"),
        (["--target", "sm_89", "--batch", "8,1"], "is no batch"),
        (["--target", "sm_89", "--opt-level", "7"], "optimisation level 7"),
        (["--backend", "tensorrt", "--target", "sm_89"], "tensorrt"),
    ],
)
def test_a_wrong_wish_is_a_sentence(folder: Path, arguments: list[str], reason: str) -> None:
    done = called(command.main, "--variant", "lite0", "--artifacts", folder, *arguments)
    assert done.status == 2 and reason in done.err
    assert not list(folder.glob("*/*engine*"))


def test_ctrl_c_stops_the_build_and_leaves_nothing(folder: Path) -> None:
    words = [sys.executable, "-m", "runtime.engine", "--variant", "lite0", "--artifacts", str(folder)]
    process = subprocess.Popen(
        [*words, "--target", "sm_89", "--opt-level", "5"], preexec_fn=interruptible, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not child_of(process.pid):
        time.sleep(0.02)
    builder = child_of(process.pid)
    assert builder, "the builder's process did not start"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in said
    assert not list(folder.glob("*/.*")) and not list(folder.glob("*/*engine*"))
    deadline = time.monotonic() + 120  # an orphan that was killed waits until init has looked at it
    while time.monotonic() < deadline and Path(f"/proc/{builder}").exists():
        time.sleep(0.02)
    assert not Path(f"/proc/{builder}").exists()


def child_of(parent: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children")
    found = children.read_text().split() if children.exists() else []
    return int(found[0]) if found else 0
