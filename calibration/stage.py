"""The calibration stage: an FP32 artifact and photographs in, the INT8 artifacts and their report out."""

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
from calibration.images import FEW, Photographs, split
from calibration.network import Network, chunks, open_session, run, same_class, sqnr
from calibration.placement import (
    TARGETS,
    Quantised,
    quantised_graph,
    share_in_int8,
    smoothing_site,
    to_half,
    with_float_weights,
)
from calibration.prepare import Prepared, from_arrays, prepare, to_arrays
from calibration.ranges import LEVELS, Range
from calibration.rounding import round_weights
from calibration.sensitivity import (
    DEFAULT_BUDGET,
    SMOOTHED_FROM,
    Budget,
    Point,
    damage,
    measured,
    refine,
    search,
    simulate,
)
from calibration.speed import Speed, measure_speed, openvino_logits
from export.pixels import with_pixels, without_pixels
from runtime.artifact import Artifact, artifact_path, sealed
from runtime.errors import UserError
from runtime.onnx_metadata import read_metadata, require_one_file, verify
from runtime.whole_file import write_whole

if TYPE_CHECKING:  # it imports torch
    from calibration.training import Schedule

PRECISIONS = ("int8", "int8-fp16")
TOOLS = ("numpy", "onnx", "onnxruntime")
# Pictures that a layer's damage is measured on: as many as this many multiply-adds in a run allow, so that B4 takes
# tens of minutes.
# Pictures that weights are rounded on: the pass over them takes two to three times as long as plain inference.
ROUNDED_ON = 96
TRIAL_COST, FEWEST_TRIALS, MOST_TRIALS = 48e9, 12, 64

Say = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


@dataclass(frozen=True)
class Score:
    """How one form of the network does on the judging pictures."""

    name: str
    top1: float | None  # %, where there are labels
    same_class: float  # %, as FP32
    sqnr: float  # dB


@dataclass(frozen=True)
class Result:
    """Everything that the report shows."""

    variant: str
    target: str
    budget: Budget
    met: bool
    best: Point
    points: list[Point]
    damages: dict[str, float]  # by layer, error power at the logits with it alone in int8
    scores: list[Score]
    judged_on: str
    pictures: int
    skipped: list[str]
    origin: str
    warnings: list[str]
    speeds: list[Speed]  # on this machine's CPU, for that target
    seconds: float
    training: Schedule | None = None


@dataclass(frozen=True)
class Digests:
    """Sha256 of what results are made from: of the long steps, which are cached, and of everything."""

    steps: str
    all: str


