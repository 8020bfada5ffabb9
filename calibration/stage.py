"""The calibration stage: an FP32 artifact and images in, the INT8 artifacts and their report out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from calibration.cache import Cache, code_digest
from calibration.collect.images import FEW, CalibrationImages, split
from calibration.layer_graph import LayerGraph, open_session, run
from calibration.quantise.placement import quantised_graph, share_in_int8, to_half, with_float_weights
from calibration.quantise.prepare import Prepared
from calibration.report.judge import judge, min_max
from calibration.report.page import write_report
from calibration.report.result import Result, summary
from calibration.report.speed import Speed, measure_speed
from calibration.search.fitting import Say, prepared_layers, refined
from calibration.search.sensitivity import DEFAULT_BUDGET, Budget, Point, measured, search
from export.pixels import with_pixels, without_pixels
from runtime.artifacts.artifact import Artifact, artifact_path
from runtime.artifacts.onnx_metadata import require_one_file, verify
from runtime.artifacts.write import Graph, fitting, write
from runtime.errors import UserError

if TYPE_CHECKING:  # it imports torch
    from calibration.train.training import Schedule

PRECISIONS = ("int8", "int8-fp16")
TOOLS = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Digests:
    """Sha256 of what results are made from: of the long steps, which are cached, and of everything."""

    steps: str
    all: str


def request_digests(
    artifact: Artifact,
    images: CalibrationImages,
    judging: CalibrationImages | None,
    budget: Budget,
    target: str,
    training: Schedule | None = None,
) -> Digests:
    made_from = {
        "network": verify(artifact.path),
        "pictures": images.digest(),
        "target": target,
        "tools": {tool: version(tool) for tool in TOOLS},
        "code": code_digest(),
    }
    steps = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    schedule = [asdict(training)] if training else []
    rest = json.dumps([steps, asdict(budget), judging.digest() if judging else "", *schedule])
    return Digests(steps, hashlib.sha256(rest.encode()).hexdigest())


def up_to_date(variant: str, digest: str, folder: Path | None) -> bool:
    """Whether whole INT8 artifacts made from just `digest` are there."""
    if fitting(variant, folder, digest, PRECISIONS) is None:
        return False
    reports = artifact_path(variant, "int8", folder).parent
    return all((reports / f"{variant}.calibration.{suffix}").is_file() for suffix in ("json", "html"))


def read_network(artifact: Artifact) -> LayerGraph:
    """The network of an FP32 artifact, from normalised images on: where the artifact takes pixels, without the front that
    normalises them. Raises UserError for another precision, NaN weights or an unknown form."""
    if artifact.precision != "fp32":
        raise UserError(f"{artifact.path} is {artifact.precision} already: calibration starts from the FP32 artifact.")
    require_one_file(artifact.path)
    try:
        model = onnx.load(artifact.path)
    except Exception as error:  # protobuf's and onnx's have no common base
        raise UserError(
            f"{artifact.path} can't be read as ONNX ({str(error).splitlines()[0]}): export it again."
        ) from None
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise UserError(f"{artifact.path} is quantised already: calibration starts from the FP32 artifact.")
    try:
        network = LayerGraph(without_pixels(model))
    except ValueError as error:
        raise UserError(f"{artifact.path} can't be calibrated ({error}).") from None
    if all(layer.unfit or layer.pooled for layer in network.layers):
        raise UserError(f"{artifact.path} has no convolution that int8 is made for: there is nothing to calibrate.")
    for name, weight in network.weights.items():
        if weight.dtype.kind == "f" and not np.isfinite(weight).all():
            raise UserError(f"{artifact.path}: the weights {name} hold NaN or infinity: export the network again.")
    return network


def calibrate(
    artifact: Artifact,
    images: CalibrationImages,
    judging: CalibrationImages | None,
    budget: Budget,
    target: str,
    folder: Path | None = None,
    threads: int = 0,
    say: Say = lambda *_: None,
    training: Schedule | None = None,
) -> Result:
    """Writes the INT8 artifacts of `artifact` and their report.

    With `training`, no layer is chosen to stay in float: all are trained with int8's roundings in place instead.

    Ranges and weights come from `images`, three quarters of them; choices are made on the rest; `judging`, if
    given, is only looked at in the end. Raises UserError if the network or its output is not finite; nothing is
    written then.
    """
    began, network = time.perf_counter(), read_network(artifact)
    digests = request_digests(artifact, images, judging, budget, target, training)
    cache = Cache(artifact_path(artifact.variant, "int8", folder).parent / "calibration", digests.steps)
    fit, held_out = split(len(images))
    say("FP32", 0, 1)
    reference = run(open_session(network.to_model(), threads), images.batches())
    if not np.isfinite(reference).all():
        raise UserError(f"{artifact.path} gives logits that are not finite: export the network again.")
    prepared = prepared_layers(network, target, images, fit, cache, threads, say)
    damages = refined(prepared, target, images, reference, fit, held_out, cache, threads, say)

    measure = measured(reference, images.labels, held_out.tolist(), images.batches, threads)
    found: list[Point] = []

    def note(point: Point) -> None:
        found.append(point)
        say("searching", len(found), 8)

    calibrated, kept_training = prepared, False
    if training is None:
        best, points, met = search(prepared, damages, budget, measure, note)
    else:
        trained = _trained(prepared, images, fit, training, threads, say)
        points = [everything(calibrated, measure), everything(trained, measure)]
        kept_training = points[1].sqnr > points[0].sqnr
        prepared, best = (trained, points[1]) if kept_training else (calibrated, points[0])
        met = budget in (DEFAULT_BUDGET, Budget()) or budget.met(best)
    graph = quantised_graph(network, prepared.layers, prepared.identities, best.kept)
    onnx.checker.check_model(graph, full_check=True)
    half = to_half(graph)

    say("judging", 0, 4)
    forms = [("INT8, min-max", min_max(calibrated))]
    if training is not None:
        name, other = ("calibrated", calibrated) if kept_training else ("trained", trained)
        forms.append((f"INT8, {name}", quantised_graph(network, other.layers, other.identities)))
    forms.append((f"INT8, {'trained' if kept_training else 'calibrated'}", graph))
    scores, judged_on = judge(artifact, network, target, forms, images, judging, reference, held_out, threads, say)
    warnings = [*_warnings(artifact, images), *_left_in_float(network)]
    if training is not None and not kept_training:
        warnings.append(
            f"training did harm ({points[0].sqnr:.1f} -> {points[1].sqnr:.1f} dB on the images held out): the weights are "
            "those that calibration found"
        )
    speeds: list[Speed] = []
    if target == "cpu":
        say("timing", 0, 1)
        lost = {score.name: scores[-1].agreement - score.agreement for score in scores}
        speeds = measure_speed(network.to_model(), graph, artifact.preprocessing.resolution, threads)
        speeds = [replace(speed, lost=lost.get(speed.engine, 0.0)) for speed in speeds]
    result = Result(
        artifact.variant,
        target,
        budget,
        met,
        best,
        points,
        damages,
        scores,
        judged_on,
        len(images),
        images.skipped,
        images.origin,
        warnings,
        speeds,
        time.perf_counter() - began,
        training,
        kept_training,
    )
    # The artifacts last: they say what they were made from, and so whether all of this has been done.
    write_report(result, network, prepared, artifact_path(artifact.variant, "int8", folder).parent)
    _write(artifact, with_float_weights(graph), half, result, digests.all, folder)
    return result


def _trained(
    prepared: Prepared, images: CalibrationImages, fit: np.ndarray, training: Schedule, threads: int, say: Say
) -> Prepared:
    from calibration.train.training import train

    return train(prepared, images, fit, (), training, threads, lambda done, of: say("training", done, of))


def everything(prepared: Prepared, measure: Callable[[onnx.ModelProto], tuple[float, float, float]]) -> Point:
    """All that the placement allows in int8."""
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities)
    never = {layer.name for layer in prepared.network.layers} - set(prepared.layers)
    return Point((), share_in_int8(prepared.network, never), *measure(graph))


def _warnings(artifact: Artifact, images: CalibrationImages) -> list[str]:
    found = []
    if artifact.random:
        found.append("random weights: the accuracy of this network means nothing")
    if len(images) < FEW:
        found.append(f"only {len(images)} images: at least {FEW}, better 256, make ranges that hold")
    if images.skipped:
        found.append(f"{len(images.skipped)} images skipped, the first: {images.skipped[0]}")
    return found


def _left_in_float(network: LayerGraph) -> list[str]:
    """What third-party models have that int8 is not made for here."""
    reasons: dict[str, list[str]] = {}
    for layer in network.layers:
        if layer.unfit and not layer.pooled:
            reasons.setdefault(layer.unfit, []).append(layer.name)
    shares = {reason: 1 - share_in_int8(network, names) for reason, names in reasons.items()}
    return [
        f"{len(names)} layers ({shares[reason]:.1%} of the MACs) stay in float: {reason}, as {names[0]}"
        for reason, names in reasons.items()
    ]


def _write(
    artifact: Artifact,
    graph: onnx.ModelProto,
    half: onnx.ModelProto,
    result: Result,
    digest: str,
    folder: Path | None,
) -> None:
    facts, graphs = {"calibration": json.dumps(summary(result))}, {}
    for precision, model in zip(PRECISIONS, (graph, half)):
        del model.metadata_props[:]
        if artifact.preprocessing.input == "uint8":
            model = with_pixels(model, artifact.preprocessing)
        graphs[precision] = Graph(model.SerializeToString(), facts)
    write(artifact, graphs, digest, folder, fp32_sha256=verify(artifact.path))
