"""A small network with everything that calibration treats apart, as a real artifact, and images for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact, sealed
from runtime.images.preprocess import Preprocessing
from runtime.whole_file import write_whole

SIDE, CLASSES = 32, 10
PREPROCESSING = Preprocessing(SIDE, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def small_model(seed: int = 0, relu6: bool = False) -> onnx.ModelProto:
    """Stem, two MBConv blocks (the second with a residual; squeeze-and-excitation unless `relu6`), head, classifier."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = [
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
    ]

    def conv(name: str, x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        fan = inputs // groups * kernel**2
        spread = np.exp(random.normal(0, 0.7, (outputs, 1, 1, 1)))  # channels differ, as folded BatchNorm makes them
        weight = random.normal(0, 1.4 / fan**0.5, (outputs, inputs // groups, kernel, kernel)) * spread
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        weights.append(numpy_helper.from_array(random.normal(0, 0.2, outputs).astype(np.float32), f"{name}.bias"))
        pads = [(kernel - 1) // 2] * 2 + [kernel // 2] * 2 if stride == 1 else [0, 0, 1, 1]
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"{name}.weight", f"{name}.bias"],
                [f"{name}_out"],
                name,
                kernel_shape=[kernel] * 2,
                strides=[stride] * 2,
                pads=pads if kernel > 1 else [0] * 4,
                group=groups,
                dilations=[1, 1],
            )
        )
        return f"{name}_out"

    def act(x: str) -> str:
        if relu6:
            nodes.append(helper.make_node("Clip", [x, "zero", "six"], [f"{x}_act"], f"{x}_clip"))
        else:
            nodes.append(helper.make_node("Sigmoid", [x], [f"{x}_sigmoid"], f"{x}_sigmoid"))
            nodes.append(helper.make_node("Mul", [x, f"{x}_sigmoid"], [f"{x}_act"], f"{x}_mul"))
        return f"{x}_act"

    def block(name: str, x: str, channels: int, residual: bool) -> str:
        y = act(conv(f"{name}/expand", x, channels, 4 * channels))
        y = act(conv(f"{name}/depthwise", y, 4 * channels, 4 * channels, 3, groups=4 * channels))
        if not relu6:
            nodes.append(helper.make_node("GlobalAveragePool", [y], [f"{name}_pool"], f"{name}_pool"))
            gate = act(conv(f"{name}/reduce", f"{name}_pool", 4 * channels, 4))
            gate = conv(f"{name}/excite", gate, 4, 4 * channels)
            nodes.append(helper.make_node("Sigmoid", [gate], [f"{name}_gate"], f"{name}_gate"))
            nodes.append(helper.make_node("Mul", [y, f"{name}_gate"], [f"{name}_gated"], f"{name}_gated"))
            y = f"{name}_gated"
        y = conv(f"{name}/project", y, 4 * channels, channels)
        if residual:
            nodes.append(helper.make_node("Add", [y, x], [f"{name}_sum"], f"{name}_sum"))
            y = f"{name}_sum"
        return y

    x = act(conv("stem", "images", 3, 8, 3, 2))
    x = block("second", block("first", x, 8, False), 8, True)
    x = act(conv("head", x, 8, 32))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pool"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], "flat"))
    weights.append(numpy_helper.from_array(random.normal(0, 1, (CLASSES, 32)).astype(np.float32), "classifier.weight"))
    weights.append(numpy_helper.from_array(np.zeros(CLASSES, np.float32), "classifier.bias"))
    nodes.append(
        helper.make_node("Gemm", ["flat", "classifier.weight", "classifier.bias"], ["logits"], "classifier", transB=1)
    )
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_artifact(folder: Path, model: onnx.ModelProto, precision: str = "fp32", **facts: str) -> Artifact:
    """`facts`: more of the metadata, such as input="uint8"."""
    metadata = {
        "variant": "small",
        "weights": "made for a test",
        "weights_sha256": "0" * 64,
        "resolution": str(SIDE),
        "crop": "1.0",
        "interpolation": "bilinear",
        "mean": json.dumps(PREPROCESSING.mean),
        "std": json.dumps(PREPROCESSING.std),
        "classes": str(CLASSES),
        "labels": json.dumps([f"class {i}" for i in range(CLASSES)]),
        **facts,
    }
    path = artifact_path("small", precision, folder)
    write_whole(path, sealed(model.SerializeToString(), precision, metadata)[0])
    return read_artifact(path)


def write_images(folder: Path, count: int) -> Path:
    """`count` smooth random images, PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")
    return folder
