"""`make export HEAD=embedding` and `HEAD=features`: timm's own numbers, by names of their own, and no classes."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from export.parity import ParityError, gate_torch
from export.pixels import without_pixels
from export.stage import Request, export, up_to_date
from models.dead_leaves import dead_leaves
from models.heads import maps, with_head
from models.network import EfficientNet
from models.pretrained import load_pretrained
from models.variants import VARIANTS
from models.weights import Weights
from runtime import Classifier, Embedder, Features
from runtime.artifacts.artifact import find_artifact, read_artifact
from runtime.artifacts.facts import Output
from runtime.errors import UserError
from runtime.images.preprocess import normalize
from tests.models.conftest import timm, torchvision, weightless  # noqa: F401 - fixtures

SIDE = 96
TIMM = {  # one for each table of stages and rule of scaling
    "b0": "tf_efficientnet_b0",
    "b4": "tf_efficientnet_b4",
    "lite4": "tf_efficientnet_lite4",
    "v2-b3": "tf_efficientnetv2_b3",
    "v2-s": "tf_efficientnetv2_s",
    "v2-m": "tf_efficientnetv2_m",
}


def test_the_maps_are_those_that_timm_gives_to_detectors(timm: Any) -> None:  # noqa: F811
    for name, architecture in TIMM.items():
        theirs: Any = weightless(partial(timm.create_model, architecture, features_only=True)).feature_info
        found = maps(VARIANTS[name])
        assert [each.stride for each in found] == theirs.reduction()[1:] == [4, 8, 16, 32]
        assert [each.channels for each in found] == theirs.channels()[1:]
    assert [each.channels for each in maps(VARIANTS["b0"])] == [24, 40, 112, 320]
    assert all([each.stride for each in maps(variant)] == [4, 8, 16, 32] for variant in VARIANTS.values())


@pytest.fixture(scope="module")
def weights(timm: Any, tmp_path_factory: pytest.TempPathFactory) -> Weights:  # noqa: F811
    """Random weights of lite0 with statistics, as a file with timm's names."""
    path = tmp_path_factory.mktemp("weights") / "tf_efficientnet_lite0.safetensors"
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").train()
    pictures = torch.from_numpy(dead_leaves(6, SIDE) - np.float32(0.5)) * 4
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
        if getattr(
            module, "has_skip", False
        ):  # branches of full strength amplify FP16's rounding, see models.network.settle
            torch.nn.init.constant_(module.get_submodule("bn3").get_parameter("weight"), 0.1)
    with torch.no_grad():
        network(pictures)
    save_file(network.state_dict(), path)
    return Weights(path, "a test")


