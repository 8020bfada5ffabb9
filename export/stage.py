"""The export stage: a variant's weights in, its FP32 and FP16 artifacts out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.checkpoints import known_checkpoints
from models.labels import imagenet_labels, read_labels
from models.variants import Variant
from models.weights import Weights
from runtime.artifacts.artifact import CLASSIFIER, FEATURES, Output, artifact_path, sealed, with_head_name
from runtime.artifacts.onnx_metadata import read_metadata, verify
from runtime.digest import sha256_of, sha256_of_facts
from runtime.errors import UserError
from runtime.peak_memory import peak_bytes
from runtime.whole_file import write_whole

if TYPE_CHECKING:
    from models.pretrained import Pretrained

PRECISIONS = ("fp32", "fp16")
TOOLS = ("torch", "onnx", "onnxsim", "onnxruntime")


@dataclass(frozen=True)
class Request:
    """All that the artifacts depend on, besides the code and the tools."""

    variant: Variant
    weights: Weights
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of the checkpoint's recipe
    labels: Path | None = None
    classes: int = 1000  # for random weights; a checkpoint says its own
    input: str = "float32"  # one of runtime.images.preprocess.INPUTS
    head: str = CLASSIFIER  # one of runtime.artifacts.artifact.HEADS

    @property
    def name(self) -> str:
        """What the artifacts are called: "b1", or "b1-embedding"."""
        return with_head_name(self.variant.name, self.head)

    def digest(self) -> str:
        """Sha256 of everything that the artifacts are made from, so that what is up to date is known in a blink."""
        made_from = {
            "variant": self.name,
            "weights": sha256_of(self.weights.path) if self.weights.path else f"random, {self.classes} classes",
            "weights_name": self.weights.path.name if self.weights.path else "",  # the recipe depends on it
            "overrides": {name: value for name, value in self.overrides.items() if value is not None},
            "labels": sha256_of(self.labels) if self.labels else "",
            "input": self.input,
            "tools": {tool: version(tool) for tool in TOOLS},
            "code": code_digest(),
        }
        return sha256_of_facts(made_from)


@dataclass(frozen=True)
class Exported:
    """What was written, for the user to read."""

    files: dict[str, Path]  # by precision
    lines: list[str]


def up_to_date(request: Request, folder: Path | None = None) -> bool:
    """Whether whole artifacts of just this request are there already."""
    digest = request.digest()
    try:
        whole = {}
        for precision in PRECISIONS:
            path = artifact_path(request.name, precision, folder)
            metadata = read_metadata(path)
            if metadata.get("made_from") != digest:
                return False
            whole[precision] = (verify(path), metadata)
    except UserError:  # missing, foreign or damaged: all the same here, it is made anew
        return False
    return whole["fp16"][1].get("fp32_sha256") == whole["fp32"][0]


def export(request: Request, folder: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Exported:
    """Writes the artifacts of `request` after every gate has passed; `say` is told each step as it begins.

    Raises UserError (weights that do not fit, labels that do not) or export.parity.ParityError; nothing is written then.
    """
    from export.fp16 import to_fp16  # torch, onnx and onnxruntime take seconds to import: only once there is work
    from export.parity import gate_fp16, gate_images, gate_pixels, gate_torch
    from export.pixels import with_pixels
    from export.to_onnx import OPSET, outputs_of, simplify, trace
    from models.heads import with_head
    from models.network import multiply_adds, parameters
    from models.pretrained import load_pretrained

    began, name = time.perf_counter(), request.name
    say(f"reading weights: {request.weights.origin}")
    pretrained = load_pretrained(request.variant, request.weights, request.overrides, request.classes)
    whole, recipe, preprocessing = pretrained.network, pretrained.recipe, pretrained.recipe.preprocessing
    outputs = outputs_of(whole, request.head)
    facts, told = _gives(request, pretrained, outputs)
    network = with_head(whole, request.head)  # the same layers
    images = gate_images(preprocessing)

    say("tracing")
    traced = trace(whole, preprocessing.resolution, request.head)
    errors = {"traced": gate_torch(network, traced, images, "traced")}
    say("simplifying")
    fp32 = simplify(traced)
    errors["simplified"] = gate_torch(network, fp32, images, "simplified")
    say("converting to FP16")
    fp16 = to_fp16(fp32)
    cosine = gate_fp16(fp32, fp16, images)
    models, side = {"fp32": fp32, "fp16": fp16}, preprocessing.resolution
    takes = f"float32 [N, 3, {side}, {side}], normalised"
    if request.input == "uint8":
        say("putting the normalisation into the graph")
        floats, models = models, {precision: with_pixels(model, preprocessing) for precision, model in models.items()}
        apart = gate_pixels(network, floats, models, preprocessing)
        same = "bit for bit the same" if apart == 0 else f"the same to {apart:.1e}"
        given = " ".join(output.name for output in outputs)
        takes = f"uint8 [N, {side}, {side}, 3], normalised in the graph: {given} {same} as from float32"

    count = parameters(network)
    cost = multiply_adds(whole, preprocessing.resolution, lambda twin: with_head(twin, request.head))
    metadata = {
        "variant": name,
        "weights": pretrained.origin,
        "weights_sha256": pretrained.sha256 or "",
        "weights_format": pretrained.format,
        "padding": recipe.padding,
        "batchnorm_epsilon": repr(recipe.eps),
        "resolution": str(preprocessing.resolution),
        "crop": repr(preprocessing.crop),
        "interpolation": preprocessing.interpolation,
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        **({"input": request.input} if request.input != "float32" else {}),
        **facts,
        "parameters": str(count),
        "multiply_adds": str(cost),
        "tools": json.dumps({tool: version(tool) for tool in TOOLS}),
        "made_from": request.digest(),
    }
    parity = {"relative_error": errors["simplified"], "pictures": len(images)}
    fp32_file, fp32_sha256 = sealed(
        models["fp32"].SerializeToString(), "fp32", {**metadata, "parity": json.dumps(parity)}
    )
    parity = {"cosine_to_fp32": cosine, "pictures": len(images)}
    fp16_metadata = {**metadata, "parity": json.dumps(parity), "fp32_sha256": fp32_sha256}
    fp16_file, _ = sealed(models["fp16"].SerializeToString(), "fp16", fp16_metadata)
    contents = {"fp32": fp32_file, "fp16": fp16_file}
    files = {precision: artifact_path(name, precision, folder) for precision in PRECISIONS}
    for precision, path in files.items():
        write_whole(path, contents[precision])

    lines = [
        f"weights      {pretrained.origin} ({pretrained.format} format, sha256 {(pretrained.sha256 or 'none')[:12]})",
        f"assumed      padding {recipe.padding}, BatchNorm epsilon {recipe.eps:g}, {preprocessing.resolution} px, "
        f"crop {preprocessing.crop:.4g}, {preprocessing.interpolation},",
        f"             mean {_triple(preprocessing.mean)}, std {_triple(preprocessing.std)}: {recipe.because}",
        told,
        f"network      {count / 1e6:.3f} M parameters, {cost / 1e9:.3f} GMACs",
        f"graph        {len(traced.graph.node)} nodes traced, {len(fp32.graph.node)} simplified, opset {OPSET}",
        f"parity       relative error {errors['traced']:.1e} traced, {errors['simplified']:.1e} simplified; "
        f"FP16 cosine {cosine:.6f}",
        f"input        {takes}",
        *(f"wrote        {path}  {len(contents[precision]) / 1e6:.1f} MB" for precision, path in files.items()),
        f"took         {time.perf_counter() - began:.1f} s, peak memory {(peak_bytes() or 0) / 1e9:.2f} GB",
    ]
    return Exported(files, lines)


def _gives(request: Request, pretrained: Pretrained, outputs: list[Output]) -> tuple[dict[str, str], str]:
    """Metadata of what the network gives, and a line for the user."""
    if request.head == CLASSIFIER:
        classes, trained = outputs[0].channels, pretrained.sha256 is not None
        labels, wnids, named = _labels(pretrained.labels, request.labels, classes, trained)
        facts = {"classes": str(classes), "labels": json.dumps(labels, ensure_ascii=False), "wnids": json.dumps(wnids)}
        facts.update(published(request, pretrained.sha256, pretrained.format, classes))
        return facts, f"classes      {classes}, {named}"
    facts = {"head": request.head, "outputs": json.dumps([output._asdict() for output in outputs])}
    if request.head == FEATURES:
        return facts, f"gives        {', '.join(f'{each.name} [N, {each.channels}, H, W]' for each in outputs)}"
    return facts, f"gives        {outputs[0].name} [N, {outputs[0].channels}], what the classifier would be given"


def _labels(own: list[str] | None, given: Path | None, classes: int, trained: bool) -> tuple[list[str], list[str], str]:
    """(labels, wnids, where they are from): the user's file, the checkpoint's own, ImageNet's for 1000 classes, or numbers."""
    if given:
        return read_labels(given, classes), [], f"named by {given}"
    if own and len(own) == classes:
        return own, [], "named by the checkpoint"
    names, wnids = imagenet_labels()
    if classes == len(names):
        return names, wnids, "taken to be ImageNet-1k's in the usual order" if trained else "named as ImageNet-1k's"
    return [f"class {index}" for index in range(classes)], [], "without names (LABELS=file names them, one a line)"