def request_digests(
    artifact: Artifact, photographs: Photographs, judging: Photographs | None, budget: Budget, target: str,
    training: Schedule | None = None,
) -> Digests:  # fmt: skip
    made_from = {
        "network": verify(artifact.path),
        "pictures": photographs.digest(),
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
    try:
        for precision in PRECISIONS:
            path = artifact_path(variant, precision, folder)
            if read_metadata(path).get("made_from") != digest:
                return False
            verify(path)
    except UserError:
        return False
    reports = artifact_path(variant, "int8", folder).parent
    return all((reports / f"{variant}.calibration.{suffix}").is_file() for suffix in ("json", "html"))


def read_network(artifact: Artifact) -> Network:
    """The network of an FP32 artifact, from normalised pictures on: where the artifact takes pixels, without the front that
    normalises them. Raises UserError for another precision, NaN weights or an unknown form."""
    if artifact.precision != "fp32":
        raise UserError(f"{artifact.path} is {artifact.precision} already: calibration starts from the FP32 artifact.")
    require_one_file(artifact.path)
    try:
        model = onnx.load(artifact.path)
    except Exception as error:  # protobuf's and onnx's have no common base
        raise UserError(f"{artifact.path} can't be read as ONNX ({str(error).splitlines()[0]}): export it again.") from None
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise UserError(f"{artifact.path} is quantised already: calibration starts from the FP32 artifact.")
    try:
        network = Network(without_pixels(model))
    except ValueError as error:
        raise UserError(f"{artifact.path} can't be calibrated ({error}).") from None
    if all(layer.unfit or layer.pooled for layer in network.layers):
        raise UserError(f"{artifact.path} has no convolution that int8 is made for: there is nothing to calibrate.")
    for name, weight in network.weights.items():
        if weight.dtype.kind == "f" and not np.isfinite(weight).all():
            raise UserError(f"{artifact.path}: the weights {name} hold NaN or infinity: export the network again.")
    return network


def calibrate(
    artifact: Artifact, photographs: Photographs, judging: Photographs | None, budget: Budget, target: str,
    folder: Path | None = None, threads: int = 0, say: Say = lambda *_: None, training: Schedule | None = None,
) -> Result:  # fmt: skip
    """Writes the INT8 artifacts of `artifact` and their report.

    With `training`, no layer is chosen to stay in float: all are trained with int8's roundings in place instead.

    Ranges and weights come from `photographs`, three quarters of them; choices are made on the rest; `judging`, if
    given, is only looked at in the end. Raises UserError if the network or its output is not finite; nothing is
    written then.
    """
    began, network = time.perf_counter(), read_network(artifact)
    digests = request_digests(artifact, photographs, judging, budget, target, training)
    cache = Cache(artifact_path(artifact.variant, "int8", folder).parent / "calibration", digests.steps)
    fit, held_out = split(len(photographs))
    say("FP32", 0, 1)
    reference = run(open_session(network.to_model(), threads), photographs.batches())
    if not np.isfinite(reference).all():
        raise UserError(f"{artifact.path} gives logits that are not finite: export the network again.")
    prepared = _prepared(network, target, photographs, fit, cache, threads, say)
    damages = _refined(prepared, target, photographs, reference, fit, held_out, cache, threads, say)

    measure = measured(reference, photographs.labels, held_out.tolist(), photographs.batches, threads)
    found: list[Point] = []

    def note(point: Point) -> None:
        found.append(point)
        say("searching", len(found), 8)

    calibrated = prepared
    if training is None:
        best, points, met = search(prepared, damages, budget, measure, note)
    else:
        prepared = _trained(prepared, photographs, fit, training, threads, say)
        best, points = everything(prepared, measure), [everything(calibrated, measure)]
        met, points = budget in (DEFAULT_BUDGET, Budget()) or budget.met(best), [*points, best]
    graph = quantised_graph(network, prepared.layers, prepared.identities, best.kept)
    onnx.checker.check_model(graph, full_check=True)
    half = to_half(graph)

    say("judging", 0, 4)
    forms = [("INT8, min-max", min_max(calibrated))]
    if training is not None:
        forms.append(("INT8, calibrated", quantised_graph(network, calibrated.layers, calibrated.identities)))
    forms.append((f"INT8, {'trained' if training else 'calibrated'}", graph))
    scores, judged_on = _judge(artifact, network, target, forms, photographs, judging, reference, held_out, threads, say)
    warnings = [*_warnings(artifact, photographs), *_left_in_float(network)]
    speeds: list[Speed] = []
    if target == "cpu":
        say("timing", 0, 1)
        lost = {score.name: scores[-1].same_class - score.same_class for score in scores}
        speeds = measure_speed(network.to_model(), graph, artifact.preprocessing.resolution, threads)
        speeds = [replace(speed, lost=lost.get(speed.engine, 0.0)) for speed in speeds]
    result = Result(
        artifact.variant, target, budget, met, best, points, damages, scores, judged_on, len(photographs),
        photographs.skipped, photographs.origin, warnings, speeds, time.perf_counter() - began, training,
    )  # fmt: skip
    from calibration.report import write_report  # here: only now is there something to draw

    # The artifacts last: they say what they were made from, and so whether all of this has been done.
    write_report(result, network, prepared, artifact_path(artifact.variant, "int8", folder).parent)
    _write(artifact, with_float_weights(graph), half, result, digests.all, folder)
    return result


def _prepared(
    network: Network, target: str, photographs: Photographs, fit: np.ndarray, cache: Cache, threads: int, say: Say
) -> Prepared:
    arrays = cache.read_arrays("statistics.npz")
    if arrays is not None:
        return from_arrays(network, arrays)
    steps = iter(range(3))
    some = fit[np.linspace(0, len(fit) - 1, min(ROUNDED_ON, len(fit))).astype(int)]
    prepared = prepare(
        network, TARGETS[target], lambda: photographs.batches(fit), threads, lambda step: say(step, next(steps), 3),
        lambda: photographs.batches(some),
    )  # fmt: skip
    cache.write_arrays("statistics.npz", to_arrays(prepared))
    return prepared


def _refined(
    prepared: Prepared, target: str, photographs: Photographs, reference: np.ndarray, fit: np.ndarray,
    held_out: np.ndarray, cache: Cache, threads: int, say: Say,
) -> dict[str, float]:  # fmt: skip
    """Damage of each layer on held-out pictures, after giving it the range that the logits like best on pictures that are
    not held out, and smoothing where that halves what would else be much. Picks up where an interrupted run stopped."""
    count = int(np.clip(TRIAL_COST / prepared.network.multiply_adds, FEWEST_TRIALS, MOST_TRIALS))
    trial, other = (rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)] for rows in (held_out, fit))
    trials, others = (np.concatenate(list(photographs.batches(rows))) for rows in (trial, other))
    damages: dict[str, float] = {}
    ranges: dict[str, list[float]] = {}
    with_cache = cache.read("damages.json")
    if with_cache is not None:
        known = json.loads(with_cache)
        damages, ranges = known["damages"], known["ranges"]
    for name, (scale, offset, with_factors) in ranges.items():
        factors = prepared.smoothed(name).factors if with_factors else None
        prepared.layers[name] = prepared.with_range(name, Range(scale, offset), factors)
    streams = {residual.identity for residual in prepared.network.residuals}
    total = len(prepared.layers) + sum(prepared.network.layer(name).input not in streams for name in prepared.layers)
    for name, layer in prepared.layers.items():
        if name not in damages:
            say("damage of each layer", len(damages), total)
            damages[name] = damage(prepared, name, layer, lambda: chunks(trials), reference[trial], threads)
            cache.write("damages.json", json.dumps({"damages": damages, "ranges": ranges}).encode())
    # A tensor that is also a residual's identity keeps one range, so that its users share one Q/DQ pair.
    free = [name for name in damages if prepared.network.layer(name).input not in streams]

    def fitted(name: str, start: Quantised) -> Quantised:
        return refine(prepared, name, start, lambda: chunks(others), reference[other], threads)

    def judged(name: str, layer: Quantised) -> float:
        return damage(prepared, name, layer, lambda: chunks(trials), reference[trial], threads)

    while len(ranges) < len(free):
        name = max((name for name in free if name not in ranges), key=lambda name: damages[name])
        say("ranges by damage", len(prepared.layers) + len(ranges), total)
        layer = fitted(name, prepared.layers[name])
        if layer is not prepared.layers[name]:
            prepared.layers[name], damages[name] = layer, judged(name, layer)
        smoothing = TARGETS[target].smoothing and smoothing_site(prepared.network, prepared.network.layer(name))
        if smoothing and damages[name] > SMOOTHED_FROM / len(prepared.layers):
            smoothed = fitted(name, prepared.smoothed(name))
            if (found := judged(name, smoothed)) < damages[name] / 2:
                prepared.layers[name], damages[name] = smoothed, found
        chosen = prepared.layers[name]
        ranges[name] = [chosen.range.scale, chosen.range.offset, float(chosen.factors is not None)]
        cache.write("damages.json", json.dumps({"damages": damages, "ranges": ranges}).encode())
    return damages


