"""The export stage for third-party models: an ONNX file or a model of timm in, artifacts as ours out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from export.stage import Exported, classes_named, code_digest, slashed
from models.variants import VARIANTS
from models.weights import RANDOM
from runtime.artifacts.artifact import Artifact, artifact_path, head_named, read_artifact
from runtime.artifacts.facts import Facts
from runtime.artifacts.onnx_metadata import require_one_file, without_metadata
from runtime.artifacts.third_party import USUAL, Overrides, Shape, name_of, ours, shape_of, told_by
from runtime.artifacts.write import Graph, fitting, require_same_weights, write
from runtime.digest import sha256_of, sha256_of_facts
from runtime.errors import UserError

Say = Callable[[str], None]


@dataclass(frozen=True)
class ThirdParty:
    """A third-party model, as the user asked for it."""

    overrides: Overrides
    labels: Path | None = None
    input: str = "float32"  # one of runtime.images.preprocess.INPUTS
    onnx: Path | None = None  # the file, or
    timm: str = ""  # timm:NAME
    name: str | None = None  # of the artifact; None: as the file is called
    weights: str | None = None  # of timm's: a file, "random", or None for what timm has
    classes: int = 1000  # of random weights


def export_third_party(
    request: ThirdParty, folder: Path, say: Say = lambda _: None, force: bool = False, offline: bool = False
) -> tuple[Artifact, Exported]:
    """Writes the artifacts of `request` unless they are there already; no lines then. Raises UserError or ParityError."""
    return _from_onnx(request, folder, say, force) if request.onnx else _from_timm(request, folder, say, force, offline)


def _from_onnx(request: ThirdParty, folder: Path, say: Say, force: bool) -> tuple[Artifact, Exported]:
    assert request.onnx is not None
    path, name = request.onnx, request.name or name_of(request.onnx)
    if head_named(name)[0] in VARIANTS:
        raise UserError(
            f"'{name}' is a variant of the family, whose artifacts would be overwritten: give VARIANT=another name."
        )
    require_one_file(path)
    made_from = _made_from(request, sha256_of(path))
    there = None if force else fitting(name, folder, made_from)
    if there is not None:
        return there, Exported(_files(there, folder), [])
    if not force:
        require_same_weights(name, (ours(path) or Facts("", USUAL, "", sha256_of(path))).weights_sha256, folder)
    from export.conversion import Conversion  # onnx, onnxsim and onnxruntime: only once there is work

    own = ours(path)
    if own:
        facts = told_by(own, name, request.overrides)
        shape, known = Shape(own.preprocessing.resolution, own.classes), f"as {path} says, where it was not set by hand"
    else:
        shape, known = (
            shape_of(path, request.overrides.resolution),
            "what most networks want, where it was not set by hand",
        )
        wants = request.overrides.over(USUAL)._replace(resolution=shape.side)
        facts = Facts(name, wants, f"{path.name}, a third-party model", sha256_of(path), third_party=True)
    conversion = Conversion(request.input, say)
    graphs = conversion(without_metadata(path), shape, facts.preprocessing)
    head = [f"weights      {facts.weights}, sha256 {(facts.weights_sha256 or '')[:12]}"]
    return _written(request, facts, shape.classes, graphs, made_from, folder, head, known, conversion.lines)


def _from_timm(request: ThirdParty, folder: Path, say: Say, force: bool, offline: bool) -> tuple[Artifact, Exported]:
    from export.from_timm import artifact_name, load_timm, timm_version

    name, weights = artifact_name(request.timm), request.weights
    held = "timm's own"
    if weights:
        held = f"random, {request.classes} classes" if weights == RANDOM else sha256_of(Path(weights).expanduser())
    made_from = _made_from(request, request.timm, held, timm_version(), version("torch"))
    there = None if force else fitting(name, folder, made_from)
    if there is not None:
        return there, Exported(_files(there, folder), [])
    from export.conversion import Conversion
    from export.parity import gate_images, gate_torch
    from export.to_onnx import traced

    say("making the network")
    made = load_timm(request.timm, weights, request.overrides, request.classes, offline)
    if not force:
        require_same_weights(name, made.sha256 or None, folder)
    classes_named(made.classes, request.labels)  # a file that does not fit is found before the work
    say("tracing")
    try:
        model = traced(made.network, made.preprocessing.resolution)
    except Exception as error:  # torch's exporter has many: an operator without a symbol, a size that does not fit
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"torch can't write {request.timm} as ONNX at {made.preprocessing.resolution} px: {reason}"
        ) from None
    apart = gate_torch(made.network, model, gate_images(made.preprocessing), "traced")
    conversion = Conversion(request.input, say)
    graphs = conversion(
        model.SerializeToString(), Shape(made.preprocessing.resolution, made.classes), made.preprocessing
    )
    facts = Facts(name, made.preprocessing, made.origin, made.sha256 or None, third_party=True)
    head = [f"weights      {made.origin}{f', sha256 {made.sha256[:12]}' if made.sha256 else ''}"]
    lines = [f"traced       relative error {apart:.1e} against torch", *conversion.lines]
    lines += [f"NOTE         {note}" for note in made.notes]
    known = "timm's for these weights, where it was not set by hand"
    return _written(request, facts, made.classes, graphs, made_from, folder, head, known, lines)


def _written(
    request: ThirdParty,
    facts: Facts,
    count: int,
    graphs: Mapping[str, Graph],
    made_from: str,
    folder: Path,
    head: list[str],
    known: str,
    lines: list[str],
) -> tuple[Artifact, Exported]:
    """The artifacts, with the names of their `count` classes, and what the user is told of them."""
    classes = classes_named(count, request.labels, facts.labels)
    facts = replace(
        facts,
        classes=count,
        labels=classes.labels,
        wnids=classes.wnids,
        preprocessing=facts.preprocessing._replace(input=request.input),
    )
    written, wants = write(facts, graphs, made_from, folder), facts.preprocessing
    files = written.files
    told = [
        *head,
        f"assumed      {wants.resolution} px, crop {wants.crop:.4g}, {wants.interpolation}, mean {slashed(wants.mean)}, std "
        f"{slashed(wants.std)}:",
        f"             {known}",
        f"classes      {count}, {classes.origin}",
        *lines,
        *(f"wrote        {path}  {path.stat().st_size / 1e6:.1f} MB" for path in files.values()),
        *([f"moved        {written.replaced}"] if written.replaced else []),
    ]
    return read_artifact(next(iter(files.values()))), Exported(files, told)


def _files(artifact: Artifact, folder: Path) -> dict[str, Path]:
    made_for = json.loads(artifact.metadata["made_for"])
    return {precision: artifact_path(artifact.variant, precision, folder) for precision in made_for}


def _made_from(request: ThirdParty, *source: str) -> str:
    """Sha256 of all that the artifacts depend on: the network in `source`, the request, the code and the tools."""
    labels = sha256_of(request.labels) if request.labels else ""
    tools = [version(tool) for tool in ("onnx", "onnxsim", "onnxruntime")]
    return sha256_of_facts([source, request.overrides, labels, request.input, code_digest(), tools])
