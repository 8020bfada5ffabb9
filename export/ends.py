"""What a third-party graph takes and gives, found out by running it, and the graph behind one plain pair of ends: images
float32 [N, 3, S, S] in, scores float32 [N, classes] out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graphs import constants_of, copied, free_name, names_in, prune, rename, run_on_cpu
from export.to_onnx import BATCH, INPUT, OUTPUT
from runtime.artifacts.third_party import USUAL, ends_of
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing

# Luma of ITU-R BT.601, which Pillow's convert("L") and OpenCV's grey images are.
GREY = (0.299, 0.587, 0.114)
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True)
class Ends:
    """What a graph takes and gives."""

    side: int  # px
    layout: str  # one of _LAYOUTS
    channels: int  # 1 or 3
    dtype: Any  # of numpy
    batch: int | None  # the only number of images it takes; None: any
    output: str  # name of the one that is kept
    classes: int
    outputs: tuple[str, ...]  # all of them
    bgr: bool = False  # the order of colours

    def fed(self, images: np.ndarray) -> np.ndarray:
        """What the graph itself takes for `images`, float32 [N, 3, S, S] normalised."""
        if self.channels == 1:
            images = np.tensordot(images, np.array(GREY, np.float32), ([1], [0]))[:, None]
        elif self.bgr:
            images = images[:, ::-1]
        if self.layout == "NHWC":
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images.round().clip(0, 255) if self.dtype == np.uint8 else images).astype(
            self.dtype
        )


def ends(model: onnx.ModelProto, resolution: int | None = None, wanted: str | None = None) -> Ends:
    """Asks onnxruntime, and runs the graph once. `resolution`: of a graph that leaves it open; `wanted`: the output that is
    asked for. Raises UserError if the graph is no classifier of square images."""
    content = model.SerializeToString()
    inputs, outputs = ends_of(content)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
        raise UserError(
            f"It takes {_listed(inputs) or 'nothing'}: an image classifier takes one tensor, [N, 3, S, S] or [N, S, S, 3] of "
            "float32, float16, float64 or uint8."
        )
    takes, dtype, faults = inputs[0].shape, _TYPES[inputs[0].type], []
    batch = takes[0] if isinstance(takes[0], int) and takes[0] > 0 else None
    for layout, channels in _layouts(takes):
        side = _side(takes, layout, resolution)
        shape = (batch or 1, channels, side, side) if layout == "NCHW" else (batch or 1, side, side, channels)
        values = np.random.default_rng(0).normal(size=shape)
        try:
            given = run_on_cpu(content, (values.clip(0, 1) * 255 if dtype == np.uint8 else values).astype(dtype))
        except Exception as error:  # onnxruntime's own: a size that the graph does not take
            faults.append(str(error).splitlines()[0])
            continue
        found = dict(zip([output.name for output in outputs], given, strict=True))
        output, classes = _scores(model.graph, found, batch or 1, wanted)
        return Ends(side, layout, channels, dtype, batch, output, classes, tuple(found))
    raise UserError(f"It does not run on images of {resolution or USUAL.resolution} px: {faults[0]}")


def _listed(tensors: Sequence[Any]) -> str:
    return ", ".join(f"{each.name} {each.type} {each.shape}" for each in tensors)


def _layouts(takes: Sequence[Any]) -> list[tuple[str, int]]:
    """Layouts and channels that a shape allows, the likelier first. Raises UserError where none is left."""
    known = [(layout, takes[1 if layout == "NCHW" else 3]) for layout in _LAYOUTS]
    fitting = [(layout, channels) for layout, channels in known if channels in (1, 3)]
    if fitting:
        return fitting
    if any(isinstance(channels, int) for _, channels in known):
        raise UserError(
            f"It takes images of shape {list(takes)}: only colour (3 channels) and greyscale (1) are supported."
        )
    return [(layout, channels) for channels in (3, 1) for layout in _LAYOUTS]


def _side(takes: Sequence[Any], layout: str, resolution: int | None) -> int:
    sides = {side for side in (takes[2:] if layout == "NCHW" else takes[1:3]) if isinstance(side, int) and side > 0}
    if len(sides) > 1:
        raise UserError(f"It takes images of shape {list(takes)}: only square ones are supported.")
    side = sides.pop() if sides else resolution or USUAL.resolution
    if resolution not in (None, side):
        raise UserError(f"It takes images of {side} px, not of {resolution}.")
    return side


def as_scores(value: Any, images: int) -> np.ndarray | None:
    """An output as float32 [images, classes], where it is one number for each class; None for maps and other things."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.size == 0:
        return None
    if value.ndim == 0 or value.shape[0] != images:
        value = value[None] if images == 1 and value.ndim else np.empty((0,) * 5)
    if value.shape[0] != images or sum(length > 1 for length in value.shape[1:]) > 1:
        return None
    return value.reshape(images, -1).astype(np.float32)


