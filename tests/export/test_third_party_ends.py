"""What goes into third-party ONNX files and comes out of them, in the forms that other exporters write: the scores are those that
the file itself means, or the file is refused in a sentence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.said import said_by
from export.third_party import ThirdParty, export_third_party
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact
from runtime.artifacts.third_party import NO_OVERRIDES, Overrides, import_onnx
from runtime.errors import UserError
from runtime.networks.classifier import Classifier
from tests.export.tiny_onnx import CLASSES, SIDE, WEIGHTS, body, logits, made, node, saved

IMAGES = ("tests/data/corgi.jpg", "tests/data/lighthouse.jpg")
NC = ("N", CLASSES)
UNSQUEEZE = {"ax": np.array([2, 3])}
EXP = [
    node("ReduceMax", ["z"], ["m"], axes=[1]),
    node("Sub", ["z", "m"], ["s"]),
    node("Exp", ["s"], ["e"]),
    node("ReduceSum", ["e", "one"], ["t"]),
    node("Div", ["e", "t"], ["y"]),
]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def exported(path: Path, folder: Path, overrides: Overrides = NO_OVERRIDES, **asked: Any) -> tuple[Artifact, str]:
    artifact, told = export_third_party(ThirdParty(overrides, onnx=path, **asked), folder / "artifacts")
    return artifact, "\n".join(told.lines)


def scores(artifact: Path) -> np.ndarray:
    """What the runtime shows for IMAGES, by class."""
    with Classifier(artifact, backend="onnxruntime") as classify:
        found = classify([*IMAGES], top=classify.artifact.classes)
    return np.array([[p.probability for p in sorted(each, key=lambda p: p.index)] for each in found])


def fed(artifact: Artifact) -> np.ndarray:
    with Classifier(artifact.path, backend="onnxruntime") as classify:
        return classify.preprocess([*IMAGES])


SOFTMAX_ENDINGS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "last": ([node("Softmax", ["z"], ["y"], axis=1)], {}),
    "identity behind": ([node("Softmax", ["z"], ["s"], axis=1), node("Identity", ["s"], ["y"])], {}),
    "reshape behind": (
        [node("Softmax", ["z"], ["s"], axis=1), node("Reshape", ["s", "shape"], ["y"])],
        {"extra": {"shape": np.array([-1, CLASSES])}},
    ),
    "casts behind": (
        [
            node("Softmax", ["z"], ["s"]),
            node("Cast", ["s"], ["d"], to=TensorProto.DOUBLE),
            node("Cast", ["d"], ["y"], to=1),
        ],
        {},
    ),
    "on a map of one cell": (
        [node("Unsqueeze", ["z", "ax"], ["u"]), node("Softmax", ["u"], ["s"], axis=1), node("Flatten", ["s"], ["y"])],
        {"extra": UNSQUEEZE},
    ),
    "a map of one cell given": (
        [node("Unsqueeze", ["z", "ax"], ["u"]), node("Softmax", ["u"], ["y"], axis=1)],
        {"extra": UNSQUEEZE, "outputs": {"y": ["N", CLASSES, 1, 1]}},
    ),
    "axis as before opset 13": ([node("Softmax", ["z"], ["y"])], {"opset": 9, "ir": 4}),
    "in primitives": (EXP, {"extra": {"one": np.array([1])}}),
    "of a temperature": (
        [node("Mul", ["z", "k"], ["q"]), node("Softmax", ["q"], ["y"])],
        {"extra": {"k": np.array(0.5, np.float32)}, "times": 0.5},
    ),
    "in percent": (
        [node("Softmax", ["z"], ["s"]), node("Mul", ["s", "k"], ["y"])],
        {"extra": {"k": np.array(100, np.float32)}},
    ),
    "of two, in percent": (
        [
            node("Softmax", ["z"], ["s"]),
            node("Sigmoid", ["z"], ["g"]),
            node("ReduceSum", ["g", "one"], ["t"]),
            node("Div", ["g", "t"], ["n"]),
            node("Sum", ["s", "n"], ["both"]),
            node("Mul", ["both", "k"], ["y"]),
        ],
        {"extra": {"k": np.array(50, np.float32), "one": np.array([1])}, "normalised": True},
    ),
    "in primitives without a maximum": (  # Exp overflows for images that are no images
        [node("Exp", ["z"], ["e"]), node("ReduceSum", ["e", "one"], ["t"]), node("Div", ["e", "t"], ["y"])],
        {"extra": {"one": np.array([1])}},
    ),
    "as a logarithm": ([node("LogSoftmax", ["z"], ["y"])], {}),
    "averaged with another": (  # no tensor before it is its logits
        [
            node("Softmax", ["z"], ["s"]),
            node("Mul", ["z", "k"], ["q"]),
            node("Softmax", ["q"], ["s2"]),
            node("Mean", ["s", "s2"], ["y"]),
        ],
        {"extra": {"k": np.array(0.25, np.float32)}, "mean": 0.25},
    ),
    "none": ([node("Identity", ["z"], ["y"])], {}),
}


@pytest.mark.parametrize("how", SOFTMAX_ENDINGS)
def test_softmax_is_applied_once(how: str, tmp_path: Path) -> None:
    """Twice, 0.9965 becomes 0.2313."""
    tail, options = SOFTMAX_ENDINGS[how]
    options = dict(options)
    normalised = options.pop("normalised", False)
    times, mean, outputs = options.pop("times", 1), options.pop("mean", None), options.pop("outputs", {"y": NC})
    path = saved(tmp_path, "net", made([*body(), *tail], outputs, **options))
    artifact, _ = exported(path, tmp_path)
    values = logits(fed(artifact))
    expected = softmax(values * times) if mean is None else (softmax(values) + softmax(values * mean)) / 2
    if normalised:
        expected = (softmax(values) + sigmoid(values) / sigmoid(values).sum(1, keepdims=True)) / 2
    np.testing.assert_allclose(scores(artifact.path), expected, atol=2e-4)
    np.testing.assert_allclose(scores(artifact_path("net", "fp16", tmp_path / "artifacts")), expected, atol=0.03)
    assert artifact.activation == "softmax"


@pytest.mark.parametrize("how", ["last", "spelled out", "reshaped"])
def test_sigmoid_scores_are_independent(how: str, tmp_path: Path) -> None:
    spelled = [
        node("Neg", ["z"], ["n"]),
        node("Exp", ["n"], ["e"]),
        node("Add", ["e", "k"], ["a"]),
        node("Reciprocal", ["a"], ["y"]),
    ]
    tail = {
        "last": [node("Sigmoid", ["z"], ["y"])],
        "spelled out": spelled,
        "reshaped": [node("Sigmoid", ["z"], ["s"]), node("Reshape", ["s", "shape"], ["y"])],
    }[how]
    extra = {"k": np.array(1, np.float32), "shape": np.array([-1, CLASSES])}
    artifact, told = exported(saved(tmp_path, "net", made([*body(), *tail], {"y": NC}, extra)), tmp_path)
    assert artifact.activation == "sigmoid" and artifact.metadata["schema"] == "4" and "independent scores" in told
    found = scores(artifact.path)
    np.testing.assert_allclose(found, sigmoid(logits(fed(artifact))), atol=1e-4)
    assert found.sum(1).max() > 1.5  # several classes may apply at once


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """onnxruntime's FP16 converter appends its Casts to the graph's end."""
    model = made([*body(), node("Softmax", ["z"], ["y"])], {"y": NC})
    for _ in range(2):
        model.graph.node.append(model.graph.node.pop(1))
    artifact, told = exported(saved(tmp_path, "net", model), tmp_path)
    assert "can't simplify" not in told and artifact_path("net", "fp16", tmp_path / "artifacts").exists()
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(fed(artifact))), atol=1e-4)


def test_the_user_says_that_logits_are_independent(tmp_path: Path) -> None:
    """Values can't tell: a multi-label network exported with its logits looks like any other."""
    path = saved(tmp_path, "net", made([*body(), node("Identity", ["z"], ["y"])], {"y": NC}))
    artifact, _ = exported(path, tmp_path, activation="sigmoid")
    np.testing.assert_allclose(scores(artifact.path), sigmoid(logits(fed(artifact))), atol=1e-4)
    ends_in_softmax = saved(tmp_path, "soft", made([*body(), node("Softmax", ["z"], ["y"])], {"y": NC}))
    with pytest.raises(UserError, match="applies Softmax itself, which contradicts ACTIVATION=sigmoid"):
        exported(ends_in_softmax, tmp_path, activation="sigmoid")


