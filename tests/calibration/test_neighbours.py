"""Networks of others: a ResNet and a MobileNet in small, with what the family does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.collect.images import read_folder
from calibration.layer_graph import LayerGraph, chunks, logits_of, open_session, sqnr, top1_agreement
from calibration.quantise.placement import quantised_graph, to_half
from calibration.quantise.prepare import prepare
from calibration.search.sensitivity import simulate
from calibration.stage import Request, calibrate, read_network
from runtime.artifacts.artifact import artifact_path, read_artifact
from runtime.errors import UserError
from tests.calibration.small_network import CLASSES, PREPROCESSING, SIDE, write_artifact, write_images


def small_resnet(matmul: bool = False, batch: int | str = "N", opset: int = 17) -> onnx.ModelProto:
    """A stem with MaxPool, a block that shrinks, one that does not, a grouped, a dilated and a 1x3 convolution, a block of
    MobileNetV3's with its hard activations, and a classifier."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, shape: tuple[int, ...], spread: float) -> str:
        weights.append(numpy_helper.from_array(random.normal(0, spread, shape).astype(np.float32), name))
        return name

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv(
        name: str, x: str, inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1), **attributes: object
    ) -> str:
        fan = inputs * kernel[0] * kernel[1] // int(attributes.get("group", 1))  # type: ignore[call-overload]
        shape = (outputs, fan // (kernel[0] * kernel[1]), *kernel)
        names = [weight(f"{name}.weight", shape, 1.4 / fan**0.5), weight(f"{name}.bias", (outputs,), 0.1)]
        pads = [kernel[0] // 2, kernel[1] // 2] * 2
        return node("Conv", [x, *names], name, **{"pads": pads, **attributes})

    x = node("Relu", [conv("stem", "images", 3, 16, (3, 3), strides=[2, 2])], "stem_relu")
    x = node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = node("Relu", [conv("a/one", x, 16, 8)], "a/relu1")
    y = node("Relu", [conv("a/two", y, 8, 8, (3, 3), strides=[2, 2])], "a/relu2")
    y = conv("a/three", y, 8, 32)
    x = node("Relu", [node("Add", [y, conv("a/shrink", x, 16, 32, strides=[2, 2])], "a/add")], "a/relu")
    y = node("Relu", [conv("b/one", x, 32, 8)], "b/relu1")
    x = node("Relu", [node("Add", [conv("b/two", y, 8, 32, (3, 3)), x], "b/add")], "b/relu")
    x = node("Relu", [conv("grouped", x, 32, 32, (3, 3), group=4)], "grouped_relu")
    x = node("Relu", [conv("dilated", x, 32, 32, (3, 3), dilations=[2, 2], pads=[2, 2, 2, 2])], "dilated_relu")
    x = node("Relu", [conv("flat", x, 32, 32, (1, 3))], "flat_relu")
    y = node("HardSwish", [conv("m/expand", x, 32, 64)], "m/swish1")
    y = node("HardSwish", [conv("m/depthwise", y, 64, 64, (3, 3), group=64)], "m/swish2")
    gate = node("Relu", [conv("m/reduce", node("GlobalAveragePool", [y], "m/pool"), 64, 16)], "m/relu")
    gate = node("HardSigmoid", [conv("m/excite", gate, 16, 64)], "m/gate", alpha=1 / 6)
    x = node("Add", [conv("m/project", node("Mul", [y, gate], "m/mul"), 64, 32), x], "m/add")
    x = node("Flatten", [node("GlobalAveragePool", [x], "last_pool")], "flatten")
    if matmul:
        x = node("MatMul", [x, weight("classifier.weight", (32, CLASSES), 1)], "classifier")
        nodes.append(helper.make_node("Add", [x, weight("classifier.bias", (CLASSES,), 0.1)], ["logits"], "last_add"))
    else:
        names = [weight("classifier.weight", (CLASSES, 32), 1), weight("classifier.bias", (CLASSES,), 0.1)]
        nodes.append(helper.make_node("Gemm", [x, *names], ["logits"], "classifier", transB=1))
    graph = helper.make_graph(
        nodes,
        "resnet",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), 24)


def test_what_is_quantised_and_what_is_not() -> None:
    network = LayerGraph(small_resnet(matmul=True))
    unfit = {layer.name: layer.unfit for layer in network.layers if layer.unfit}
    assert unfit == {
        "grouped": "grouped, but not depthwise",
        "dilated": "dilated",
        "flat": "not square",
        "classifier": "a product of matrices",
    }
    residuals = {residual.name: (residual.identity, residual.branch) for residual in network.residuals}
    assert residuals == {
        "a/add": ("a/shrink_out", "a/three"),
        "b/add": ("a/relu_out", "b/two"),
        "m/add": ("flat_relu_out", "m/project"),
    }


@pytest.mark.parametrize("matmul", [False, True])
def test_calibrated(matmul: bool, folder: Path, tmp_path: Path) -> None:
    model = small_resnet(matmul)
    artifact = write_artifact(tmp_path, model, foreign="yes")
    images = read_folder(folder, PREPROCESSING, CLASSES)
    result = calibrate(Request(artifact, images), tmp_path, 1)
    told = " ".join(result.notes)
    for reason in ("grouped, but not depthwise, as grouped", "dilated, as dilated", "not square, as flat"):
        assert reason in told
    assert "classifier" not in told  # no layer on one vector is ever quantised
    made = onnx.load(artifact_path("small", "int8", tmp_path))
    quantised = {node.name for node in made.graph.node if node.op_type == "Conv" and node.input[1].endswith("_dq")}
    assert quantised >= {"stem", "a/two", "a/shrink", "b/two", "m/depthwise"} - set(result.best.kept)
    assert not quantised & {"grouped", "dilated", "flat", "m/reduce"}
    (add,) = (node for node in made.graph.node if node.name == "a/add")
    assert {name.endswith("_dq") for name in add.input} == {True, False} or "a/three" in result.best.kept
    expected = logits_of(open_session(model, 1), images.batches())
    got = simulate(made, images.batches(), 1)
    assert sqnr(expected, got) > 20 and top1_agreement(expected, got) > 0.9
    assert read_artifact(artifact_path("small", "int8-fp16", tmp_path)).metadata["foreign"] == "yes"


def test_tensorrt_builds_it(batch: np.ndarray) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    network = LayerGraph(small_resnet())
    prepared = prepare(network, lambda: chunks(batch), 1)
    half = to_half(quantised_graph(network, prepared.layers, prepared.identities))
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    graph = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(graph, logger)
    assert parser.parse(half.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(n, 3, SIDE, SIDE) for n in (1, 1, 4)])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(graph, config)
    assert engine is not None and engine.nbytes > 10_000