def _scores(graph: onnx.GraphProto, found: dict[str, Any], images: int, wanted: str | None) -> tuple[str, int]:
    """(name, classes) of the output that classifies: of several, the one that others only lead to, else the first."""
    scores = {name: value for name, each in found.items() if (value := as_scores(each, images)) is not None}
    shapes = ", ".join(f"{name} {list(getattr(value, 'shape', '?'))}" for name, value in found.items())
    if wanted is not None and wanted not in found:
        raise UserError(f"It has no output '{wanted}'. There are: {shapes}.")
    if not scores or (wanted is not None and wanted not in scores):
        what = f"Its output {wanted}" if wanted else "None of its outputs"
        raise UserError(f"{what} is a vector of scores [N, classes]. There are: {shapes}.")
    if wanted is None:
        several = [name for name in scores if scores[name].shape[1] > 1] or list(scores)
        before = {name: _ancestors(graph, name) for name in several}
        last = [name for name in several if not any(name in before[other] for other in several)]
        wanted = (last or several)[0]
    return wanted, scores[wanted].shape[1]


def _ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
    makers = {name: node for node in graph.node for name in node.output}
    seen, todo = set[str](), [output]
    while todo:
        node = makers.get(todo.pop())
        for name in node.input if node else ():
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return seen


def bare(source: onnx.ModelProto, found: Ends) -> onnx.ModelProto:
    """A copy between INPUT, float32 [N, 3, S, S], and OUTPUT, float32 [N, classes]."""
    model = copied(source)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    for value in [
        value for value in graph.input if value.name in weights
    ]:  # as IR 3 wants it: they can't be folded then
        graph.input.remove(value)
    del graph.value_info[:], model.metadata_props[:]
    (takes,), kept = graph.input, found.output
    for name in (INPUT, OUTPUT):  # where the graph has such tensors within, or at the other end
        if name in names_in(graph):
            other = free_name(name, names_in(graph))
            rename(graph, name, other)
            takes.name = other if takes.name == name else takes.name
            kept = other if kept == name else kept
    batch = found.batch or BATCH
    _prepend(graph, takes.name, found)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, found.side, found.side]))
    give(model, kept, found.classes, batch)
    return model


def _prepend(graph: onnx.GraphProto, first: str, found: Ends) -> None:
    """Nodes that make what the graph takes out of INPUT."""
    nodes: list[onnx.NodeProto] = []

    def then(operator: str, *inputs: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(operator, [nodes[-1].output[0] if nodes else INPUT, *inputs], [""], **attributes))
        nodes[-1].output[0] = nodes[-1].name = f"{INPUT}/{operator}_{len(nodes)}"

    if found.channels == 1:  # exact where mean and std are the same for all three
        weights = np.array(GREY, np.float32).reshape(1, 3, 1, 1)
        graph.initializer.append(numpy_helper.from_array(weights, f"{INPUT}/grey"))
        then("Conv", f"{INPUT}/grey")
    elif found.bgr:
        graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), f"{INPUT}/bgr"))
        then("Gather", f"{INPUT}/bgr", axis=1)
    if found.layout == "NHWC":
        then("Transpose", perm=[0, 2, 3, 1])
    if found.dtype == np.uint8:
        then("Round")
    if found.dtype != np.float32:
        then("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(found.dtype)))
    if not nodes:
        rename(graph, first, INPUT)
        return
    nodes[-1].output[0] = first
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def give(model: onnx.ModelProto, tensor: str, classes: int, batch: int | str) -> None:
    """Makes `tensor` the graph's only output, OUTPUT, float32 [N, classes]; what only others needed is removed."""
    graph, name = model.graph, tensor
    types = {value.name: value.type.tensor_type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    types.update({value.name: value.type.tensor_type for value in graph.output})
    held = types.get(tensor)
    if held is not None and held.elem_type not in (0, TensorProto.FLOAT):
        graph.node.append(helper.make_node("Cast", [name], [f"{OUTPUT}/Cast"], f"{OUTPUT}/Cast", to=TensorProto.FLOAT))
        name = f"{OUTPUT}/Cast"
    if held is None or len(held.shape.dim) != 2:
        graph.initializer.append(numpy_helper.from_array(np.array([-1, classes]), f"{OUTPUT}/shape"))
        graph.node.append(
            helper.make_node("Reshape", [name, f"{OUTPUT}/shape"], [f"{OUTPUT}/Reshape"], f"{OUTPUT}/Reshape")
        )
        name = f"{OUTPUT}/Reshape"
    if OUTPUT in names_in(graph):
        rename(graph, OUTPUT, free_name(OUTPUT, names_in(graph)))
    rename(graph, name, OUTPUT)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, classes]))
    prune(graph)