def _trained(
    prepared: Prepared, photographs: Photographs, fit: np.ndarray, training: Schedule, threads: int, say: Say
) -> Prepared:
    from calibration.training import train

    return train(prepared, photographs, fit, (), training, threads, lambda done, of: say("training", done, of))


def everything(prepared: Prepared, measure: Callable[[onnx.ModelProto], tuple[float, float, float]]) -> Point:
    """All that the placement allows in int8."""
    graph = quantised_graph(prepared.network, prepared.layers, prepared.identities)
    never = {layer.name for layer in prepared.network.layers} - set(prepared.layers)
    return Point((), share_in_int8(prepared.network, never), *measure(graph))


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


def _judge(
    artifact: Artifact, network: Network, target: str, forms: list[tuple[str, onnx.ModelProto]], photographs: Photographs,
    judging: Photographs | None, reference: np.ndarray, held_out: np.ndarray, threads: int, say: Say,
) -> tuple[list[Score], str]:  # fmt: skip
    """(scores of FP32, FP16 where it is there, and `forms`; on which pictures). For the CPU, the last of them also as this
    machine's integer kernels run it, if OpenVINO is installed."""
    pictures, rows = (photographs, held_out) if judging is None else (judging, np.arange(len(judging)))
    labels = None if pictures.labels is None else pictures.labels[rows]
    where = (
        f"{len(rows)} pictures held out of {photographs.origin}"
        if judging is None
        else f"{len(rows)} of {judging.origin}"
    )
    fp32 = (
        reference[rows] if judging is None else run(open_session(network.to_model(), threads), pictures.batches(rows))
    )

    def score(name: str, logits: np.ndarray) -> Score:
        top1 = None if labels is None else 100 * float((logits.argmax(1) == labels).mean())
        return Score(name, top1, 100 * same_class(fp32, logits), sqnr(fp32, logits))

    scores = [score("FP32", fp32)]
    half = artifact.path.with_name(f"{artifact.variant}.fp16.onnx")
    if half.is_file():
        require_one_file(half)
        say("judging FP16", 1, 2 + len(forms))
        scores.append(score("FP16", run(open_session(without_pixels(onnx.load(half)), threads), pictures.batches(rows))))
    for done, (name, model) in enumerate(forms, 2):
        say(f"judging {name}", done, 2 + len(forms))
        scores.append(score(name, simulate(model, pictures.batches(rows), threads)))
    if target == "cpu":
        logits = openvino_logits(forms[-1][1], pictures.batches(rows), artifact.preprocessing.resolution)
        if logits is not None:
            scores.insert(-1, score("INT8, OpenVINO", logits))
    return scores, where