@pytest.mark.parametrize("shape", [("N", 1), ("N",)])
@pytest.mark.parametrize("applied", [False, True])
def test_one_output_is_a_score_of_its_own(shape: tuple[Any, ...], applied: bool, tmp_path: Path) -> None:
    """Its softmax would be 100 % for every image."""
    tail = [node("Gather", ["z", "two"], ["g"], axis=1), *([node("Sigmoid", ["g"], ["s"])] if applied else [])]
    last = "s" if applied else "g"
    tail.append(
        node("Identity" if len(shape) == 2 else "Squeeze", [last, *(["axis"] if len(shape) == 1 else [])], ["y"])
    )
    extra = {"two": np.array([2]), "axis": np.array([1])}
    artifact, told = exported(saved(tmp_path, "net", made([*body(), *tail], {"y": shape}, extra)), tmp_path)
    assert artifact.classes == 1 and artifact.activation == "sigmoid"
    expected = sigmoid(logits(fed(artifact))[:, 2:3])
    np.testing.assert_allclose(scores(artifact.path), expected, atol=1e-4)
    assert np.ptp(expected) > 0 and ("sigmoid" in told.lower())


def test_what_can_not_be_shown_is_refused(tmp_path: Path) -> None:
    clip = {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
    for name, tail, outputs, extra, words in (
        ("bounded", [node("HardSigmoid", ["z"], ["y"])], {"y": NC}, {}, "between 0 and 1 without summing to 1"),
        (
            "clipped",
            [node("Clip", ["z", "zero", "one"], ["y"])],
            {"y": NC},
            clip,
            "between 0 and 1 without summing to 1",
        ),
        (
            "wrong axis",
            [node("Unsqueeze", ["z", "ax"], ["u"]), node("Softmax", ["u"], ["y"])],
            {"y": ["N", 10, 1, 1]},
            UNSQUEEZE,
            "same for every image",
        ),
        (
            "maps",
            [node("Identity", ["c"], ["y"])],
            {"y": ["N", 16, 16, 16]},
            {},
            "None of its outputs is a vector of scores",
        ),
        (
            "dead",
            [node("Mul", ["z", "zero"], ["a"]), node("Add", ["a", "fb"], ["y"])],
            {"y": NC},
            clip,
            "same for every image",
        ),
        (
            "training",
            [node("ReduceMean", ["z"], ["m"], axes=[0]), node("Sub", ["z", "m"], ["y"])],
            {"y": NC},
            {},
            "exported in training mode",
        ),
        (  # class 0 would be the answer for every image
            "sorted",
            [node("Softmax", ["z"], ["s"]), node("TopK", ["s", "ten"], ["y", "i"], axis=1)],
            {"y": NC},
            {"ten": np.array([CLASSES])},
            "come sorted .TopK., so that their places mean no classes",
        ),
    ):
        with pytest.raises(UserError, match=f"{name}.onnx: .*{words}"):
            exported(saved(tmp_path, name, made([*body(), *tail], outputs, extra)), tmp_path)
    assert not (tmp_path / "artifacts").exists()


def test_the_output_that_classifies(tmp_path: Path) -> None:
    tail = [
        node("Softmax", ["z"], ["y"]),
        node("ArgMax", ["y"], ["k"], axis=1, keepdims=0),
        node("ReduceMax", ["y"], ["t"], axes=[1]),
    ]
    outputs = {"k": ["N"], "f": ["N", 16], "t": ["N", 1], "y": NC, "z": NC}
    model = made([*body(), *tail], outputs, types={"k": TensorProto.INT64})
    path = saved(tmp_path, "net", model)
    artifact, told = exported(path, tmp_path)
    assert "of its outputs k, f, t, y, z the one kept is y" in told
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(fed(artifact))), atol=1e-4)
    assert exported(path, tmp_path, output="f")[0].classes == 16
    for output, words in (
        ("nope", "no output 'nope'. There are: k"),
        ("k", "Its output k is a vector|vector of scores"),
    ):
        with pytest.raises(UserError, match=words):
            exported(path, tmp_path, output=output)


