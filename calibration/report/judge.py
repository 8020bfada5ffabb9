"""What the forms of a network keep, on images that none of them was made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from calibration.collect.images import CalibrationImages
from calibration.collect.ranges import LEVELS, Range
from calibration.layer_graph import LayerGraph, open_session, run, sqnr, top1_agreement
from calibration.quantise.placement import Quantised, quantised_graph
from calibration.quantise.prepare import Prepared
from calibration.quantise.rounding import round_weights
from calibration.report.speed import openvino_logits
from calibration.search.fitting import Say
from calibration.search.sensitivity import simulate
from export.pixels import without_pixels
from runtime.artifacts.artifact import Artifact
from runtime.artifacts.onnx_metadata import require_one_file


@dataclass(frozen=True)
class Score:
    """How one form of the network does on the judging images."""

    name: str
    top1: float | None  # %, where there are labels
    agreement: float  # %, as FP32
    sqnr: float  # dB


def judge(
    artifact: Artifact,
    network: LayerGraph,
    target: str,
    forms: list[tuple[str, onnx.ModelProto]],
    images: CalibrationImages,
    judging: CalibrationImages | None,
    reference: np.ndarray,
    held_out: np.ndarray,
    threads: int,
    say: Say,
) -> tuple[list[Score], str]:
    """(scores of FP32, FP16 where it is there, and `forms`; on which images). For the CPU, the last of them also as this
    machine's integer kernels run it, if OpenVINO is installed."""
    judged, rows = (images, held_out) if judging is None else (judging, np.arange(len(judging)))
    labels = None if judged.labels is None else judged.labels[rows]
    where = f"{len(rows)} images held out of {images.origin}" if judging is None else f"{len(rows)} of {judging.origin}"
    fp32 = reference[rows] if judging is None else run(open_session(network.to_model(), threads), judged.batches(rows))

    def score(name: str, logits: np.ndarray) -> Score:
        top1 = None if labels is None else 100 * float((logits.argmax(1) == labels).mean())
        return Score(name, top1, 100 * top1_agreement(fp32, logits), sqnr(fp32, logits))

    scores = [score("FP32", fp32)]
    half = artifact.path.with_name(f"{artifact.variant}.fp16.onnx")
    if half.is_file():
        require_one_file(half)
        say("judging FP16", 1, 2 + len(forms))
        scores.append(score("FP16", run(open_session(without_pixels(onnx.load(half)), threads), judged.batches(rows))))
    for done, (name, model) in enumerate(forms, 2):
        say(f"judging {name}", done, 2 + len(forms))
        scores.append(score(name, simulate(model, judged.batches(rows), threads)))
    if target == "cpu":
        logits = openvino_logits(forms[-1][1], judged.batches(rows), artifact.preprocessing.resolution)
        if logits is not None:
            scores.insert(-1, score("INT8, OpenVINO", logits))
    return scores, where


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
    return quantised_graph(network, layers, identities)
