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
from runtime.artifacts.artifact import artifact_path, with_head_name
from runtime.artifacts.facts import CLASSIFIER, EMBEDDING, FEATURES, SIGMOID, SOFTMAX, Facts, Output
from runtime.artifacts.third_party import numbered
from runtime.artifacts.write import Graph, fitting, require_same_weights, write
from runtime.digest import sha256_of, sha256_of_facts
from runtime.peak_memory import peak_bytes
from runtime.whole_file import require_room

if TYPE_CHECKING:
    from models.pretrained import Pretrained

PRECISIONS = ("fp32", "fp16")
_ROOM = 2  # sizes of a checkpoint that its artifacts in FP32 and FP16 take at most
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
    head: str = CLASSIFIER  # one of runtime.artifacts.facts.HEADS
    named: str = ""  # by the user, instead of the variant's name
    activation: str | None = None  # one of runtime.artifacts.facts.ACTIVATIONS; None: softmax, of one output sigmoid

    @property
    def name(self) -> str:
        """What the artifacts are called: "b1", "b1-embedding", or as the user says."""
        return with_head_name(self.named or self.variant.name, self.head)

    @property
    def weights_sha256(self) -> str | None:
        """Of the checkpoint file; None: random weights."""
        return sha256_of(self.weights.path) if self.weights.path else None

    def digest(self) -> str:
        """Sha256 of everything that the artifacts are made from, so that what is up to date is known in a blink."""
        made_from = {
            "variant": self.name,
            "network": self.variant.name,
            "weights": self.weights_sha256 or f"random, {self.classes} classes",
            "weights_name": self.weights.path.name if self.weights.path else "",  # the recipe depends on it
            **hub_facts(self.weights),
            "overrides": {name: value for name, value in self.overrides.items() if value is not None},
            "labels": sha256_of(self.labels) if self.labels else "",
            "input": self.input,
            "activation": self.activation,
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
    return fitting(request.name, folder, request.digest()) is not None


def export(
    request: Request, folder: Path | None = None, say: Callable[[str], None] = lambda _: None, replace: bool = False
) -> Exported:
    """Writes the artifacts of `request` after every gate has passed; `say` is told each step as it begins. `replace`: also where
    a network with other weights lies under that name.

    Raises UserError (weights that do not fit, class names that do not) or export.parity.ParityError; nothing is written then.
    """
    from export.cost import fact
    from export.fp16 import to_fp16  # torch, onnx and onnxruntime take seconds to import: only once there is work
    from export.parity import gate_fp16, gate_images, gate_pixels, gate_torch
    from export.pixels import with_pixels
    from export.to_onnx import OPSET, outputs_of, simplify, trace
    from models.heads import with_head
    from models.network import macs_of, parameters, tensors_sha256
    from models.pretrained import load_pretrained

    began = time.perf_counter()
    size = request.weights.path.stat().st_size if request.weights.path else 0
    require_room(artifact_path(request.name, "fp32", folder).parent, _ROOM * size)
    say(f"reading weights: {request.weights.origin}")
    pretrained = load_pretrained(request.variant, request.weights, request.overrides, request.classes)
    whole, recipe, preprocessing = pretrained.network, pretrained.recipe, pretrained.recipe.preprocessing
    tensors = tensors_sha256(whole)
    if not replace:
        require_same_weights(request.name, pretrained.sha256, folder, tensors)
    say_what_goes(request.name, folder, say)
    outputs = outputs_of(whole, request.head)
    classes, told = _gives(request, pretrained, outputs)
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
    models, side, kernels = {"fp32": fp32, "fp16": fp16}, preprocessing.resolution, fact(fp32)
    takes = f"float32 [N, 3, {side}, {side}], normalised"
    if request.input == "uint8":
        say("putting the normalisation into the graph")
        floats, models = models, {precision: with_pixels(model, preprocessing) for precision, model in models.items()}
        apart = gate_pixels(network, floats, models, preprocessing)
        same = "bit for bit the same" if apart == 0 else f"the same to {apart:.1e}"
        given = " ".join(output.name for output in outputs)
        takes = f"uint8 [N, {side}, {side}, 3], normalised in the graph: {given} {same} as from float32"

    count = parameters(network)
    cost = macs_of(whole, preprocessing.resolution, lambda twin: with_head(twin, request.head))
    facts = Facts(
        request.name,
        preprocessing._replace(input=request.input),
        pretrained.origin,
        pretrained.sha256,
        classes.count,
        classes.labels,
        classes.wnids,
        request.head,
        () if request.head == CLASSIFIER else tuple(outputs),
        request.activation or (SIGMOID if classes.count == 1 else SOFTMAX),
        more={
            **({"network": request.variant.name} if request.named else {}),
            **hub_facts(request.weights),
            "weights_format": pretrained.format,
            "tensors_sha256": tensors,
            "padding": recipe.padding,
            "batchnorm_epsilon": repr(recipe.eps),
            "parameters": str(count),
            "multiply_adds": str(cost),
            "tools": json.dumps({tool: version(tool) for tool in TOOLS}),
            **(published(request, pretrained.sha256, pretrained.format, classes.count) if classes.count else {}),
        },
    )
    parities = {"fp32": {"relative_error": errors["simplified"]}, "fp16": {"cosine_to_fp32": cosine}}
    graphs = {
        precision: Graph(
            model.SerializeToString(),
            {"parity": json.dumps({**parities[precision], "pictures": len(images)}), **kernels},
        )
        for precision, model in models.items()
    }
    written = write(facts, graphs, request.digest(), folder)
    files = written.files

    lines = [
        f"weights      {pretrained.origin} ({pretrained.format} format, sha256 {(pretrained.sha256 or 'none')[:12]})",
        f"assumed      padding {recipe.padding}, BatchNorm epsilon {recipe.eps:g}, {preprocessing.resolution} px, "
        f"crop {preprocessing.crop:.4g}, {preprocessing.interpolation},",
        f"             mean {slashed(preprocessing.mean)}, std {slashed(preprocessing.std)}: {recipe.because}",
        told,
        f"network      {count / 1e6:.3f} M parameters, {cost / 1e9:.3f} GMACs",
        f"graph        {len(traced.graph.node)} nodes traced, {len(fp32.graph.node)} simplified, opset {OPSET}",
        f"parity       relative error {errors['traced']:.1e} traced, {errors['simplified']:.1e} simplified; "
        f"FP16 cosine {cosine:.6f}",
        f"input        {takes}",
        *(f"NOTE         {note}" for note in pretrained.notes),
        *(f"wrote        {path}  {path.stat().st_size / 1e6:.1f} MB" for path in files.values()),
        *([f"moved        {written.replaced}"] if written.replaced else []),
        f"took         {time.perf_counter() - began:.1f} s, peak memory {(peak_bytes() or 0) / 1e9:.2f} GB",
    ]
    return Exported(files, lines)


def say_what_goes(name: str, folder: Path | None, say: Callable[[str], None]) -> None:
    """Tells, before the work, that there is something under `name` which the new export will replace."""
    path = artifact_path(name, "fp32", folder)
    if path.is_file():
        say(f"{path} will be replaced")


@dataclass(frozen=True)
class Classes:
    """What a classifier tells apart."""

    labels: list[str]
    wnids: list[str]
    origin: str  # of the names, for the user

    @property
    def count(self) -> int:
        return len(self.labels)


def _gives(request: Request, pretrained: Pretrained, outputs: list[Output]) -> tuple[Classes, str]:
    """The classes, if the head is a classifier, and what the network gives as a line for the user."""
    none = Classes([], [], "")
    if request.head == FEATURES:
        return none, f"gives        {', '.join(f'{each.name} [N, {each.channels}, H, W]' for each in outputs)}"
    if request.head == EMBEDDING:
        return none, f"gives        {outputs[0].name} [N, {outputs[0].channels}], what the classifier would be given"
    classes = classes_named(outputs[0].channels, request.labels, pretrained.labels, pretrained.sha256 is not None)
    one = "; one output, which is shown as an independent score: its sigmoid" if classes.count == 1 else ""
    return classes, f"classes      {classes.count}, {classes.origin}{one}"


def classes_named(count: int, given: Path | None, own: list[str] | None = None, trained: bool = True) -> Classes:
    """Names of `count` classes: those in the file `given`, the checkpoint's `own`, ImageNet's for 1000 classes, or numbers.

    Raises UserError if the user's file does not fit.
    """
    if given:
        return Classes(read_labels(given, count), [], f"named by {given}")
    if own and len(own) == count:
        return Classes(own, [], "named by the checkpoint")
    names, wnids = imagenet_labels()
    if count == len(names):
        said = "taken to be ImageNet-1k's in the usual order" if trained else "named as ImageNet-1k's"
        return Classes(names, wnids, said)
    return Classes(numbered(count), [], "without names (CLASS_NAMES=file names them, one a line)")


def hub_facts(weights: Weights) -> dict[str, str]:
    """Where on the Hugging Face hub the weights are, at which commit, and under which licence, as far as that is known."""
    facts = {"hub": weights.repository, "hub_revision": weights.revision, "licence": weights.licence}
    return {name: value for name, value in facts.items() if value}


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
    runtime = (*sorted(root.glob("runtime/artifacts/*.py")), root / "runtime" / "images" / "preprocess.py")
    made_by = (*sorted(root.glob("models/*.py")), *sorted(root.glob("export/*.py")), *runtime)
    for source in (*made_by, root / "models" / "imagenet1k.tsv"):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def slashed(values: tuple[float, float, float]) -> str:
    return "/".join(f"{value:g}" for value in values)
