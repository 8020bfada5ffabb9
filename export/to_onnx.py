"""A torch network as an ONNX graph: traced, simplified, with names that a person can follow back to the network."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import onnxsim
import torch

from models.heads import maps, with_head
from models.network import EfficientNet, fix_padding, strided
from runtime.artifacts.facts import CLASSIFIER, EMBEDDING, FEATURES, Output

OPSET = 17  # the one that TensorRT 8.5 to 11 all read
INPUT, OUTPUT, BATCH = "images", "logits", "N"
# Nothing in the graph depends on the size that it was traced at once padding is fixed, and tracing keeps every
# activation alive: B7 at its own 600 px takes 5.4 GB and 27 s, at 64 px 1 GB and 8 s.
_TRACING_RESOLUTION = 64


def outputs_of(network: EfficientNet, head: str) -> list[Output]:
    """What the graph of `network` with `head` gives, in its order."""
    if head == FEATURES:
        return [Output(f"stride{each.stride}", each.channels, each.stride) for each in maps(network.variant)]
    if head == EMBEDDING:
        return [Output(EMBEDDING, network.variant.head_channels)]
    return [Output(OUTPUT, network.classifier.out_features)]


def trace(network: EfficientNet, resolution: int, head: str = CLASSIFIER) -> onnx.ModelProto:
    """`network` (in evaluation mode) with `head` as ONNX: `images` float32 [N, 3, resolution, resolution] -> `logits`
    [N, classes], `embedding` [N, C], or `stride4` to `stride32` [N, C, H, W].

    The TorchScript exporter, since torch's newer one writes ReduceMean with axes as an input, which TensorRT 8.5 does
    not read. BatchNorm is folded into the convolutions.
    """
    fix_padding(network, resolution)
    model = traced(with_head(network, head), _TRACING_RESOLUTION, [output.name for output in outputs_of(network, head)])
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = resolution
    if head == FEATURES:
        for output, each in zip(model.graph.output, maps(network.variant), strict=True):
            side = strided(resolution, each.stride)
            for dimension, size in zip(output.type.tensor_type.shape.dim[1:], (each.channels, side, side), strict=True):
                dimension.Clear()
                dimension.dim_value = size
    del model.graph.value_info[:]  # shapes at the size of tracing
    model.graph.name = f"efficientnet-{network.variant.name}"
    return model


def traced(network: torch.nn.Module, resolution: int, outputs: Sequence[str] = (OUTPUT,)) -> onnx.ModelProto:
    """Any network [N, 3, resolution, resolution] -> `outputs` [N, ...], most often [N, classes], as ONNX with an open batch."""
    picture = torch.zeros(1, 3, resolution, resolution)
    file: Any = io.BytesIO()  # torch takes it and does not say so
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter calls itself deprecated, and can't fold what onnxsim then folds
        torch.onnx.export(
            network,
            (picture,),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_axes={name: {0: BATCH} for name in (INPUT, *outputs)},
        )
    return onnx.load_from_string(file.getvalue())


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in fewer nodes (constants folded, Pad merged into Conv), weights named after their layer."""
    simplified, _ = onnxsim.simplify(model, check_n=0)  # the parity gate checks it, on better inputs
    name_weights(simplified)
    onnx.checker.check_model(simplified, full_check=True)
    return simplified


def name_weights(model: onnx.ModelProto) -> None:
    """Folding leaves names like `onnx::Conv_512`; the node `/stages.1.0/expand/conv/Conv` knows the real one."""
    names: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            layer = re.sub("/", ".", node.name.strip("/").rpartition("/")[0])
            for name, part in zip(node.input[1:], ("weight", "bias")):
                if layer and f"{layer}.{part}" not in names.values():
                    names.setdefault(name, f"{layer}.{part}")
    tensors = {tensor.name for tensor in model.graph.initializer}
    made = {name for node in model.graph.node for name in node.output}
    names = {old: new for old, new in names.items() if old in tensors and new not in tensors | made}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
