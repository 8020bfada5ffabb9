"""The export stage for third-party models: an ONNX file or a model of timm in, artifacts as ours out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from export.stage import Exported, classes_named, code_digest, hub_facts, say_what_goes, slashed
from models.hub import HUB, fetch
from models.variants import VARIANTS
from models.weights import RANDOM, Weights
from runtime.artifacts.artifact import Artifact, artifact_path, head_named, read_artifact
from runtime.artifacts.facts import SIGMOID, Facts
from runtime.artifacts.onnx_metadata import read_metadata
from runtime.artifacts.third_party import USUAL, Overrides, name_of, ours, told_by
from runtime.artifacts.write import fitting, require_same_weights, write
from runtime.digest import sha256_of, sha256_of_facts
from runtime.errors import UserError
from runtime.whole_file import require_room

if TYPE_CHECKING:
    from export.conversion import Converted

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
    weights: str | None = None  # of timm's: a file, "hf-hub:OWNER/NAME", "random", or None for what timm has
    classes: int = 1000  # of random weights
    output: str | None = None  # of an ONNX file that has several
    activation: str | None = None  # one of runtime.artifacts.facts.ACTIVATIONS; None: found out


def export_third_party(
    request: ThirdParty, folder: Path, say: Say = lambda _: None, force: bool = False, offline: bool = False
) -> tuple[Artifact, Exported]:
    """Writes the artifacts of `request` unless they are there already; no lines then. Raises UserError or ParityError."""
    return _from_onnx(request, folder, say, force) if request.onnx else _from_timm(request, folder, say, force, offline)


def _from_onnx(request: ThirdParty, folder: Path, say: Say, force: bool) -> tuple[Artifact, Exported]:
    from export.onnx_file import files_of, read_onnx  # onnx, onnxsim and onnxruntime: only once there is work

    assert request.onnx is not None
    path, name = request.onnx, request.name or name_of(request.onnx)
    if head_named(name)[0] in VARIANTS:
        raise UserError(
            f"'{name}' is a variant of the family, whose artifacts would be overwritten: give VARIANT=another name."
        )
    digests = [sha256_of(file) for file in files_of(path)]
    source = digests[0] if len(digests) == 1 else sha256_of_facts(digests)
    made_from = _made_from(request, source)
    there = None if force else fitting(name, folder, made_from, ("fp32", "int8"))
    if there is not None:
        return there, Exported(_files(there, folder), [])
    require_room(artifact_path(name, "fp32", folder).parent, 2 * path.stat().st_size)
    own = ours(path)
    if not force:
        require_same_weights(name, own.weights_sha256 if own else source, folder)
    say_what_goes(name, folder, say)
    from export.conversion import convert
    from export.ends import ends, usual_for
    from export.pixels import without_pixels
    from export.said import said_by

    say("reading the graph")
    model, overrides = read_onnx(path), request.overrides
    if own:
        model, facts = without_pixels(model), told_by(own, name, overrides, fixed_input=False)
        known = f"as {path} says, where it was not set by hand"
    else:
        facts = Facts(name, overrides.over(USUAL), f"{path.name}, a third-party model", source, third_party=True)
        known = "what most networks want, where it was not set by hand"
    try:
        found = ends(model, facts.preprocessing.resolution if own else overrides.resolution, request.output)
        if not own:
            stated = said_by(read_metadata(path))
            usual, said = usual_for(model, found)
            if stated.settings:
                usual, said = USUAL._replace(**stated.settings), "as its metadata says, where it was not set by hand"
            known, found = said or known, replace(found, bgr=stated.bgr)
            preprocessing = overrides.over(usual)._replace(resolution=found.side)
            facts = replace(facts, preprocessing=preprocessing, labels=list(stated.labels))
        if found.channels == 1 and any(
            len({*each}) > 1 for each in (facts.preprocessing.mean, facts.preprocessing.std)
        ):
            raise UserError("It takes greyscale, so mean and std have one value each: MEAN=0.5 STD=0.5, say.")
        asked = facts.preprocessing._replace(input=request.input)
        activation = request.activation or (SIGMOID if facts.activation == SIGMOID else None)
        converted = convert(model, found, asked, activation, say)
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None
    head = [f"weights      {facts.weights}, sha256 {(facts.weights_sha256 or '')[:12]}"]
    return _written(request, facts, found.classes, converted, made_from, folder, head, known)


def _from_timm(request: ThirdParty, folder: Path, say: Say, force: bool, offline: bool) -> tuple[Artifact, Exported]:
    from export.from_timm import artifact_name, load_timm, timm_version

    name, weights, hub = artifact_name(request.timm), request.weights, None
    if weights and weights.startswith(HUB):
        hub = fetch(weights, offline=offline)
        weights = str(hub.path)
    held = "timm's own"
    if weights:
        held = f"random, {request.classes} classes" if weights == RANDOM else sha256_of(Path(weights).expanduser())
    made_from = _made_from(request, request.timm, held, timm_version(), version("torch"))
    there = None if force else fitting(name, folder, made_from)
    if there is not None:
        return there, Exported(_files(there, folder), [])
    from export.conversion import convert
    from export.ends import ends
    from export.parity import gate_images, gate_torch
    from export.to_onnx import traced

    say("making the network")
    made = load_timm(request.timm, weights, request.overrides, request.classes, offline)
    if not force:
        require_same_weights(name, made.sha256 or None, folder)
    say_what_goes(name, folder, say)
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
    found = ends(model, made.preprocessing.resolution)
    converted = convert(model, found, made.preprocessing._replace(input=request.input), request.activation, say)
    facts = Facts(name, made.preprocessing, made.origin, made.sha256 or None, third_party=True)
    if hub:
        origin = f"{hub.repository} at {hub.revision[:12]}, from the Hugging Face hub, as {request.timm}"
        facts = replace(facts, weights=origin, more=hub_facts(Weights(hub.path, origin, None, *hub[1:])))
    head = [f"weights      {facts.weights}{f', sha256 {made.sha256[:12]}' if made.sha256 else ''}"]
    known = "timm's for these weights, where it was not set by hand"
    head.append(f"traced       relative error {apart:.1e} against torch")
    head += [f"NOTE         {note}" for note in made.notes]
    return _written(request, facts, made.classes, converted, made_from, folder, head, known)


def _written(
    request: ThirdParty,
    facts: Facts,
    count: int,
    converted: Converted,
    made_from: str,
    folder: Path,
    head: list[str],
    known: str,
) -> tuple[Artifact, Exported]:
    """The artifacts, with the names of their `count` classes, and what the user is told of them."""
    classes = classes_named(count, request.labels, facts.labels)
    facts = replace(
        facts,
        classes=count,
        labels=classes.labels,
        wnids=[] if request.labels else classes.wnids or facts.wnids,
        activation=converted.activation,
        preprocessing=facts.preprocessing._replace(input=request.input),
    )
    written, wants = write(facts, converted.graphs, made_from, folder), facts.preprocessing
    files = written.files
    told = [
        *head,
        f"assumed      {wants.resolution} px, crop {wants.crop:.4g}, {wants.interpolation}, mean {slashed(wants.mean)}, std "
        f"{slashed(wants.std)}:",
        f"             {known}",
        f"classes      {count}, {classes.origin}",
        *converted.lines,
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
    how = [request.overrides, labels, request.input, request.output, request.activation]
    return sha256_of_facts([source, *how, code_digest(), tools])
