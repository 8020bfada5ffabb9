"""Third-party graphs as calibration, engines and backends take them: a plain opset, an open batch, BatchNorm folded, every node
named, logits at the end; and gates that hold each step to what the file itself computes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
import onnx
import onnxsim
from onnx import numpy_helper
from PIL import Image

from export.activation import ACTIVATE, NEAR, NEAR_INT8, ending
from export.cost import fact
from export.ends import Ends, as_scores, bare, holds_fp16, in_fp32, plain_ir
from export.fp16 import to_fp16
from export.graphs import attributes, constants_of, copied, free_name, graphs_of, macs, opset_of, parameters, run_on_cpu
from export.parity import (
    FP16_COSINE,
    FP32_TOLERANCE,
    ParityError,
    cosine,
    gate_images,
    gate_squares,
    relative_error,
)
from export.pixels import with_pixels
from export.to_onnx import BATCH, OPSET, name_weights
from runtime.artifacts.onnx_metadata import QUANTISED
from runtime.artifacts.write import Graph
from runtime.backends.backend import in_pieces
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing, normalize

OLDEST = 13  # opset: the first whose DequantizeLinear takes a scale for each channel
TOOLS = ("onnx", "onnxsim", "onnxruntime")
_ALONE = 1e-2  # of an image alone against the same in a batch: kernels differ by 1e-6, in FP16 by 1e-3
_FP16_TOLERANCE = 2e-2  # of a graph in FP32 against its source in FP16, relative to the largest output


Parity = dict[str, float]


@dataclass(frozen=True)
class Converted:
    """What is kept of a third-party graph."""

    graphs: Mapping[str, Graph]  # by precision
    activation: str  # one of runtime.artifacts.facts.ACTIVATIONS
    lines: list[str]  # for the user


def convert(
    source: onnx.ModelProto,
    ends: Ends,
    preprocessing: Preprocessing,
    activation: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Converted:
    """`source` as graphs in FP32 and FP16, or in INT8 where it is quantised already. `preprocessing.input`: what they are to
    take; `activation`: as the user says, None: found out. Raises UserError or ParityError."""
    began, notes = time.perf_counter(), list[str]()
    images = gate_images(preprocessing)
    images = np.concatenate([images, images * 8])  # so that nothing lies between 0 and 1 by chance
    if ends.dtype == np.uint8:
        images = images.clip(0, 255)
    expected = _file_outputs(source, ends, images)
    if not np.isfinite(expected).all():  # Exp of such large logits, where a Softmax is spelled out
        images = images[: len(images) // 2]
        expected = expected[: len(images)]
    if not np.isfinite(expected).all():
        raise UserError("The network gives logits that are not finite.")
    if np.ptp(expected, axis=0).max() == 0:
        raise UserError(
            "It gives the same for every image, so there is nothing to tell apart: is its last Softmax over the classes, and was "
            "it trained?"
        )
    if ends.batch is None and not _is_quantised(source):  # a dynamically quantised one's scales depend on the batch
        alone = _file_outputs(source, ends, images[:1])
        if not relative_error(alone, expected[:1]) <= _ALONE:
            raise UserError(
                "It answers the same image otherwise beside others: it was exported in training mode, or computes over the "
                "batch. Call model.eval() before the export."
            )
    if len(ends.outputs) > 1:
        notes.append(f"of its outputs {', '.join(ends.outputs)} the one kept is {ends.output}: OUTPUT= names another")
    model, quantised = source, _is_quantised(source)
    if holds_fp16(source) and not quantised:
        model, ends = in_fp32(source), replace(ends, dtype=np.float32)
        outputs = _file_outputs(model, ends, images)
        apart = relative_error(expected, outputs)
        if not apart <= _FP16_TOLERANCE:
            raise ParityError(
                f"In FP32 it computes something else than in FP16 (relative error {apart:.1e}). Nothing was written."
            )
        notes.append("is FP16: its weights are widened to FP32, which adds no accuracy")
        expected = outputs
    model = bare(model, ends)
    if not quantised:
        model = _plain_opset(model, notes)
    plain_ir(model)
    few = np.resize(images, (ends.batch or len(images), *images.shape[1:]))  # repeated or cut to what it takes
    near = NEAR_INT8 if quantised else NEAR
    end = ending(model, few, np.resize(expected, (len(few), ends.classes)), activation, near)
    notes += [end.note] if end.note else []
    outputs = _outputs(end.model, images, ends.batch)
    scores = ACTIVATE[end.activation](outputs) * end.scale if end.applied else outputs
    apart = _Gate(images, expected, end.applied).require(scores, near if quantised and end.applied else FP32_TOLERANCE)
    gate = _Gate(images, outputs)
    if quantised:
        made: dict[str, tuple[onnx.ModelProto, Parity]] = {"int8": (end.model, {"relative_error": apart})}
        fixed, model = ends.batch, end.model
        notes.append("is quantised already: kept as it is, as INT8")
    else:
        model, fixed = _open_batch(end.model, ends.batch, gate)
        say("simplifying")
        model = _simplified(model, fixed, gate, notes)
        made = {"fp32": (model, {"relative_error": max(apart, gate.require(_outputs(model, images, fixed)))})}
        say("converting to FP16")
        made.update(_fp16(model, fixed, gate, notes))
    if fixed:
        notes.append(f"takes {_images(fixed)} at a time only: others are run in pieces, and calibrate refuses it")
    elif ends.batch:
        notes.append(f"took {_images(ends.batch)} at a time, takes any number now")
    facts = {"parameters": str(parameters(model)), "tools": json.dumps({tool: version(tool) for tool in TOOLS})}
    counted = "MACs not counted"
    try:
        facts["multiply_adds"], counted = str(macs(model)), f"{macs(model) / 1e9:.3f} GMACs"
    except ValueError as problem:
        notes.append(f"its MACs are not counted: {problem}")
    graphs = {}
    for precision, (each, parity) in made.items():
        facts.update(fact(each))
        if preprocessing.input == "uint8":
            each = _with_pixels(each, preprocessing, fixed)
        own = {**facts, "parity": json.dumps({**parity, "pictures": len(images)})}
        graphs[precision] = Graph(each.SerializeToString(), own)
    parities = "; ".join(f"{precision.upper()} {_told(parity)}" for precision, (_, parity) in made.items())
    lines = [
        f"network      {parameters(model) / 1e6:.3f} M parameters, {counted}",
        f"graph        {len(source.graph.node)} nodes as it was, {len(model.graph.node)} now, opset {opset_of(model)}",
        f"parity       {parities}",
        *(f"NOTE         {note}" for note in notes),
        f"took         {time.perf_counter() - began:.1f} s",
    ]
    return Converted(graphs, end.activation, lines)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _told(parity: Mapping[str, float]) -> str:
    if "cosine_to_fp32" in parity:
        return f"cosine {parity['cosine_to_fp32']:.6f}"
    return f"relative error {parity['relative_error']:.1e}"


@dataclass(frozen=True)
class _Gate:
    """What was computed of a few images so far, which every further graph has to repeat."""

    images: np.ndarray
    expected: np.ndarray
    saturates: bool = False  # scores of 1 may be several, and top-1 any of them

    def error(self, got: np.ndarray) -> float:
        """Largest relative error; infinite where a top-1 class changes."""
        if got.shape != self.expected.shape:
            return float("inf")
        if not self.saturates and (got.argmax(1) != self.expected.argmax(1)).any():
            return float("inf")
        return relative_error(self.expected, got)

    def require(self, got: np.ndarray, tolerance: float = FP32_TOLERANCE) -> float:
        error = self.error(got)
        if not error <= tolerance:  # NaN fails too
            raise ParityError(
                f"The graph that was made does not compute what the file does (relative error {error:.1e}, at most "
                f"{tolerance:.0e}). Nothing was written."
            )
        return error


def _file_outputs(source: onnx.ModelProto, ends: Ends, images: np.ndarray) -> np.ndarray:
    """What the file itself gives for `images`, float32 [N, classes]."""
    content = source.SerializeToString()

    def run(piece: np.ndarray) -> np.ndarray:
        scores = as_scores(run_on_cpu(content, ends.fed(piece), [ends.output])[0], len(piece))
        if scores is None:
            raise UserError(f"Its output {ends.output} is not one vector of scores for each image.")
        return scores

    return in_pieces(run, images, ends.batch)


def _outputs(model: onnx.ModelProto, images: np.ndarray, fixed: int | None) -> np.ndarray:
    """What a graph between plain ends gives; at batch 1 too, where it takes any."""

    def run(piece: np.ndarray) -> np.ndarray:
        return np.asarray(run_on_cpu(model, piece)[0])

    together = in_pieces(run, images, fixed)
    if fixed is None and not _is_quantised(model):  # a dynamically quantised one's scales depend on the batch
        together[:1] = run(images[:1])
    return together


def _is_quantised(model: onnx.ModelProto) -> bool:
    return bool(QUANTISED & {node.op_type for node in model.graph.node})


def _fp16(
    model: onnx.ModelProto, fixed: int | None, gate: _Gate, notes: list[str]
) -> dict[str, tuple[onnx.ModelProto, Parity]]:
    """The graph in FP16, unless its logits differ too much."""
    try:
        half = to_fp16(model)
        near = min(cosine(a, b) for a, b in zip(gate.expected, _outputs(half, gate.images, fixed), strict=True))
        why = "" if near >= FP16_COSINE else f"its logits' cosine against FP32 is {near:.6f}, below {FP16_COSINE}"
    except Exception as problem:  # onnxruntime's converter and onnx's checker each have their own
        why = str(problem).splitlines()[0]
    if why:
        notes.append(f"there is no FP16: {why}")
        return {}
    return {"fp16": (half, {"cosine_to_fp32": near})}


def _simplified(model: onnx.ModelProto, fixed: int | None, gate: _Gate, notes: list[str]) -> onnx.ModelProto:
    try:
        simple, _ = onnxsim.simplify(model, check_n=0)  # the gate checks it, on better inputs
        if not gate.error(_outputs(simple, gate.images, fixed)) <= FP32_TOLERANCE:
            raise ValueError("it computes something else then")
    except Exception as error:  # a RuntimeError of its own, and what onnxruntime has against the result
        notes.append(f"onnxsim can't simplify it: {str(error).splitlines()[0]}")
        simple = model
    del simple.metadata_props[:], simple.graph.value_info[:]
    _name_nodes(simple)
    _unshare(simple.graph)
    name_weights(simple)
    plain_ir(simple)
    return simple


def _plain_opset(source: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """`source` in an opset that calibration and every TensorRT read, where onnx's converter can do it."""
    opset, model = opset_of(source), copied(source)
    _drop_new_attributes(model)
    if OLDEST <= opset <= OPSET:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # RuntimeError for an operator without a way there; the checker's own
        reason = " ".join(str(error).split())[:120]
        later = "calibrate needs 13" if opset < OLDEST else "TensorRT 8 may not read it"
        notes.append(f"stays at opset {opset}, which onnx can't convert to {OPSET} ({reason}): {later}")
        return model
    notes.append(f"converted from opset {opset} to {OPSET}")
    return converted


