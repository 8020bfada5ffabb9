"""The export stage for networks that are not of the family: an ONNX file or a model of timm in, artifacts as ours out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from export.stage import Exported, code_digest
from models.labels import imagenet_labels, read_labels
from models.variants import VARIANTS
from models.weights import RANDOM
from runtime.artifacts import third_party as adopt
from runtime.artifacts.artifact import Artifact, artifact_path, head_named
from runtime.artifacts.third_party import Asked, Labels, Shape, adopted, name_of
from runtime.digest import sha256_of
from runtime.errors import UserError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Neighbour:
    """A network of others, as the user asked for it."""

    asked: Asked
    labels: Path | None = None
    input: str = "float32"  # one of runtime.images.preprocess.INPUTS
    onnx: Path | None = None  # the file, or
    timm: str = ""  # timm:NAME
    name: str | None = None  # of the artifact; None: as the file is called
    weights: str | None = None  # of timm's: a file, "random", or None for what timm has
    classes: int = 1000  # of random weights


def export_neighbour(
    request: Neighbour, folder: Path, say: Say = lambda _: None, force: bool = False, offline: bool = False
) -> tuple[Artifact, Exported]:
    """Writes the artifacts of `request` unless they are there already; no lines then. Raises UserError or ParityError."""
    return (_from_onnx if request.onnx else _from_timm)(request, folder, say, force, offline)


def _from_onnx(request: Neighbour, folder: Path, say: Say, force: bool, offline: bool) -> tuple[Artifact, Exported]:
    from export.conversion import Conversion  # onnx, onnxsim and onnxruntime: only once there is work

    assert request.onnx is not None
    name = request.name or name_of(request.onnx)
    if head_named(name)[0] in VARIANTS:
        raise UserError(
            f"'{name}' is a variant of the family, whose artifacts would be overwritten: give VARIANT=another name."
        )
    conversion = Conversion(request.input, say)
    made_by = f"{_made_by()} {request.input}"
    if force:
        artifact_path(name, "fp32", folder).unlink(missing_ok=True)
    artifact = adopted(request.onnx, folder, name, request.asked, _labels(request.labels), conversion, made_by)
    if not conversion.lines:
        return artifact, Exported(_files(artifact, folder), [])
    head = [f"weights      {artifact.weights}, sha256 {(artifact.weights_sha256 or '')[:12]}"]
    known = "what most networks want, where it was not set by hand"
    return artifact, _told(artifact, folder, head, known, request, conversion.lines)


def _from_timm(request: Neighbour, folder: Path, say: Say, force: bool, offline: bool) -> tuple[Artifact, Exported]:
    from export.from_timm import artifact_name, load_timm, timm_version

    name = artifact_name(request.timm)
    weights = request.weights
    held = "timm's own"
    if weights:
        held = f"random, {request.classes} classes" if weights == RANDOM else sha256_of(Path(weights).expanduser())
    known = adopt.made_from(
        [request.timm, held, request.asked, request.input, timm_version(), version("torch"), _made_by()]
    )
    there = None if force else adopt.there(name, folder, known, _labels(request.labels))
    if there is not None:
        return there, Exported(_files(there, folder), [])
    from export.conversion import Conversion
    from export.parity import gate_images, gate_torch
    from export.to_onnx import traced

    say("making the network")
    made = load_timm(request.timm, weights, request.asked, request.classes, offline)
    labels = _labels(request.labels)(made.classes)
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
    shape = Shape(made.preprocessing.resolution, made.classes)
    graphs = conversion(model.SerializeToString(), shape, made.preprocessing)
    artifact = adopt.write(name, folder, shape, made.preprocessing, labels, made.origin, made.sha256, known, graphs)
    head = [f"weights      {made.origin}{f', sha256 {made.sha256[:12]}' if made.sha256 else ''}"]
    lines = [f"traced       relative error {apart:.1e} against torch", *conversion.lines]
    lines += [f"NOTE         {note}" for note in made.notes]
    return artifact, _told(
        artifact, folder, head, "timm's for these weights, where it was not set by hand", request, lines
    )


def _told(
    artifact: Artifact, folder: Path, head: list[str], known: str, request: Neighbour, lines: list[str]
) -> Exported:
    files, wants = _files(artifact, folder), artifact.preprocessing
    mean, std = ("/".join(f"{value:g}" for value in values) for values in (wants.mean, wants.std))
    named = f"named by {request.labels}" if request.labels else "taken to be ImageNet-1k's in the usual order"
    if not request.labels and artifact.labels[:1] == ["class 0"]:
        named = "without names (LABELS=file names them, one a line)"
    return Exported(
        files,
        [
            *head,
            f"assumed      {wants.resolution} px, crop {wants.crop:.4g}, {wants.interpolation}, mean {mean}, std {std}:",
            f"             {known}",
            f"classes      {artifact.classes}, {named}",
            *lines,
            *(f"wrote        {path}  {path.stat().st_size / 1e6:.1f} MB" for path in files.values()),
        ],
    )


def _labels(given: Path | None) -> Labels:
    """The user's file, ImageNet's for 1000 classes, or numbers."""

    def labels(classes: int) -> tuple[list[str], list[str]]:
        if given:
            return read_labels(given, classes), []
        names, wnids = imagenet_labels()
        return (names, wnids) if classes == len(names) else adopt.numbered(classes)

    return labels


def _files(artifact: Artifact, folder: Path) -> dict[str, Path]:
    paths = {precision: artifact_path(artifact.variant, precision, folder) for precision in adopt.PRECISIONS}
    return {precision: path for precision, path in paths.items() if path.is_file()}


def _made_by() -> str:
    """What else than the network its artifacts depend on."""
    return " ".join([code_digest(), *(version(tool) for tool in ("onnx", "onnxsim", "onnxruntime"))])