def _warnings(artifact: Artifact, photographs: Photographs) -> list[str]:
    found = []
    if artifact.random:
        found.append("random weights: the accuracy of this network means nothing")
    if len(photographs) < FEW:
        found.append(f"only {len(photographs)} photographs: at least {FEW}, better 256, make ranges that hold")
    if photographs.skipped:
        found.append(f"{len(photographs.skipped)} pictures skipped, the first: {photographs.skipped[0]}")
    return found


def _left_in_float(network: Network) -> list[str]:
    """What networks of others have that int8 is not made for here."""
    reasons: dict[str, list[str]] = {}
    for layer in network.layers:
        if layer.unfit and not layer.pooled:
            reasons.setdefault(layer.unfit, []).append(layer.name)
    shares = {reason: 1 - share_in_int8(network, names) for reason, names in reasons.items()}
    return [
        f"{len(names)} layers ({shares[reason]:.1%} of the multiply-adds) stay in float: {reason}, as {names[0]}"
        for reason, names in reasons.items()
    ]


def _write(
    artifact: Artifact, graph: onnx.ModelProto, half: onnx.ModelProto, result: Result, digest: str,
    folder: Path | None,
) -> None:  # fmt: skip
    metadata = {
        **{key: value for key, value in artifact.metadata.items() if not key.startswith("onnxsim.")},
        "made_from": digest,
        "fp32_sha256": verify(artifact.path),
        "calibration": json.dumps(summary(result)),
    }
    for precision, model in zip(PRECISIONS, (graph, half)):
        del model.metadata_props[:]
        if artifact.preprocessing.input == "uint8":
            model = with_pixels(model, artifact.preprocessing)
        content, _ = sealed(model.SerializeToString(), precision, metadata)
        write_whole(artifact_path(artifact.variant, precision, folder), content)


def summary(result: Result) -> dict[str, object]:
    """What the artifacts carry of their calibration."""
    return {
        "target": result.target,
        "pictures": result.pictures,
        "origin": Path(result.origin).name,
        "budget": asdict(result.budget),
        "budget_met": result.met,
        "kept_in_float": list(result.best.kept),
        "multiply_adds_in_int8": result.best.share,
        "judged_on": Path(result.judged_on).name,
        "scores": [asdict(score) for score in result.scores],
        "speeds": [asdict(speed) for speed in result.speeds],
        "training": asdict(result.training) if result.training else None,
    }


def share_of(network: Network, name: str) -> float:
    """Share of the network's multiply-adds in layer `name`."""
    return 1 - share_in_int8(network, {name})