def request(weights: Weights, head: str, **options: str) -> Request:
    return Request(VARIANTS["lite0"], weights, {"resolution": SIDE}, head=head, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedding, of normalised images, and the maps, of pixels."""
    made = tmp_path_factory.mktemp("heads")
    assert any("embedding [N, 1280]" in line for line in export(request(weights, "embedding"), made).lines)
    lines = export(request(weights, "features", input="uint8"), made).lines
    assert any("stride4 stride8 stride16 stride32 bit for bit the same" in line for line in lines)
    return made


@pytest.fixture(scope="module")
def squares() -> np.ndarray:
    return (dead_leaves(2, SIDE, seed=3).transpose(0, 2, 3, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 3e-2)])
def test_the_numbers_are_timms(
    timm: Any,  # noqa: F811
    folder: Path,
    weights: Weights,
    squares: np.ndarray,
    precision: str,
    tolerance: float,
) -> None:
    embed = Embedder(folder / "lite0-embedding" / f"lite0-embedding.{precision}.onnx")
    features = Features(folder / "lite0-features" / f"lite0-features.{precision}.onnx")
    recipe = embed.artifact.preprocessing
    images = np.stack([normalize(Image.fromarray(square), recipe) for square in squares])
    assert weights.path is not None
    whole = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(weights.path)).eval()
    with torch.no_grad():
        pooled = whole.forward_head(whole.forward_features(torch.from_numpy(images)), pre_logits=True).numpy()
        theirs = [
            each.numpy() for each in whole.forward_intermediates(torch.from_numpy(images), intermediates_only=True)
        ][1:]
    assert near(embed.logits(images), pooled, tolerance)
    ours = features.maps(squares)
    assert list(ours) == ["stride4", "stride8", "stride16", "stride32"]
    assert [each.shape for each in ours.values()] == [(2, 24, 24, 24), (2, 40, 12, 12), (2, 112, 6, 6), (2, 320, 3, 3)]
    assert all(near(a, b, tolerance) for a, b in zip(ours.values(), theirs, strict=True))


def near(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    assert got.shape == wanted.shape and got.dtype == np.float32 and wanted.std() > 0.05 * np.abs(wanted).max()
    return bool(np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max())


def test_the_artifacts_say_what_they_give(folder: Path) -> None:
    assert sorted(path.name for path in folder.rglob("*.onnx")) == [
        f"lite0-{head}.{precision}.onnx" for head in ("embedding", "features") for precision in ("fp16", "fp32")
    ]
    vector = read_artifact(folder / "lite0-embedding" / "lite0-embedding.fp16.onnx")
    assert (vector.variant, vector.head, vector.classes, vector.labels) == ("lite0-embedding", "embedding", 0, [])
    assert vector.outputs == (Output("embedding", 1280, 0),) and vector.metadata["schema"] == "3"
    pyramid = read_artifact(folder / "lite0-features" / "lite0-features.fp32.onnx")
    assert [(each.name, each.stride, each.channels) for each in pyramid.outputs] == [
        ("stride4", 4, 24),
        ("stride8", 8, 40),
        ("stride16", 16, 112),
        ("stride32", 32, 320),
    ]
    assert json.loads(pyramid.metadata["parity"])["relative_error"] < 1e-4 and "labels" not in pyramid.metadata
    assert pyramid.preprocessing.input == "uint8"
    # of the classifier, and of the head convolution
    counts = [int(each.metadata["parameters"]) for each in (vector, pyramid)]
    assert counts == [4_652_008 - 1_281_000, 4_652_008 - 1_281_000 - 412_160]
    assert int(pyramid.metadata["multiply_adds"]) < int(vector.metadata["multiply_adds"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graphs_are_what_tensorrt_expects(folder: Path, precision: str) -> None:
    model = onnx.load(folder / "lite0-features" / f"lite0-features.{precision}.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.output]
    assert shapes == [["N", 24, 24, 24], ["N", 40, 12, 12], ["N", 112, 6, 6], ["N", 320, 3, 3]]
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 17} and model.ir_version <= 8
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"Conv", "Clip", "Constant", "Mul", "Add", "Cast", "Transpose"}
    assert not any("head" in tensor.name for tensor in model.graph.initializer)


def test_a_head_is_part_of_what_is_up_to_date(folder: Path, weights: Weights) -> None:
    assert up_to_date(request(weights, "embedding"), folder)
    assert not up_to_date(request(weights, "features"), folder)  # that one takes pixels
    assert not up_to_date(request(weights, "classifier"), folder)


def test_a_map_that_is_wrong_does_not_pass(folder: Path, weights: Weights) -> None:
    network = load_pretrained(VARIANTS["lite0"], weights).network
    model = without_pixels(onnx.load(folder / "lite0-features" / "lite0-features.fp32.onnx"))
    images = dead_leaves(2, SIDE, seed=1)
    assert gate_torch(with_head(network, "features"), model, images, "simplified") < 1e-4
    for tensor in model.graph.initializer:
        if tensor.name == "stages.2.1.project.conv.weight":  # that comes after the first map
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.01, tensor.name))
    with pytest.raises(ParityError, match=r"part first in stages\.2\.1"):
        gate_torch(with_head(network, "features"), model, images, "simplified")


def test_the_heads_share_the_layers() -> None:
    network = EfficientNet(VARIANTS["lite0"], 3).eval()
    assert with_head(network, "classifier") is network
    assert with_head(network, "embedding").get_submodule("head") is network.head


def test_commands_for_classes_refuse_it_in_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import calibration.__main__

    for head, sentence in (("embedding", "runtime.embed takes it"), ("features", "runtime.Features takes it")):
        path = folder / f"lite0-{head}" / f"lite0-{head}.fp32.onnx"
        with pytest.raises(UserError, match=f"has no classes, .*{sentence}.*make export VARIANT=lite0"):
            Classifier(path)
        monkeypatch.setattr(sys, "argv", ["calibration", "--variant", f"lite0-{head}", "--artifacts", str(folder)])
        with pytest.raises(UserError, match="has no classes"):
            calibration.__main__.main()
    with pytest.raises(UserError, match="INT8 is for classifiers"):
        find_artifact("lite0-embedding", "int8", folder)
    with pytest.raises(
        UserError, match=r"gives stride4, .* no embedding\. The one that does is there, .* lite0-embedding"
    ):
        Embedder(folder / "lite0-features" / "lite0-features.fp32.onnx")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--variant", "b0-embedding", "--head", "features"], "has the head embedding in its name"),
        (["--variant", "b0", "--head", "features", "--labels", "README.md"], "there are no classes to name"),
        (["--onnx", "README.md", "--head", "embedding"], "for the networks of the family"),
        (["--variant", "timm:resnet50", "--head", "features"], "for the networks of the family"),
        (["--variant", "b9-embedding"], "There is no variant 'b9'"),
        (["--variant", "b0-embeding"], "Did you mean embedding?"),
    ],
)
def test_what_does_not_go_together_is_said(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import export.__main__

    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    with pytest.raises((SystemExit, UserError)) as error:
        export.__main__.main()
    assert sentence in f"{capsys.readouterr().err} {error.value}"


def test_the_name_of_the_artifact_names_the_head(
    folder: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that every command's advice, make export VARIANT=lite0-embedding, is right."""
    import export.__main__

    command = ["export", "--weights", str(weights.path), "--resolution", str(SIDE), "--artifacts", str(folder)]
    for named in (["--variant", "lite0-embedding"], ["--variant", "lite0", "--head", "embedding"]):
        monkeypatch.setattr(sys, "argv", [*command, *named])
        assert export.__main__.main() == 0
        assert "lite0-embedding is up to date" in capsys.readouterr().out
    assert not (folder / "latest").exists(), "only a classifier answers when none is named"