def _drop_new_attributes(model: onnx.ModelProto) -> None:
    """Attributes that torch's newer exporter writes and older opsets lack, where they change nothing."""
    constants = constants_of(model.graph)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            for attribute in list(node.attribute):
                operand = constants.get(node.input[1]) if len(node.input) > 1 else None
                whole = operand is not None and operand.size > 0
                if attribute.name == "allowzero" and whole and (operand != 0).all():  # type: ignore[union-attr]
                    node.attribute.remove(attribute)
                if attribute.name == "noop_with_empty_axes" and (whole or not attribute.i):
                    node.attribute.remove(attribute)


def _open_batch(model: onnx.ModelProto, fixed: int | None, gate: _Gate) -> tuple[onnx.ModelProto, int | None]:
    """(`model` for any number of images and None, or as it is and the number that it takes)."""
    for loosened in (False, True):
        trial = copied(model)
        for value in (trial.graph.input[0], trial.graph.output[0]):
            if value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_param = BATCH
        if loosened:
            _loosen(trial.graph, fixed)
        try:
            if fixed is None or gate.error(_outputs(trial, gate.images, None)) <= FP32_TOLERANCE:
                return trial, None
        except Exception:  # onnxruntime's own: a shape that does not fit
            continue
    return model, fixed


def _loosen(graph: onnx.GraphProto, batch: int | None) -> None:
    """Reshapes and Expands to [batch, ...] take their first dimension from what comes in."""
    constants = constants_of(graph)
    for node in graph.node:
        wanted = constants.get(node.input[1]) if node.op_type in ("Reshape", "Expand") else None
        if wanted is None or wanted.ndim != 1 or len(wanted) < 2 or wanted[0] != batch:
            continue
        if attributes(node).get("allowzero"):
            continue
        loose = np.array(wanted)
        loose[0] = 0 if node.op_type == "Reshape" else 1
        name = free_name(f"{node.input[1]}_loose", {tensor.name for tensor in graph.initializer})
        graph.initializer.append(numpy_helper.from_array(loose, name))
        node.input[1] = name


def _name_nodes(model: onnx.ModelProto) -> None:
    """Calibration calls layers by their nodes' names, which others leave empty or give twice."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = free_name(f"{node.op_type}_{index}", seen)
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
                copy.name = node.input[i] = free_name(name, {*tensors, *seen})
            seen.add(node.input[i])


def _with_pixels(model: onnx.ModelProto, preprocessing: Preprocessing, fixed: int | None) -> onnx.ModelProto:
    """`model` behind the front that normalises. Raises ParityError if that computes something else."""
    preprocessing = preprocessing._replace(input="float32")
    pixels, squares = with_pixels(model, preprocessing), gate_squares(preprocessing)
    images = np.stack([normalize(Image.fromarray(square), preprocessing) for square in squares])
    error = relative_error(_outputs(model, images, fixed), _outputs(pixels, squares, fixed))
    if not error <= FP32_TOLERANCE:
        raise ParityError(
            f"uint8 input: fed with pixels, the graph does not compute what it does on them normalised (relative error "
            f"{error:.1e}, at most {FP32_TOLERANCE:.0e}). Nothing was written."
        )
    return pixels