@pytest.mark.parametrize(
    "model, words",
    [(small_resnet(batch=1), "takes 1 images at a time"), (small_resnet(), "no convolution that int8 is made for")],
)
def test_refused_in_words(model: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    if "convolution" in words:
        for node in model.graph.node:
            if node.op_type == "Conv":
                node.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
                for pads in [a for a in node.attribute if a.name == "pads"]:
                    node.attribute.remove(pads)
    with pytest.raises(UserError, match=words):
        read_network(write_artifact(tmp_path, model))


def test_training_runs_the_same_network_in_torch(batch: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    from calibration.quantise.torch_graph import TorchGraph

    network = LayerGraph(small_resnet())
    prepared = prepare(network, lambda: chunks(batch), 1)
    with pytest.raises(UserError, match="QAT=1 can't train this network: its Conv have no way"):
        TorchGraph(prepared)
    model = small_resnet()
    for node in model.graph.node:
        for attribute in list(node.attribute):
            if node.name == "dilated" and attribute.name in ("dilations", "pads"):
                node.attribute.remove(attribute)
    for name in ("grouped", "flat"):  # as if they were not there
        node = next(node for node in model.graph.node if node.name == f"{name}_relu")
        conv = next(node for node in model.graph.node if node.name == name)
        node.input[0] = conv.input[0]
        model.graph.node.remove(conv)
    network = LayerGraph(model)
    assert not any(layer.unfit for layer in network.layers)
    prepared = prepare(network, lambda: chunks(batch), 1)
    with torch.no_grad():
        got = TorchGraph(prepared)(torch.from_numpy(batch)).numpy()
    expected = simulate(quantised_graph(network, prepared.layers, prepared.identities), [batch], 1)
    assert sqnr(expected, got) > 25