def published(request: Request, sha256: str | None, form: str, classes: int) -> dict[str, str]:
    """Top-1 on ImageNet that was published for just these weights, else for the variant, and which; nothing for weights
    trained by the user, or run otherwise than they were published."""
    if form == "ours" or classes != 1000 or any(value is not None for value in request.overrides.values()):
        return {}
    rows = known_checkpoints(request.variant)
    row = request.weights.checkpoint or next((row for row in rows if sha256 and sha256.startswith(row.sha256)), None)
    if row and row.top1:
        return {"published_top1": repr(row.top1), "published_source": row.name}
    return {"published_top1": repr(request.variant.published), "published_source": "the variant's paper or repository"}


def code_digest() -> str:
    """Sha256 of the code that makes artifacts: another version of it makes other ones."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    runtime = (
        root / "runtime" / name
        for name in (
            "artifacts/third_party.py",
            "artifacts/artifact.py",
            "artifacts/onnx_metadata.py",
            "images/preprocess.py",
        )
    )
    for source in (
        *sorted(root.glob("models/*.py")),
        *sorted(root.glob("export/*.py")),
        *runtime,
        root / "models" / "imagenet1k.tsv",
    ):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _triple(values: tuple[float, float, float]) -> str:
    return "/".join(f"{value:g}" for value in values)
