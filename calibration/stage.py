"""The calibration stage: an FP32 artifact and images in, the INT8 artifacts and their report out."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from calibration.budget import DEFAULT_BUDGETS, Budget, Point, forecast
from calibration.cache import Cache, code_digest
from calibration.collect.images import BUILT_IN, FEW, CalibrationImages, split
from calibration.layer_graph import LayerGraph, logits_of, open_session
from calibration.quantise.blocks import higher_precision
from calibration.quantise.placement import share_in_int8, to_half, with_float_depthwise, with_float_weights
from calibration.quantise.prepare import Prepared
from calibration.report.judge import judge, min_max
from calibration.report.page import write_report
from calibration.report.result import Result, summary
from calibration.report.speed import Speed, measure_speed
from calibration.run import Run, told
from calibration.search.predicted import shares, time_in_float
from calibration.search.sensitivity import Measured, Move, measured, moves, point_of, search
from export.cost import GENERATIONS, fact
from export.pixels import with_pixels, without_pixels
from runtime.artifacts.artifact import Artifact, artifact_path
from runtime.artifacts.onnx_metadata import require_one_file, verify
from runtime.artifacts.write import Graph, fitting, write
from runtime.backends.tensorrt.tuned import EARLIER
from runtime.errors import UserError
from runtime.progress import Report, silent
from runtime.whole_file import require_room

if TYPE_CHECKING:  # it imports torch
    from calibration.train.training import Schedule

PRECISIONS = ("int8", "int8-fp16")
TARGETS = ("cpu", "tensorrt")
SEARCH = "search"  # each block in the form that saves most predicted time for what the logits may lose
TOOLS = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Request:
    """All that a calibration depends on, besides the code and the tools.

    Ranges and weights come from `images`, three quarters of them; choices are made on the rest; `judging`, if given, is
    only looked at in the end. With `training`, no block leaves the chain: all are trained with INT8's roundings in place instead.
    """

    artifact: Artifact  # FP32
    images: CalibrationImages
    judging: CalibrationImages | None = None
    budget: Budget | None = None  # the target's, if blocks are searched
    target: str = "tensorrt"
    training: Schedule | None = None
    placement: str = SEARCH  # or the form of every block, a name of FORMS

    @functools.cached_property
    def steps(self) -> str:
        """Sha256 of what the long steps are made from, whose results are cached."""
        made_from = {
            "network": verify(self.artifact.path),
            "pictures": self.images.digest(),
            "tools": {tool: version(tool) for tool in TOOLS},
            "code": code_digest(),
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def digest(self) -> str:
        """Sha256 of what everything is made from."""
        judging = self.judging.digest() if self.judging else ""
        schedule = [asdict(self.training)] if self.training else []
        rest = json.dumps(
            [self.steps, self.target, self.placement, asdict(self.budget) if self.budget else None, judging, *schedule]
        )
        return hashlib.sha256(rest.encode()).hexdigest()


def up_to_date(request: Request, folder: Path | None) -> bool:
    """Whether whole INT8 artifacts of just this request are there, and their report."""
    variant = request.artifact.variant
    if fitting(variant, folder, request.digest, PRECISIONS) is None:
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
    request: Request, folder: Path | None = None, threads: int = 0, progress: Report = silent, anew: bool = False
) -> Result:
    """Writes the INT8 artifacts of `request` and their report. `anew`: without what an earlier run left in the cache.

    Raises UserError if the network or its output is not finite; nothing is written then.
    """
    from calibration.search.fitting import damages_of, fitted  # torch: seconds that no mistake should cost

    began, artifact, training = time.perf_counter(), request.artifact, request.training
    searched = training is None and request.placement == SEARCH
    budget = request.budget or (DEFAULT_BUDGETS[request.target] if searched else Budget())
    home = artifact_path(artifact.variant, "int8", folder).parent
    require_room(home, 2 * artifact.path.stat().st_size)  # INT8 with weights in FP32, the same in FP16, and the cache
    run = _begun(request, folder, threads, progress, anew)
    prepared = fitted(run)
    damages = damages_of(run, prepared)
    measure, calibrated, kept_training = measured(run, budget), prepared, False
    if training is not None:
        trained = _trained(run, prepared, training, request.placement)
        points = [_whole(one, request, measure) for one in (calibrated, trained)]
        kept_training = points[1].sqnr > points[0].sqnr
        prepared, best = (trained, points[1]) if kept_training else (calibrated, points[0])
    elif searched:
        ordered = moves(prepared, damages, request.target)
        if request.budget:
            _say_cost(run, budget, damages, ordered)
        best, points, met = search(prepared, ordered, budget, measure, request.target)
    else:
        points = [best := _whole(prepared, request, measure)]
    if not searched:
        met = budget.met(best)
    graph = prepared.graph(best.forms)
    onnx.checker.check_model(graph, full_check=True)
    half = to_half(graph)

    forms = [("INT8, min-max", min_max(calibrated))]
    if training is None:
        forms += _whole_chain(calibrated, request.placement)
    notes = [*_skipped(request.images), *_unfit_layers(run.network)]
    if training is not None:
        name, other = ("calibrated", calibrated) if kept_training else ("trained", trained)
        forms.append((f"INT8, {name}", other.graph(best.forms)))
        if not kept_training:
            notes.append(
                f"training did harm ({points[0].sqnr:.1f} -> {points[1].sqnr:.1f} dB on the images held out): the weights "
                "are those that calibration found"
            )
    earlier = with_float_depthwise(graph) if prepared.outputs else None
    if earlier is not None:
        forms.append((EARLIER, earlier))
    as_taken = "calibrated" if request.placement == SEARCH else request.placement
    forms.append((f"INT8, {'trained' if kept_training else as_taken}", graph))
    scores, judged_on = judge(run, artifact, forms, request.judging)
    speeds: list[Speed] = []
    if request.target == "cpu":
        progress(0, 1, "timing")
        lost = {score.name: scores[-1].agreement - score.agreement for score in scores}
        speeds = measure_speed(run.network.to_model(), graph, artifact, threads)
        speeds = [replace(speed, lost=lost.get(speed.engine, 0.0)) for speed in speeds]
    result = Result(
        variant=artifact.variant,
        target=request.target,
        placement=request.placement,
        budget=budget,
        met=met,
        best=best,
        points=points,
        damages=damages,
        scores=scores,
        judged_on=judged_on,
        images=len(request.images),
        skipped=request.images.skipped,
        origin=request.images.origin,
        earlier=shares(run.network, earlier or graph, GENERATIONS["8.5"]),
        warnings=_warnings(artifact, request.images),
        notes=notes,
        speeds=speeds,
        seconds=time.perf_counter() - began,
        training=training,
        trained=kept_training,
    )
    # The artifacts last: they say what they were made from, and so whether all of this has been done.
    write_report(result, run.network, prepared, artifact_path(artifact.variant, "int8", folder).parent)
    _write(artifact, with_float_weights(graph), half, result, request.digest, folder)
    return result


def _begun(request: Request, folder: Path | None, threads: int, progress: Report, anew: bool) -> Run:
    """The run of `request`, with FP32's logits."""
    artifact, images = request.artifact, request.images
    network = read_network(artifact)
    cache = Cache(artifact_path(artifact.variant, "int8", folder).parent / "calibration", request.steps)
    if anew:
        cache.clear()
    elif cache.read("statistics.npz") is not None:
        progress(0, 0, "going on from what an earlier run found (FORCE=1 starts anew)")
    fit, held_out = split(len(images))
    reference = logits_of(open_session(network.to_model(), threads), told(images, "FP32", None, progress))
    if not np.isfinite(reference).all():
        raise UserError(f"{artifact.path} gives logits that are not finite: export the network again.")
    return Run(network, request.target, images, fit, held_out, reference, cache, threads, progress)