GREY = (0.299, 0.587, 0.114)


def test_channels_last(tmp_path: Path) -> None:
    """As Keras and tf2onnx write it."""
    first = node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2])
    artifact, _ = exported(
        saved(tmp_path, "net", made([first, *body("planes")], {"z": NC}, takes=("N", SIDE, SIDE, 3))), tmp_path
    )
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(fed(artifact))), atol=1e-4)
    assert onnx.load(artifact.path).graph.node[0].op_type == "Conv"  # both transpositions are gone


@pytest.mark.parametrize("how", ["divided", "bytes"])
def test_a_graph_that_normalises_itself_gets_values_to_255(how: str, tmp_path: Path) -> None:
    extra = {"k": np.array(127.5, np.float32), "o": np.array(1, np.float32)}
    nodes = [node("Cast", ["x"], ["x1"], to=1), node("Div", ["x1", "k"], ["x2"]), node("Sub", ["x2", "o"], ["x3"])]
    dtype = TensorProto.UINT8 if how == "bytes" else TensorProto.FLOAT
    artifact, told = exported(
        saved(tmp_path, "net", made([*nodes, *body("x3")], {"z": NC}, extra, dtype=dtype)), tmp_path
    )
    assert "which the graph normalises itself" in told and artifact.preprocessing.mean == (0, 0, 0)
    given = fed(artifact)
    assert 200 < given.max() <= 255.01 and given.min() >= 0
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(given.round() / 127.5 - 1)), atol=1e-3)


