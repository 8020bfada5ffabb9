"""What the forms of a network keep, on images that no range and no weight came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from calibration.collect.images import CalibrationImages
from calibration.collect.ranges import LEVELS, Range
from calibration.layer_graph import logits_of, open_session, sqnr, top1_agreement
from calibration.quantise.placement import Quantised, quantised_graph
from calibration.quantise.prepare import Prepared
from calibration.quantise.rounding import round_weights
from calibration.report.speed import openvino_logits
from calibration.run import Run, told
from calibration.search.sensitivity import simulate
from export.cost import Cost, cost
from export.pixels import without_pixels
from runtime.artifacts.artifact import Artifact
from runtime.artifacts.onnx_metadata import require_one_file
from runtime.measure.accuracy import wilson


@dataclass(frozen=True)
class Score:
    """How one form of the network does on the judging images."""

    name: str
    top1: float | None  # %, where there are labels
    agreement: float  # top-1 with FP32, %
    sqnr: float  # dB
    interval: tuple[float, float] = (0.0, 100.0)  # 95 %, of `agreement`
    kernels: int | None = None  # predicted of a TensorRT engine from 10.15 on
    moved: float | None = None  # bytes of activations that it reads and writes, predicted, as a share of FP16's


def judge(
    run: Run, artifact: Artifact, forms: list[tuple[str, onnx.ModelProto]], judging: CalibrationImages | None = None
) -> tuple[list[Score], str]:
    """(scores of FP32, FP16 where it is there, and `forms`; on which images): `judging`, else those of `run` held out. For the
    CPU, the last of the forms also as this machine's integer kernels run it, if OpenVINO is installed."""
    images, rows = (run.images, run.held_out) if judging is None else (judging, np.arange(len(judging)))
    labels = None if images.labels is None else images.labels[rows]
    if judging is None:
        fp32 = run.reference[rows]
    else:  # the reference is of the calibration images, which may be fewer
        fp32 = logits_of(open_session(run.network.to_model(), run.threads), told(images, "FP32", rows, run.progress))

    def batches(name: str) -> Iterator[np.ndarray]:
        return told(images, f"judging {name}", rows, run.progress)

    fp16 = predicted(run.network.to_model())

    def score(name: str, logits: np.ndarray, found: Cost | None = None) -> Score:
        top1 = None if labels is None else 100 * float((logits.argmax(1) == labels).mean())
        agreement = top1_agreement(fp32, logits)
        low, high = wilson(round(agreement * len(rows)), len(rows))
        moved = found.activations / fp16.activations if found and fp16 else None
        kernels = found.kernels if found else None
        return Score(name, top1, 100 * agreement, sqnr(fp32, logits), (100 * low, 100 * high), kernels, moved)

    scores = [score("FP32", fp32)]
    half = artifact.path.with_name(f"{artifact.variant}.fp16.onnx")
    if half.is_file():
        require_one_file(half)
        session = open_session(without_pixels(onnx.load(half)), run.threads)
        scores.append(score("FP16", logits_of(session, batches("FP16")), fp16))
    for name, model in forms:
        scores.append(score(name, simulate(model, batches(name), run.threads), predicted(model)))
    if run.target == "cpu":
        logits = openvino_logits(forms[-1][1], batches("OpenVINO"), artifact)
        if logits is not None:
            scores.insert(-1, score("INT8, OpenVINO", logits))
    return scores, _judged_on(run, judging)


def predicted(model: onnx.ModelProto) -> Cost | None:
    """What `export.cost` predicts, or nothing for a graph of unknown sizes."""
    try:
        return cost(model)
    except ValueError:
        return None


def _judged_on(run: Run, judging: CalibrationImages | None) -> str:
    origin = Path((judging or run.images).origin).name
    if judging is not None:
        return f"{len(judging)} images of {origin}"
    if len(run.held_out) == len(run.images):
        return f"all {len(run.images)} images of {origin}, which INT8 was fitted on too: too few to hold any out"
    return f"{len(run.held_out)} images held out of {origin}: no range comes from them, the choice of layers does"


def min_max(prepared: Prepared) -> onnx.ModelProto:
    """What INT8 gives without calibration worth the name: every range up to the largest value seen, weights to the
    nearest, biases as they were."""
    network, layers = prepared.network, {}
    for name in prepared.layers:
        layer = network.layer(name)
        weight, largest = network.weights[layer.weight], prepared.histograms[layer.input].max
        bias = network.weights.get(layer.bias, np.zeros(len(weight), np.float32))
        layers[name] = Quantised(Range(largest / LEVELS if largest else 1.0), *round_weights(weight, None), bias)
    identities = {
        residual.name: Range(prepared.histograms[residual.identity].max / LEVELS or 1.0)
        for residual in network.residuals
        if residual.name in prepared.identities
    }
    ends = {name: Range(prepared.histograms[end].max / LEVELS or 1.0) for name, end in prepared.ends.items()}
    return quantised_graph(network, layers, identities, outputs=ends)
