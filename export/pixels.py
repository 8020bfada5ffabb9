"""The front of a network that takes the camera's own bytes: pixels in, what `runtime.images.preprocess.normalize` gives out.

Cast comes first: TensorRT takes a uint8 tensor only as a network's input, and only into a Cast to float (its
documentation of DataType.UINT8; in front of anything else building fails). Then normalize's own steps in its own order
and in float32, so that both ways give the same bits, in FP16 artifacts too: those begin with a Cast from float32.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.images.preprocess import Preprocessing, scale_and_offset

INPUT = "pixels"


def with_pixels(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """`model` (its only input float32 [N, 3, H, W]) behind a front that normalises: `pixels` uint8 [N, H, W, 3]."""
    front = onnx.ModelProto()
    front.CopyFrom(model)
    graph = front.graph
    images = graph.input[0]
    batch, _, height, width = (dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim)
    names = [f"{INPUT}/{part}" for part in ("float", "planes", "scaled")]
    constants = [f"{INPUT}/{part}" for part in ("scale", "offset")]
    nodes = [
        helper.make_node("Cast", [INPUT], names[:1], f"{INPUT}/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", names[:1], names[1:2], f"{INPUT}/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", [names[1], constants[0]], names[2:], f"{INPUT}/Mul"),
        helper.make_node("Add", [names[2], constants[1]], [images.name], f"{INPUT}/Add"),
        *graph.node,
    ]
    values = scale_and_offset(preprocessing)
    graph.initializer.extend(
        numpy_helper.from_array(value.reshape(1, 3, 1, 1), name) for name, value in zip(constants, values)
    )
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # of `graph`, which is emptied
    del graph.node[:]
    graph.node.extend(nodes)
    images.CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, height, width, 3]))
    onnx.checker.check_model(front, full_check=True)
    return front


def without_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """What `with_pixels` was given; a model without such a front as it is."""
    if model.graph.input[0].name != INPUT:
        return model
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    graph, front = bare.graph, f"{INPUT}/"
    images = next(node.output[0] for node in graph.node if node.name == f"{INPUT}/Add")
    batch, height, width, _ = (dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    for things in (graph.node, graph.initializer, graph.value_info):
        kept = [thing for thing in things if not thing.name.startswith(front)]
        kept = [type(thing).FromString(thing.SerializeToString()) for thing in kept]
        del things[:]
        things.extend(kept)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(images, TensorProto.FLOAT, [batch, 3, height, width]))
    onnx.checker.check_model(bare, full_check=True)
    return bare