OWN = {  # the first nodes, of what, and the highest value that they want
    "a mean of colours of 0 to 1": (
        [node("Sub", ["x", "m"], ["x1"]), node("Div", ["x1", "s"], ["x3"])],
        {"m": (0.485, 0.456, 0.406), "s": (0.229, 0.224, 0.225)},
        1,
    ),
    "BatchNorm": (
        [node("BatchNormalization", ["x", "g", "b", "m", "v"], ["x3"])],
        {"g": (1, 1, 1), "b": (0, 0, 0), "m": (123, 116, 103), "v": (3000, 3000, 3000)},
        255,
    ),
    "BatchNorm of normalised colours": (
        [node("BatchNormalization", ["x", "g", "b", "m", "v"], ["x3"])],
        {"g": (1, 1, 1), "b": (0, 0, 0), "m": (0.01, -0.02, 0), "v": (1, 1, 1)},
        None,
    ),
}


@pytest.mark.parametrize("how", OWN)
def test_what_a_graph_itself_takes_away_is_not_taken_away_twice(how: str, tmp_path: Path) -> None:
    nodes, extra, highest = OWN[how]
    shape = (-1,) if "BatchNorm" in how else (1, 3, 1, 1)
    constants = {name: np.array(value, np.float32).reshape(shape) for name, value in extra.items()}
    artifact, _ = exported(saved(tmp_path, "net", made([*nodes, *body("x3")], {"z": NC}, constants)), tmp_path)
    assert artifact.preprocessing.std[0] == (0.229 if highest is None else pytest.approx(1 / highest))
    given = fed(artifact)
    mean, std = (np.array(extra[name]).reshape(1, 3, 1, 1) for name in ("m", "s" if "s" in extra else "v"))
    own = (given - mean) / (std if "s" in extra else np.sqrt(std + 1e-5))
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(own)), atol=1e-3)


