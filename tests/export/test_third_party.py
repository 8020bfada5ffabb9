"""Third-party models: ONNX files as people have them, and timm's, through export and the runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.conversion import convert
from export.ends import ends
from export.parity import gate_images
from export.third_party import ThirdParty, export_third_party
from models.weights import RANDOM
from runtime.artifacts.artifact import artifact_path, find_artifact, read_artifact
from runtime.artifacts.third_party import NO_OVERRIDES, USUAL, Overrides, import_onnx
from runtime.errors import UserError
from runtime.networks.classifier import Classifier
from tests.models.conftest import timm, torchvision  # noqa: F401 - fixtures

SIDE, CLASSES = 32, 7


class Small(nn.Module):
    """What exporters of old made much of: BatchNorm, a pooling, and a flattening that knows its batch."""

    def __init__(self, batch: int | None = None, probabilities: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.last = nn.MaxPool2d(3, 2, 1), nn.Linear(8 * 64, CLASSES)
        self.batch, self.probabilities = batch, probabilities
        nn.init.normal_(self.last.weight, 0, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.norm(self.conv(x)).relu())
        logits = self.last(x.reshape(self.batch, -1) if self.batch else x.flatten(1))
        return logits.softmax(1) if self.probabilities else logits


def written(path: Path, network: nn.Module, batch: int = 1, opset: int = 17, **options: Any) -> Path:
    torch.onnx.export(
        network.eval(),
        (torch.zeros(batch, 3, SIDE, SIDE),),
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=["data"],
        **options,
    )
    return path


def theirs(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: image[None]})[0] for image in images])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [9, 11, 17])
@pytest.mark.parametrize("batch", [None, 1])
def test_onnx_as_people_have_it(opset: int, batch: int | None, tmp_path: Path) -> None:
    """An old opset, a batch of 1 that the graph counts on, weights among the inputs, Softmax at the end."""
    torch.manual_seed(0)
    network = Small(batch, probabilities=opset == 11)
    path = written(tmp_path / "their net.onnx", network, opset=opset, keep_initializers_as_inputs=opset == 9)
    request = ThirdParty(Overrides(crop=1.0), onnx=path)
    artifact, exported = export_third_party(request, tmp_path / "artifacts")
    lines = "\n".join(exported.lines)
    assert artifact.variant == "their-net" and ("converted from opset" in lines) == (opset < 13)
    assert "takes any number now" in lines and ("Softmax" in lines) == (opset == 11)
    images = gate_images(artifact.preprocessing)
    expected = theirs(path, images)
    model = onnx.load(artifact.path)
    assert model.opset_import[0].version == 17 and [node.op_type for node in model.graph.node][:2] == ["Conv", "Relu"]
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 2e-2)):
        with Classifier(
            artifact_path("their-net", precision, tmp_path / "artifacts"), backend="onnxruntime"
        ) as classify:
            got = classify.logits(images)
            if opset == 11:
                got = np.exp(got) / np.exp(got).sum(1, keepdims=True)
            np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())
    metadata = read_artifact(artifact.path).metadata
    assert metadata["parameters"] == str(3 * 8 * 9 + 8 + 512 * CLASSES + CLASSES)
    assert metadata["multiply_adds"] == str(3 * 8 * 9 * 16 * 16 + 512 * CLASSES)
    again, exported = export_third_party(request, tmp_path / "artifacts")
    assert not exported.lines and again == artifact


@pytest.mark.filterwarnings("ignore")
def test_pixels_as_input(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", Small(1))
    floats, _ = export_third_party(ThirdParty(NO_OVERRIDES, onnx=path), tmp_path / "floats")
    pixels, _ = export_third_party(ThirdParty(NO_OVERRIDES, onnx=path, input="uint8"), tmp_path / "pixels")
    pictures = ["tests/data/corgi.jpg", "tests/data/lighthouse.jpg"]
    with Classifier(floats.path, backend="onnxruntime") as one, Classifier(pixels.path, backend="onnxruntime") as other:
        assert pixels.preprocessing.input == "uint8"
        np.testing.assert_allclose(
            other.logits(other.preprocess(pictures)), one.logits(one.preprocess(pictures)), atol=1e-5
        )


def test_weights_that_layers_share_and_names_that_they_lack() -> None:
    """Calibration rounds each layer's weights by themselves, and finds layers by their names."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.2, (3, 3, 3, 3)).astype(np.float32), "w")
    head = numpy_helper.from_array(np.random.default_rng(1).normal(0, 1, (CLASSES, 3)).astype(np.float32), "head")
    nodes = [
        helper.make_node("Conv", ["logits", "w"], ["a"], "Conv_2", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["images"]),
        helper.make_node("Conv", ["images", "w"], ["b"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "head"], ["out"], transB=1),
    ]  # the input is called as our output, a tensor within as our input
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", CLASSES])],
        [weight, head],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = convert(model, ends(model), USUAL._replace(resolution=SIDE))
    graph = onnx.load_from_string(made.graphs["fp32"].content).graph
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert (graph.input[0].name, graph.output[0].name) == ("images", "logits")
    assert convs[0].input[1] != convs[1].input[1]
    names = [node.name for node in graph.node]
    assert all(names) and len(set(names)) == len(names)


