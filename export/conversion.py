"""Third-party models as graphs that calibration, engines and backends take: a plain opset, an open batch, BatchNorm folded,
every node named, logits at the end; and gates that hold each step to what the file itself computes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

import numpy as np
import onnx
import onnxsim
from onnx import numpy_helper
from PIL import Image

from export.fp16 import to_fp16
from export.parity import (
    FP16_COSINE,
    FP32_TOLERANCE,
    ParityError,
    cosine,
    gate_images,
    gate_squares,
    onnx_logits,
    relative_error,
)
from export.pixels import with_pixels
from export.to_onnx import BATCH, INPUT, OPSET, OUTPUT, name_weights
from runtime.artifacts.third_party import Shape
from runtime.artifacts.write import Graph
from runtime.backends.backend import in_pieces
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing, normalize

OLDEST = 13  # opset: the first whose DequantizeLinear takes a scale for each channel
TOOLS = ("onnx", "onnxsim", "onnxruntime")
_IR = 8  # of ONNX files with opset 17


class Conversion:
    """A third-party model, as its file has it, to the graphs that are kept of it; `lines` says afterwards what was done."""

    def __init__(self, input: str = "float32", say: Callable[[str], None] = lambda _: None) -> None:
        """`input`: one of runtime.images.preprocess.INPUTS."""
        self.input, self.say = input, say
        self.lines: list[str] = []

    def __call__(self, content: bytes, shape: Shape, preprocessing: Preprocessing) -> Mapping[str, Graph]:
        began = time.perf_counter()
        self.say("reading the graph")
        try:
            source = onnx.load_from_string(content)
        except Exception as error:  # protobuf's and onnx's have no common base
            raise UserError(f"The file can't be read as ONNX: {str(error).splitlines()[0]}") from None
        images = gate_images(preprocessing)
        expected = _logits(source, images, shape.batch)
        if not np.isfinite(expected).all():
            raise UserError("The network gives logits that are not finite.")
        model, notes = bare(source, shape.side)
        model, said = _plain_opset(model)
        notes += said
        model, probabilities = _without_softmax(model)
        if probabilities:
            notes.append("ends in Softmax, which is taken off: the runtime applies it")
        self.say("simplifying")
        gate = _Gate(images, expected, probabilities)
        model, fixed = _open_batch(model, shape.batch, gate)
        if fixed:
            notes.append(f"takes {fixed} images at a time only: others are run in pieces, and calibrate refuses it")
        elif shape.batch:
            notes.append(f"took {shape.batch} images at a time, takes any number now")
        model = self._simplified(model, fixed, gate, notes)
        apart = gate.error(model, fixed)
        if not apart <= FP32_TOLERANCE:
            raise ParityError(
                f"The graph that was made does not compute what the file does (relative error {apart:.1e}, at most "
                f"{FP32_TOLERANCE:.0e}). Nothing was written."
            )
        count, cost = parameters(model), multiply_adds(model)
        tools = json.dumps({tool: version(tool) for tool in TOOLS})
        facts = {"parameters": str(count), "multiply_adds": str(cost), "tools": tools}
        parity = {"relative_error": apart, "pictures": len(images)}
        models, own = {"fp32": model}, {"fp32": {**facts, "parity": json.dumps(parity)}}
        self.say("converting to FP16")
        near = 0.0
        try:
            half = to_fp16(model)
            logits = _logits(model, images, fixed), _logits(half, images, fixed)
            near = min(cosine(a, b) for a, b in zip(*logits))
            why = "" if near >= FP16_COSINE else f"its logits' cosine against FP32 is {near:.6f}, below {FP16_COSINE}"
        except Exception as problem:  # onnxruntime's converter and onnx's checker each have their own
            why = str(problem).splitlines()[0]
        if why:
            notes.append(f"there is no FP16: {why}")
        else:
            models["fp16"] = half
            own["fp16"] = {**facts, "parity": json.dumps({"cosine_to_fp32": near, "pictures": len(images)})}
        if self.input == "uint8":
            models = {precision: _with_pixels(each, preprocessing, fixed) for precision, each in models.items()}
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        half_parity = "" if why else f"; FP16 cosine {near:.6f}"
        self.lines = [
            f"network      {count / 1e6:.3f} M parameters, {cost / 1e9:.3f} GMACs",
            f"graph        {len(source.graph.node)} nodes as it was, {len(model.graph.node)} now, opset {opset}",
            f"parity       relative error {apart:.1e}{half_parity}",
            *(f"NOTE         {note}" for note in notes),
            f"took         {time.perf_counter() - began:.1f} s",
        ]
        return {precision: Graph(each.SerializeToString(), own[precision]) for precision, each in models.items()}

    def _simplified(self, model: onnx.ModelProto, fixed: int | None, gate: _Gate, notes: list[str]) -> onnx.ModelProto:
        try:
            simple, _ = onnxsim.simplify(model, check_n=0)  # the gate checks it, on better inputs
            if not gate.passes(simple, fixed):
                raise ValueError("it computes something else then")
        except Exception as error:  # a RuntimeError of its own, and what onnxruntime has against the result
            notes.append(f"onnxsim can't simplify it: {str(error).splitlines()[0]}")
            simple = model
        del simple.metadata_props[:], simple.graph.value_info[:]
        _name_nodes(simple)
        _unshare(simple.graph)
        name_weights(simple)
        return simple


class _Gate:
    """What the file itself makes of a few images, which every graph made of it has to repeat."""

    def __init__(self, images: np.ndarray, expected: np.ndarray, probabilities: bool) -> None:
        self.images, self.expected, self.probabilities = images, expected, probabilities

    def error(self, model: onnx.ModelProto, fixed: int | None) -> float:
        """Largest relative error, at batch 1 and at that of the images; infinite where a class changes."""
        worst = 0.0
        for batch in (1, len(self.images)):
            got, wanted = _logits(model, self.images[:batch], fixed), self.expected[:batch]
            if self.probabilities:
                got = np.exp(got - got.max(1, keepdims=True))
                got /= got.sum(1, keepdims=True)
            same = got.shape == wanted.shape and (got.argmax(1) == wanted.argmax(1)).all()
            worst = max(worst, relative_error(wanted, got) if same else float("inf"))
        return worst

    def passes(self, model: onnx.ModelProto, fixed: int | None) -> bool:
        return self.error(model, fixed) <= FP32_TOLERANCE


def _logits(model: onnx.ModelProto, images: np.ndarray, fixed: int | None) -> np.ndarray:
    return in_pieces(lambda piece: onnx_logits(model, piece)[0], images, fixed)


def bare(source: onnx.ModelProto, side: int) -> tuple[onnx.ModelProto, list[str]]:
    """(a copy with one input, INPUT [N, 3, side, side], and one output, OUTPUT; notes for the user)."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    graph, notes = model.graph, []
    del model.metadata_props[:], graph.value_info[:]
    weights = {tensor.name for tensor in graph.initializer}
    for value in [
        value for value in graph.input if value.name in weights
    ]:  # as IR 3 wants it: they can't be folded then
        graph.input.remove(value)
    if len(graph.output) > 1:
        notes.append(f"of {len(graph.output)} outputs the first is kept, {graph.output[0].name}")
        del graph.output[1:]
    for i in (2, 3):
        graph.input[0].type.tensor_type.shape.dim[i].dim_value = side
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    for value, name in ((graph.input[0], INPUT), (graph.output[0], OUTPUT)):
        if value.name != name:
            _rename(graph, name, _free(name, taken))
            _rename(graph, value.name, name)
            value.name = name
    return model, notes


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for inner in graphs_of(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
        for tensor in inner.initializer:
            if tensor.name == old:
                tensor.name = new


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and those in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from graphs_of(inner)


def _plain_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """`model` in an opset that calibration and every TensorRT read, where onnx's converter can do it."""
    model.ir_version = max(model.ir_version, 4)  # weights that are no inputs
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if OLDEST <= opset <= OPSET:
        return model, []
    try:
        converted = onnx.version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # RuntimeError for an operator without a way there; the checker's own
        reason = " ".join(str(error).split())[:120]
        later = "calibrate needs 13" if opset < OLDEST else "TensorRT 8 may not read it"
        return model, [f"stays at opset {opset}, which onnx can't convert to {OPSET} ({reason}): {later}"]
    converted.ir_version = _IR
    return converted, [f"converted from opset {opset} to {OPSET}"]


def _without_softmax(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    graph = model.graph
    last = next((node for node in graph.node if OUTPUT in node.output), None)
    if last is None or last.op_type != "Softmax" or any(OUTPUT in node.input for node in graph.node):
        return model, False
    logits = last.input[0]
    if sum(logits in node.input for node in graph.node) > 1:
        return model, False
    graph.node.remove(last)
    _rename(graph, logits, OUTPUT)
    return model, True


def _open_batch(model: onnx.ModelProto, fixed: int | None, gate: _Gate) -> tuple[onnx.ModelProto, int | None]:
    """(`model` for any number of images and None, or as it is and the number that it takes)."""
    for reshape in (False, True):
        trial = onnx.ModelProto()
        trial.CopyFrom(model)
        for value in (trial.graph.input[0], trial.graph.output[0]):
            if value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_param = BATCH
        if reshape:
            _loosen_reshapes(trial.graph, fixed)
        try:
            if fixed is None or gate.passes(trial, None):
                return trial, None
        except Exception:  # onnxruntime's own: a shape that does not fit
            continue
    return model, fixed


def _loosen_reshapes(graph: onnx.GraphProto, batch: int | None) -> None:
    """Reshapes to [batch, ...] take their first dimension from what comes in."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    for name in {node.input[1] for node in graph.node if node.op_type == "Reshape" and node.input[1] in tensors}:
        wanted = np.array(numpy_helper.to_array(tensors[name]))
        if wanted.ndim == 1 and len(wanted) > 1 and wanted[0] == batch:
            wanted[0] = 0
            tensors[name].CopyFrom(numpy_helper.from_array(wanted, tensors[name].name))


def _name_nodes(model: onnx.ModelProto) -> None:
    """Calibration calls layers by their nodes' names, which others leave empty or give twice."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = _free(f"{node.op_type}_{index}", seen)
        seen.add(node.name)


def _unshare(graph: onnx.GraphProto) -> None:
    """Weights of several layers become several: calibration rounds each layer's for itself."""
    tensors, seen = {tensor.name: tensor for tensor in graph.initializer}, set[str]()
    for node in graph.node:
        for i, name in enumerate(node.input):
            if node.op_type not in ("Conv", "Gemm") or i == 0 or name not in tensors:
                continue
            if name in seen:
                copy = graph.initializer.add()
                copy.CopyFrom(tensors[name])
                copy.name = node.input[i] = _free(name, {*tensors, *seen})
            seen.add(node.input[i])


def parameters(model: onnx.ModelProto) -> int:
    """Floats among the weights; BatchNorm is folded, so its four a channel count as the bias alone."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def multiply_adds(model: onnx.ModelProto) -> int:
    """Of Conv, Gemm and MatMul with constant weights, for one image."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            shape = shapes.get(node.output[0], [])
            places = shape[2:] if node.op_type == "Conv" else shape[1:-1]
            total += int(np.prod(weights[node.input[1]])) * int(np.prod([max(place, 1) for place in places] or [1]))
    return total


def _with_pixels(model: onnx.ModelProto, preprocessing: Preprocessing, fixed: int | None) -> onnx.ModelProto:
    """`model` behind the front that normalises. Raises ParityError if that computes something else."""
    pixels, squares = with_pixels(model, preprocessing), gate_squares(preprocessing)
    images = np.stack([normalize(Image.fromarray(square), preprocessing) for square in squares])
    error = relative_error(_logits(model, images, fixed), _logits(pixels, squares, fixed))
    if not error <= FP32_TOLERANCE:
        raise ParityError(
            f"uint8 input: fed with pixels, the graph does not compute what it does on them normalised (relative error "
            f"{error:.1e}, at most {FP32_TOLERANCE:.0e}). Nothing was written."
        )
    return pixels