def test_what_the_metadata_says(tmp_path: Path) -> None:
    """Of Ultralytics' classifiers, and by ONNX's own properties for images."""
    ultralytics = {"author": "Ultralytics", "task": "classify", "names": str(dict(enumerate("abcdefghij")))}
    windows = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    for name, properties, std, order in (("net", ultralytics, 1, 1), ("win", windows, 1 / 255, -1)):
        model = made(body(), {"z": NC})
        for key, value in properties.items():
            model.metadata_props.add(key=key, value=value)
        artifact, told = exported(saved(tmp_path, name, model), tmp_path)
        assert artifact.preprocessing.std[0] == pytest.approx(std) and artifact.preprocessing.mean == (0, 0, 0)
        assert artifact.preprocessing.crop == (1 if name == "net" else 0.875)
        assert "as its metadata says" in told and artifact.labels[3] == ("d" if name == "net" else "class 3")
        np.testing.assert_allclose(scores(artifact.path), softmax(logits(fed(artifact)[:, ::order])), atol=1e-3)
    uint8, _ = exported(tmp_path / "win.onnx", tmp_path, input="uint8", name="bytes")
    np.testing.assert_allclose(scores(uint8.path), scores(artifact.path), atol=1e-3)
    for names in ("{0: 'a', 2: 'b'}", "__import__('os')", "[1, 2]", "{0: '\\x1b[31m'}", "("):
        assert said_by({"names": names}).labels == ()


def test_files_that_are_no_network_are_called_what_they_are(tmp_path: Path) -> None:
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b'{"error": "Not Found"}', "is JSON"),
        (b"", "is empty"),
    ):
        path = tmp_path / "net.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"net.onnx .*{words}"):
            exported(path, tmp_path)


def test_greyscale(tmp_path: Path) -> None:
    model = made(body(), {"z": NC}, takes=("N", 1, SIDE, SIDE))
    single = WEIGHTS["w"].sum(1, keepdims=True)
    next(tensor for tensor in model.graph.initializer if tensor.name == "w").CopyFrom(
        numpy_helper.from_array(single, "w")
    )
    artifact, told = exported(saved(tmp_path, "net", model), tmp_path)
    assert "greyscale" in told
    grey = np.tensordot(fed(artifact), np.array(GREY), ([1], [0]))[:, None].repeat(3, 1)
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(grey)), atol=1e-4)
    with pytest.raises(UserError, match="greyscale, so mean and std have one value each"):
        exported(saved(tmp_path, "net", model), tmp_path, Overrides(mean=(0.485, 0.456, 0.406)))
    four = made(body(), {"z": NC}, takes=("N", 4, SIDE, SIDE))
    with pytest.raises(UserError, match=r"\['N', 4, 32, 32\]: only colour .3 channels. and greyscale"):
        exported(saved(tmp_path, "four", four), tmp_path)


@pytest.mark.parametrize("whole", [False, True], ids=["ends only", "weights too"])
def test_fp16(whole: bool, tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    if whole:
        model = made(body(), {"z": NC}, dtype=half, types={"z": half})
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    else:
        nodes = [node("Cast", ["x"], ["x1"], to=1), *body("x1"), node("Cast", ["z"], ["y"], to=half)]
        model = made(nodes, {"y": NC}, dtype=half, types={"y": half})
    artifact, told = exported(saved(tmp_path, "net", model), tmp_path)
    assert "is FP16" in told
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(fed(artifact))), atol=0.02)
    types = {tensor.data_type for tensor in onnx.load(artifact.path).graph.initializer}
    assert half not in types


@pytest.mark.parametrize(("opset", "ir"), [(13, 14), (17, 12), (20, 13)])
def test_the_oldest_ir_version_that_will_do(opset: int, ir: int, tmp_path: Path) -> None:
    """onnxruntime 1.19, of JetPack 5, refuses what today's onnx writes: IR 10 is its last."""
    artifact, _ = exported(saved(tmp_path, "net", made(body(), {"z": NC}, opset=opset, ir=ir)), tmp_path)
    for precision in ("fp32", "fp16"):
        model = onnx.load(artifact_path("net", precision, tmp_path / "artifacts"))
        assert (model.ir_version, model.opset_import[0].version) == (8, min(opset, 17))