def usual_for(model: onnx.ModelProto, found: Ends) -> tuple[Preprocessing, str]:
    """How images are most likely to be preprocessed for a graph that does not say, and how that was found ("": by custom)."""
    highest = 255 if found.dtype == np.uint8 else largest_value(model)
    if highest is not None:
        said = f"values of 0 to {highest}, which the graph normalises itself"
        return USUAL._replace(mean=(0, 0, 0), std=(1 / highest,) * 3), said
    if found.channels == 1:  # one mean and one std for all three, or greyscale would not come out exactly
        return USUAL._replace(
            mean=(0.449,) * 3, std=(0.226,) * 3
        ), "greyscale with ImageNet's mean and std over the colours"
    return USUAL, ""


def largest_value(model: onnx.ModelProto) -> int | None:
    """255 or 1 where a graph scales or shifts its input as only values of 0 to 255, or of 0 to 1, need it; None where it takes
    them normalised. Keras and Caffe networks divide by 127.5 or 255 or take away 103 to 124 within the graph, MXNet's begin with
    a BatchNorm of such a mean, and others take away ImageNet's mean or 0.5."""
    graph, constants, tensor = model.graph, constants_of(model.graph), model.graph.input[0].name
    while True:
        users = [node for node in graph.node if tensor in node.input]
        if len(users) != 1:
            return None
        (node,) = users
        if node.op_type in ("Transpose", "Cast", "Identity", "Reshape", "Resize", "Round", "Squeeze", "Unsqueeze"):
            tensor = node.output[0]
            continue
        at = 3 if node.op_type == "BatchNormalization" else None  # its mean
        value = next((constants[name] for name in node.input[at : at and at + 1] if name in constants), None)
        if value is None or value.dtype.kind != "f" or value.size == 0:
            return None
        low, high = float(np.abs(value).min()), float(np.abs(value).max())
        if node.op_type == "Mul":
            return 255 if low >= 0.002 and high <= 0.05 else 1 if low >= 3.5 and high <= 5 else None  # 1 / 0.225 = 4.4
        shifts = node.op_type in ("Sub", "Add", "BatchNormalization")
        if (shifts or node.op_type == "Div") and low >= 40 and high <= 300:
            return 255
        return 1 if shifts and low >= 0.35 and high <= 0.55 else None


def in_fp32(source: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of FP16 with the same weights in FP32, so that it can be folded, calibrated and run anywhere."""
    model = copied(source)
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    del model.graph.value_info[:]

    def widened(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))

    for tensor in model.graph.initializer:
        widened(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                widened(attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = single
    return model


def holds_fp16(model: onnx.ModelProto) -> bool:
    values = (*model.graph.input, *model.graph.output)
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer) or any(
        value.type.tensor_type.elem_type == TensorProto.FLOAT16 for value in values
    )


def plain_ir(model: onnx.ModelProto) -> None:
    """The oldest IR version that the opset allows, 8 at least: onnxruntime 1.19 (JetPack 5) refuses what today's onnx writes."""
    model.ir_version = max(8, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
