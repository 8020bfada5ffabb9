"""Logits out of a graph that gives probabilities: the runtime applies the activation, and a second one would flatten the scores.

What a graph gives is decided from values, since exporters end graphs in dozens of ways: Softmax over any axis, with Reshape or
Identity behind it, or spelled out as Exp, ReduceSum and Div.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.ends import as_scores, give
from export.graphs import names_in, rename, run_on_cpu, with_outputs
from export.to_onnx import INPUT, OUTPUT
from runtime.artifacts.facts import SIGMOID, SOFTMAX
from runtime.errors import UserError

NEAR = 1e-3  # largest difference of a probability, relative to how far they are apart; FP32 gives 1e-6
NEAR_INT8 = (
    2e-2  # of a graph whose probabilities are quantised: half a step of 256, and what the logits' own steps make
)
_WHOLES = (1, 100, 255)  # what probabilities may sum to: as such, in percent, as pixels
_FURTHEST = 24  # tensors before the output that are looked at; a Softmax in primitives has 5 nodes


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(logits / 2))  # does not overflow


ACTIVATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {SOFTMAX: softmax, SIGMOID: sigmoid}


@dataclass(frozen=True)
class Ending:
    """A graph that gives logits, and what makes scores of them."""

    model: onnx.ModelProto
    activation: str  # one of runtime.artifacts.facts.ACTIVATIONS
    applied: bool  # whether the file itself applied it
    scale: float  # of the file's scores: 100 for percent
    note: str  # for the user; "" where there is nothing to say


def ending(
    model: onnx.ModelProto, images: np.ndarray, outputs: np.ndarray, asked: str | None = None, near: float = NEAR
) -> Ending:
    """`model` (from export.ends.bare) cut where its logits are. `images`: as many as it takes; `outputs` [N, classes]: what the
    file gives for them. `asked`: the activation that the user says it has. `near`: NEAR, or NEAR_INT8.

    Raises UserError for outputs that are neither logits nor probabilities whose logits can be had.
    """
    classes = outputs.shape[1]
    if classes > 2 and (np.diff(outputs, axis=1) <= 0).all() and _sorts(model.graph):
        raise UserError(
            "Its scores come sorted (TopK), so that their places mean no classes: export the network without that, or name the "
            "scores before it with OUTPUT=."
        )
    sums = outputs.sum(axis=1)
    whole = next((each for each in _WHOLES if classes > 1 and np.abs(sums / each - 1).max() < near), None)
    within_one = outputs.min() >= -1e-6 and outputs.max() <= 1 + 1e-5
    for activation in (SOFTMAX, SIGMOID) if outputs.min() >= -1e-6 and classes > 1 else (SIGMOID,):
        found = _logits_before(model, images, outputs, ACTIVATE[activation], near)
        if found is None:
            continue
        logits, scale = found
        if asked not in (None, activation):
            raise UserError(f"It applies {activation.capitalize()} itself, which contradicts ACTIVATION={asked}.")
        give(model, logits, classes, _batch(model))
        shown = "" if activation == SOFTMAX else ", and shows independent scores"
        return Ending(
            model,
            activation,
            True,
            scale,
            f"ends in {activation.capitalize()}, which is taken off: the runtime applies it{shown}",
        )
    if outputs.min() >= 0 and whole is not None and asked in (None, SOFTMAX):
        _append_log(model)
        said = "gives probabilities: their logarithm is put behind, of which the runtime's Softmax makes the same again"
        return Ending(model, SOFTMAX, True, whole, said)
    if not within_one:
        if asked is None and classes == 1:
            return Ending(
                model, SIGMOID, False, 1, "has one output, which is shown as an independent score: its sigmoid"
            )
        return Ending(model, asked or SOFTMAX, False, 1, "")
    raise UserError(
        "Its outputs lie between 0 and 1 without summing to 1, and no Sigmoid that could be taken off makes them: export the "
        "network without its last activation, or name its logits with OUTPUT=."
    )


def _batch(model: onnx.ModelProto) -> int | str:
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    return dim.dim_param or dim.dim_value


def _sorts(graph: onnx.GraphProto) -> bool:
    """Whether a TopK is among the last nodes."""
    near = {OUTPUT, *_before(graph)}
    return any(node.op_type == "TopK" and near.intersection(node.output) for node in graph.node)


def _logits_before(
    model: onnx.ModelProto,
    images: np.ndarray,
    outputs: np.ndarray,
    activate: Callable[[np.ndarray], np.ndarray],
    near: float,
) -> tuple[str, float] | None:
    """(the furthest tensor before the output of which `activate` gives the `outputs`, times what): 1, or 100 where they are in
    percent. None if there is none."""
    names = _before(model.graph)
    if not names:
        return None
    try:
        tensors = run_on_cpu(with_outputs(model, names), images, names)
    except Exception:  # onnxruntime's own: a sequence or the like among them, which can't be an output
        return None
    found = None
    for name, tensor in zip(names, tensors, strict=True):
        logits = as_scores(tensor, len(images))
        if logits is None or logits.shape != outputs.shape or not np.isfinite(logits).all():
            continue
        scores = activate(logits.astype(np.float64))
        scale = float((outputs * scores).sum() / (scores * scores).sum())
        scale = scale if scale > 1.5 else 1.0
        # Against how far the outputs are apart: probabilities of 1,000 classes may all be near 0.001.
        if np.abs(scores * scale - outputs).max() <= near * np.ptp(outputs) + 1e-6 * scale:
            found = name, scale
    return found


def _before(graph: onnx.GraphProto) -> list[str]:
    """Names of the tensors before the output, the nearest first."""
    makers = {name: node for node in graph.node for name in node.output if name}
    found, todo = list[str](), [OUTPUT]
    while todo and len(found) < _FURTHEST:
        node = makers.get(todo.pop(0))
        for name in node.input if node else ():
            if name in makers and name != INPUT and name not in found and makers[name].op_type != "Constant":
                found.append(name)
                todo.append(name)
    return found


def _append_log(model: onnx.ModelProto) -> None:
    """The logarithm of the output, which Softmax turns back into it."""
    graph, inner = model.graph, f"{OUTPUT}/probabilities"
    rename(graph, OUTPUT, inner)
    assert inner in names_in(graph)
    graph.initializer.append(numpy_helper.from_array(np.array(1e-30, np.float32), f"{OUTPUT}/least"))
    graph.node.append(helper.make_node("Max", [inner, f"{OUTPUT}/least"], [f"{OUTPUT}/Max"], f"{OUTPUT}/Max"))
    graph.node.append(helper.make_node("Log", [f"{OUTPUT}/Max"], [OUTPUT], f"{OUTPUT}/Log"))