def test_what_torch_exports_by_default(tmp_path: Path) -> None:
    """Weights in a file beside, Reshape with allowzero, ReduceMean with noop_with_empty_axes, opset 20, a batch of one."""
    nodes = [
        *body()[:2],
        node("ReduceMean", ["r", "ax"], ["p"], keepdims=1, noop_with_empty_axes=0),
        node("Reshape", ["p", "shape"], ["f"], allowzero=1),
        body()[-1],
    ]
    model = made(
        nodes, {"z": (1, CLASSES)}, {**UNSQUEEZE, "shape": np.array([1, 16])}, (1, 3, SIDE, SIDE), opset=20, ir=10
    )
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    artifact, told = exported(path, tmp_path)
    assert "took 1 image at a time, takes any number now" in told and "converted from opset 20 to 17" in told
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(fed(artifact))), atol=1e-4)
    first = artifact.metadata["made_from"]
    data = path.with_name("net.onnx.data")
    data.write_bytes(bytes(40) + data.read_bytes()[40:])
    with pytest.raises(UserError, match="holds another network"):  # other weights, though the .onnx is the same
        exported(path, tmp_path)
    assert exported(path, tmp_path / "second")[0].metadata["made_from"] != first
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(UserError, match="do not belong together"):
        exported(path, tmp_path / "third")
    data.unlink()
    with pytest.raises(UserError, match="No such file"):
        exported(path, tmp_path / "third")


def test_int8_of_others_is_called_so(tmp_path: Path) -> None:
    """It was called fp32, with 0.000 GFLOPs."""
    flat = [node("Flatten", ["x"], ["v"]), node("MatMul", ["v", "big"], ["h"]), node("Add", ["h", "b"], ["z"])]
    big = np.random.default_rng(1).normal(0, 0.05, (3 * SIDE * SIDE, CLASSES)).astype(np.float32)
    path = saved(tmp_path, "float", made(flat, {"z": NC}, {"big": big, "b": np.zeros(CLASSES, np.float32)}))
    quantised = tmp_path / "dynamic.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(path, quantised, weight_type=QuantType.QInt8)
    artifact, told = exported(quantised, tmp_path)
    assert artifact.precision == "int8" and artifact.path.name == "dynamic.int8.onnx" and "quantised already" in told
    assert artifact.metadata["multiply_adds"] == str(big.size) and artifact.metadata["parameters"] == str(big.size)
    assert not artifact_path("dynamic", "fp32", tmp_path / "artifacts").exists()
    assert scores(artifact.path).shape == (2, CLASSES)
    assert import_onnx(quantised, tmp_path / "as it is").precision == "int8"  # on a device, without onnx
    again, told = exported(quantised, tmp_path)
    assert again == artifact and not told


def test_probabilities_that_are_quantised(tmp_path: Path) -> None:
    """onnxruntime's quantizers round the Softmax too."""
    tail = [
        node("Softmax", ["z"], ["s"]),
        node("QuantizeLinear", ["s", "step", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "step", "zero"], ["y"]),
    ]
    extra = {"step": np.array(1 / 256, np.float32), "zero": np.array(0, np.uint8)}
    artifact, told = exported(saved(tmp_path, "net", made([*body(), *tail], {"y": NC}, extra)), tmp_path)
    assert artifact.precision == "int8" and "ends in Softmax" in told
    np.testing.assert_allclose(scores(artifact.path), softmax(logits(fed(artifact))), atol=1 / 256)


def test_an_artifact_of_ours_keeps_its_facts(tmp_path: Path) -> None:
    """It was 47 % instead of 96 % when its preprocessing was dropped."""
    path = saved(tmp_path, "net", made([*body(), node("Sigmoid", ["z"], ["y"])], {"y": NC}))
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghij"))
    wants = Overrides(crop=0.7, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    for taken in ("float32", "uint8"):
        first, _ = exported(path, tmp_path, wants, labels=names, input=taken, name="first")
        again, told = exported(first.path, tmp_path, name="again")
        assert (again.preprocessing, again.labels) == (first.preprocessing._replace(input="float32"), first.labels)
        assert again.activation == "sigmoid" and "as" in told and "says" in told
        np.testing.assert_allclose(scores(again.path), scores(first.path), atol=1e-4)
    assert read_artifact(again.path).weights_sha256 == first.weights_sha256