def _say_cost(run: Run, budget: Budget, damages: Mapping[str, Mapping[str, float]], ordered: Sequence[Move]) -> None:
    """Tells, before it is spent, about what `budget` costs."""
    whole = time_in_float(run.network, run.target)
    costs = {name: max(1e-9, sum(move.price for move in ordered if move.block == name) / whole) for name in damages}
    count, share = forecast(budget, {name: found["chain"] for name, found in damages.items()}, costs, run.reference)
    run.progress(
        0,
        0,
        f"{budget.goal}: from the damage of single blocks, about {count} of {len(damages)} blocks leave the chain, for "
        f"{share:.0%} of the predicted time without INT8",
    )


def _trained(run: Run, prepared: Prepared, training: Schedule, placement: str) -> Prepared:
    from calibration.train.training import train

    forms = uniform(prepared, placement)
    kept = higher_precision(prepared.blocks, forms)
    settled = prepared.settled() if placement in (SEARCH, "chain") else prepared
    return train(settled, run.images, run.fit, kept, training, run.threads, run.progress)


def uniform(prepared: Prepared, placement: str) -> dict[str, str]:
    """Every block in the form `placement`; for SEARCH none, that is, all in chain."""
    return {} if placement == SEARCH else dict.fromkeys((block.name for block in prepared.blocks), placement)


def _whole_chain(prepared: Prepared, taken: str) -> list[tuple[str, onnx.ModelProto]]:
    """What every block in chain would give, where that is not what was asked for."""
    return [] if taken == "chain" else [("INT8, chain", prepared.graph())]


def _whole(prepared: Prepared, request: Request, measure: Callable[[onnx.ModelProto], Measured]) -> Point:
    """All in INT8 that the placement asked for allows."""
    return point_of(prepared, uniform(prepared, request.placement), measure, request.target)


def _warnings(artifact: Artifact, images: CalibrationImages) -> list[str]:
    """Why the result should not be relied on."""
    found = list(images.warnings)
    if artifact.random:
        found.append("random weights: the accuracy of this network means nothing")
    if images.origin == BUILT_IN:
        found.append(
            f"calibrated on crops of {BUILT_IN}: enough to try it out, not for a product; give images like those that the "
            "network will see (CALIB=photos/)"
        )
    if len(images) < FEW:
        found.append(f"only {len(images)} images: ranges that hold need at least {FEW}, better 256")
    return found


def _skipped(images: CalibrationImages) -> list[str]:
    return [f"{len(images.skipped)} images skipped, the first: {images.skipped[0]}"] if images.skipped else []


def _unfit_layers(network: LayerGraph) -> list[str]:
    """What third-party networks have that INT8 is not made for here."""
    reasons: dict[str, list[str]] = {}
    for layer in network.layers:
        if layer.unfit and not layer.pooled:
            reasons.setdefault(layer.unfit, []).append(layer.name)
    shares = {reason: 1 - share_in_int8(network, names) for reason, names in reasons.items()}
    return [
        f"{len(names)} layers ({shares[reason]:.1%} of the MACs) stay in higher precision: {reason}, as {names[0]}"
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
    facts, graphs = {"calibration": json.dumps(summary(result)), **fact(graph)}, {}
    for precision, model in zip(PRECISIONS, (graph, half)):
        del model.metadata_props[:]
        if artifact.preprocessing.input == "uint8":
            model = with_pixels(model, artifact.preprocessing)
        graphs[precision] = Graph(model.SerializeToString(), facts)
    write(artifact, graphs, digest, folder, fp32_sha256=verify(artifact.path))