@pytest.mark.filterwarnings("ignore")
def test_mistakes(tmp_path: Path) -> None:
    path = written(tmp_path / "b0.onnx", Small())
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    (tmp_path / "text.onnx").write_text("no ONNX")
    with torch.no_grad():
        broken = Small()
        broken.last.bias[0] = float("nan")
    for request, words in (
        (ThirdParty(NO_OVERRIDES, onnx=path), "'b0' is a variant of the family"),
        (ThirdParty(NO_OVERRIDES, onnx=path, name="net", labels=tmp_path / "two.txt"), "2 lines for 7 classes"),
        (ThirdParty(NO_OVERRIDES, onnx=tmp_path / "none.onnx"), "There is no file"),
        (ThirdParty(NO_OVERRIDES, onnx=tmp_path / "text.onnx"), r"text\.onnx"),
        (ThirdParty(NO_OVERRIDES, onnx=written(tmp_path / "nan.onnx", broken)), "logits that are not finite"),
        (ThirdParty(Overrides(resolution=64), onnx=path, name="net"), "takes images of 32 px, not of 64"),
        (ThirdParty(NO_OVERRIDES, timm="timm:"), "names no model of timm"),
        (ThirdParty(NO_OVERRIDES, timm="timm:../../x"), "names no model of timm"),
    ):
        with pytest.raises(UserError, match=words):
            export_third_party(request, tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_timm(timm: Any, tmp_path: Path) -> None:  # noqa: F811
    """Random weights, then those of a file with other classes: as timm itself computes them, with timm's preprocessing."""
    with pytest.raises(UserError, match=r"no model 'test_resnot'.*test_resnet"):
        export_third_party(ThirdParty(NO_OVERRIDES, timm="timm:test_resnot", weights=RANDOM), tmp_path)
    artifact, exported = export_third_party(
        ThirdParty(NO_OVERRIDES, timm="timm:test_resnet", weights=RANDOM, classes=20), tmp_path
    )
    assert artifact.random and artifact.variant == "timm-test_resnet" and artifact.classes == 20
    assert find_artifact("timm:test_resnet", "fp16", tmp_path) == artifact_path("timm-test_resnet", "fp16", tmp_path)
    assert "relative error" in "\n".join(exported.lines)
    with Classifier(artifact.path, backend="onnxruntime") as classify:
        logits = classify.logits(classify.preprocess(["tests/data/corgi.jpg", "tests/data/lighthouse.jpg"]))
        assert 0.05 < np.abs(logits[0] - logits[1]).max() < 50  # it tells images apart

    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=5).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    torch.save(network.state_dict(), tmp_path / "five.pth")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    request = ThirdParty(
        NO_OVERRIDES, tmp_path / "names.txt", timm="timm:test_resnet", weights=str(tmp_path / "five.pth")
    )
    artifact, _ = export_third_party(request, tmp_path / "five")  # beside the other it would need a name of its own
    assert artifact.labels == list("abcde") and not artifact.random and len(artifact.weights_sha256 or "") == 64
    held = timm.data.resolve_model_data_config(network)
    wants = artifact.preprocessing
    assert [wants.resolution, wants.crop, wants.interpolation] == [
        held["input_size"][1],
        held["crop_pct"],
        held["interpolation"],
    ]
    assert (wants.mean, wants.std) == (held["mean"], held["std"])
    images = gate_images(wants)
    with Classifier(artifact.path, backend="onnxruntime") as classify, torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(classify.logits(images), expected, atol=1e-4 * np.abs(expected).max())
    assert not export_third_party(request, tmp_path / "five")[1].lines  # up to date
    torch.save({"fc.weight": torch.zeros(5, 9)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"timm can't make test_resnet from .*other\.pth"):
        export_third_party(
            ThirdParty(NO_OVERRIDES, timm="timm:test_resnet", weights=str(tmp_path / "other.pth")), tmp_path / "five"
        )


@pytest.mark.filterwarnings("ignore")
def test_the_command_and_what_lies_there_before(run_export: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "my net.onnx", Small(1))
    done = run_export("--onnx", path, "--artifacts", tmp_path / "artifacts", "--std", "0.5,0.5,0.5")
    assert done.status == 0, done.err
    artifact = read_artifact(find_artifact(None, None, tmp_path / "artifacts"))
    assert artifact.variant == "my-net" and artifact.preprocessing.std == (0.5, 0.5, 0.5)
    assert json.loads(artifact.metadata["made_for"]) == ["fp32", "fp16"]
    # what the runtime alone imports under that name is another artifact, and leaves no FP16 of this one beside it
    import_onnx(path, tmp_path / "artifacts", "my-net")
    assert not artifact_path("my-net", "fp16", tmp_path / "artifacts").exists()
    for arguments, words in (
        (("--onnx", path, "--weights", "random"), "has its own"),
        (("--onnx", path, "--padding", "same"), "family"),
        ((), "--variant names what to export"),
    ):
        done = run_export(*arguments)
        assert done.status == 2 and words in done.err
