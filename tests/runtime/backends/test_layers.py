"""What builders tell about their kernels, read into one table: TensorRT-RTX's log, and TensorRT's engine inspector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.artifacts.artifact import read_artifact
from runtime.backends.tensorrt.explain import advice, explain, layers_path, page_path
from runtime.backends.tensorrt.layers import Cost, from_json, from_log
from runtime.backends.tensorrt.manifest import read_manifest
from runtime.backends.tensorrt.options import Batch, BuildOptions
from runtime.backends.tensorrt.site import open_site
from runtime.errors import UserError
from tests.runtime.artifacts.changed_artifacts import linked
from tests.runtime.backends.test_tensorrt_build import install
from tests.runtime.test_html_page import Tags

# Four kernels of B0 in INT8 as TensorRT-RTX 1.7.1 logs them for sm_89, strides and constants without effect left out.
LOG = """Layers:
Name: __mye6057_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: __myl_CastMulMinMaxRounCastReplConc_myl0_1, LayerType: kgen, Inputs: [ { Name: images, Dimensions: [-1,3,224,224], Strides: [150528,50176,224,1], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [ { Name: c, Dimensions: [1], Datatype: Half, Format: (Linear) Row major linear format }], Outputs: [ { Name: __mye7918/stem/conv/Conv_output_0_before_bias.1_61_myl0, Dimensions: [-1,4,224,224], Datatype: Int8, Format: (NHWC) Channel major format }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: images_int8_q][ONNX Layer: /stem/conv/Conv]
Name: /stem/conv/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [-1,4,224,224], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [32,4,3,3], Datatype: Int8, Format: (NHWC) Channel major format }, { Name: s, Dimensions: [1,32,1,1], Datatype: Float, Format: (NHWC) Channel major format }], Outputs: [ { Name: b, Dimensions: [-1,32,112,112], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: /stem/conv/Conv][ONNX Layer: images_int8_dq]
Name: __myl_MulCastAddSilu_myl0_3, LayerType: kgen, Inputs: [ { Name: b, Dimensions: [-1,32,112,112], Datatype: Float, Format: (NHWC) Channel major format }], Constants: [ { Name: s, Dimensions: [1,32,1,1], Datatype: Half, Format: (NHWC) Channel major format }], Outputs: [ { Name: d, Dimensions: [-1,32,112,112], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: /act/Mul][ONNX Layer: /stem/conv/Conv]
Name: __myl_CorrSilu_myl0_117, LayerType: runtime_fusion, Inputs: [ { Name: d, Dimensions: [-1,192,7,7], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [1152,192,1,1], Datatype: Half, Format: (NHWC) Channel major format }], Outputs: [ { Name: e, Dimensions: [-1,1152,7,7], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: /stages.5.2/expand/conv/Conv]
"""  # noqa: E501, W291
MACS = {"/stem/conv/Conv": 3 * 9 * 32 * 112 * 112, "/stages.5.2/expand/conv/Conv": 192 * 1152 * 49}


def test_the_list_that_tensorrt_rtx_logs() -> None:
    quantise, stem, silu, expand = layers = from_log(LOG, MACS)
    assert (quantise.read, quantise.written, quantise.reformat, quantise.precision) == (
        3 * 224**2 * 4,
        4 * 224**2,
        True,
        "",
    )
    assert (stem.precision, stem.weights, stem.written) == ("int8", 32 * 36 + 32 * 4, 32 * 112**2 * 4)
    assert stem.macs == MACS["/stem/conv/Conv"]  # not shared with the two kernels around it that name it too
    assert not silu.reformat and not silu.precision and silu.macs == 0 and silu.nodes == ("/act/Mul", "/stem/conv/Conv")
    assert expand.precision == "fp16" and expand.macs == MACS["/stages.5.2/expand/conv/Conv"]
    cost = Cost.of(layers)
    assert (cost.kernels, cost.reformats) == (4, 1)  # a shape_call launches nothing
    assert cost.activation_bytes == sum(layer.read + layer.written for layer in layers)
    assert cost.int8_macs == round(stem.macs / (stem.macs + expand.macs), 4)


def inspected(**changes: Any) -> str:
    """Two layers in the form of trt-engine-explorer's test inputs (MobileNetV2, TensorRT 8.4), for two images."""
    int8 = "Thirty-two wide channel vectorized row major Int8 format"
    convolution = {
        "Name": "features.3.conv.2.weight + QuantizeLinear_119 + Conv_121 + Add_123",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": name, "Dimensions": [2, 24, 56, 56], "Format/Datatype": int8} for name in ("561", "523")],
        "Outputs": [{"Name": "575", "Dimensions": [2, 24, 56, 56], "Format/Datatype": int8}],
        "ParameterType": "Convolution",
        "Weights": {"Type": "Int8", "Count": 3456},
        "Bias": {"Type": "Float", "Count": 24},
        **changes,
    }
    reformat = {
        "Name": "Reformatting CopyNode for Input Tensor 0 to GlobalAveragePool_747",
        "LayerType": "Reformat",
        "Inputs": [{"Name": "a", "Dimensions": [2, 1280, 7, 7], "Format/Datatype": int8}],
        "Outputs": [{"Name": "b", "Dimensions": [2, 1280, 7, 7], "Format/Datatype": "Row major linear FP16"}],
        "Origin": "REFORMAT",
    }
    return json.dumps({"Layers": [convolution, {"Name": "n", "LayerType": "NoOp"}, reformat], "Bindings": ["images"]})


def test_what_the_engine_inspector_tells() -> None:
    times = {"Reformatting CopyNode for Input Tensor 0 to GlobalAveragePool_747": 0.006}
    convolution, reformat = from_json(inspected(), {"Conv_121": 5}, 2, times)
    assert convolution.nodes[1:] == ("QuantizeLinear_119", "Conv_121", "Add_123") and convolution.macs == 5
    assert (convolution.read, convolution.written, convolution.weights) == (2 * 24 * 56**2, 24 * 56**2, 3456 + 96)
    assert convolution.precision == "int8" and not convolution.reformat and convolution.milliseconds is None
    assert reformat.reformat and reformat.activations == 1280 * 49 * 3 and reformat.milliseconds == 0.006


def test_an_engine_that_tells_too_little_is_refused() -> None:
    untold = [{"Name": "x", "Dimensions": [-1, 3], "Format/Datatype": "N/A due to dynamic shapes"}]
    with pytest.raises(ValueError, match="type of x is not told"):
        from_json(inspected(Inputs=untold), {}, 2)
    with pytest.raises(ValueError, match="without details"):
        from_json('{"Layers": ["conv1"], "Bindings": []}', {}, 1)


@pytest.mark.parametrize("version", ["8.5.3", "10.3.0", "11.4.0"])
def test_on_a_gpu_the_loaded_engine_is_asked_and_timed(
    version: str, precisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a FAKE TensorRT, whose inspector tells types only with a context whose shapes are set, and nothing without details."""
    folder, trt = linked(precisions, tmp_path), install(version, monkeypatch)
    trt.layer_time = lambda layer: 0.25 if layer["count"] else 0.0
    artifact, site = read_artifact(folder / "lite0.fp16.onnx"), open_site("tensorrt")
    options = BuildOptions("int8", Batch(2, 2, 4))
    lines = explain(artifact, site, options)
    path = next(folder.glob("lite0.int8.*.engine"))
    kept = json.loads(layers_path(path).read_text())
    timed = [layer for layer in kept["layers"] if layer["milliseconds"]]
    assert len(timed) == 2 and all(layer["macs"] and layer["weights"] for layer in timed)
    assert lines[1].split()[0] == "fp16" and lines[2].split()[0] == "int8" and lines[2].endswith(f"{2 * 0.25:.3f}")
    cost = read_manifest(path).cost
    assert cost and cost.kernels == len(kept["layers"]) and cost.milliseconds == pytest.approx(2 * 0.25)
    page = page_path(path).read_text()
    assert not Tags(page).open and page.count("<tr") == 4 + len(kept["layers"])
    trt.calls.clear()
    assert (
        explain(artifact, site, options) == lines and ("Builder", "__init__") not in trt.calls
    )  # kept, not built anew
    page_path(path).unlink()
    path.write_bytes(path.read_bytes() + b" ")  # another engine than the kept rows are of
    explain(artifact, site, options)
    assert ("Builder", "__init__") in trt.calls
    assert not trt.device.problems and not trt.device.leaks()


def test_an_engine_that_tells_nothing_is_a_sentence(
    precisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trt = linked(precisions, tmp_path), install("10.3.0", monkeypatch)
    monkeypatch.setattr(trt.EngineInspector, "get_engine_information", lambda *_: '{"Layers": ["conv1"]}')
    with pytest.raises(UserError, match="tells too little of lite0.fp16.*without details"):
        explain(read_artifact(folder / "lite0.fp16.onnx"), open_site("tensorrt"), BuildOptions("fp16"))


@pytest.mark.parametrize(
    ("kernels", "bytes_", "said"),
    [
        (
            147,
            84.1e6,
            "INT8 moves 1.78 times the bytes of FP16's activations, in 31 more kernels, and is not more accurate: use",
        ),
        (116, 47.3e6, "1.00 times the bytes of FP16's activations, in as many kernels, and is not more accurate: use"),
        (
            110,
            24.0e6,
            "0.51 times the bytes of FP16's activations, in 6 fewer kernels. Which of the two is faster, only",
        ),
        (
            130,
            30.0e6,
            "0.63 times the bytes of FP16's activations, in 14 more kernels. Which of the two is faster, only",
        ),
    ],
)
def test_int8_is_not_recommended_where_it_moves_more(kernels: int, bytes_: float, said: str) -> None:
    fp16 = Cost(116, int(47.3e6), int(10.5e6), 0.0, 1, None)
    assert said in advice({"fp16": fp16, "int8": fp16._replace(kernels=kernels, activation_bytes=int(bytes_))})
