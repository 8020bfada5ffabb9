"""Third-party ONNX classifiers as artifacts, just as they are, so that every command takes them: all that a device without
the onnx package can do, and enough for measuring. `python -m export --onnx` does more: see docs/third_party.md."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple, Union

from ..digest import sha256_of, sha256_of_facts
from ..errors import UserError
from ..images.preprocess import Preprocessing
from ..invocation import install
from .artifact import PROJECT, Artifact, read_artifact, require_classes
from .facts import NAME, Facts
from .onnx_metadata import QUANTISED, operators_of, read_metadata, require_one_file, verify, without_metadata
from .write import Graph, fitting, write

# What nearly every ImageNet classifier was trained with: torchvision's ImageClassification preset.
USUAL = Preprocessing(224, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Triple = Tuple[float, float, float]


class Shape(NamedTuple):
    """What a graph takes and gives: [N, 3, side, side] -> [N, classes]."""

    side: int
    classes: int
    batch: Optional[int] = None  # the only N it takes; None: any


class Overrides(NamedTuple):
    """How the user wants images preprocessed; None: as the file says, else as usual."""

    resolution: Optional[int] = None  # px
    crop: Optional[float] = None
    interpolation: Optional[str] = None
    mean: Optional[Triple] = None
    std: Optional[Triple] = None

    def over(self, preprocessing: Preprocessing) -> Preprocessing:
        return preprocessing._replace(**{name: value for name, value in self._asdict().items() if value is not None})


NO_OVERRIDES = Overrides()


def numbered(classes: int) -> List[str]:
    """Names of classes that have none."""
    return [f"class {index}" for index in range(classes)]


def name_of(path: Path) -> str:
    """What the network in `path` is called: the file's name, as far as it can be part of others."""
    name = re.sub(r"[^\w.+-]+", "-", path.stem).lstrip(".+-")[:100]
    if not NAME.fullmatch(name):
        raise UserError(f"{path} does not give the network a name: give it one of letters, digits, dots and dashes.")
    return name


def ours(path: Path) -> Optional[Artifact]:
    """The artifact in `path`, if it is a classifier that this project exported; None for a third-party file.

    Raises UserError if there is no such file, it is damaged, or the artifact has no classes."""
    if read_metadata(path).get("project") != PROJECT:
        return None
    artifact = read_artifact(path)
    verify(path)
    require_classes(artifact)
    return artifact


def import_onnx(
    path: Union[str, Path],
    folder: Path,
    name: Optional[str] = None,
    overrides: Overrides = NO_OVERRIDES,
    like: Optional[Artifact] = None,
) -> Artifact:
    """The ONNX classifier `path` as the artifact `name` (by default as the file is called) below `folder`, made unless it lies
    there already. Its classes are named as those of `like`, where it has as many.

    Raises UserError for a file that can't be read or points at others, or a graph that is no image classifier.
    """
    path = Path(path)
    require_one_file(path)
    name, source = name or name_of(path), sha256_of(path)
    made_from = sha256_of_facts([source, overrides, like.labels if like else []])
    precision = own.precision if (own := ours(path)) else "int8" if QUANTISED & operators_of(path) else "fp32"
    found = fitting(name, folder, made_from, (precision,))
    if found is not None:
        return found
    facts = told_by(own, name, overrides) if own else _assumed(path, name, source, overrides, like)
    graphs = {precision: Graph(without_metadata(path))}
    return read_artifact(write(facts, graphs, made_from, folder).files[precision])


def told_by(artifact: Artifact, name: str, overrides: Overrides, fixed_input: bool = True) -> Facts:
    """What an artifact of ours says of its network, which is now called `name`. Raises UserError for an override that its graph
    does not leave open; `fixed_input`: whether it keeps the front that normalises pixels."""
    preprocessing, side = overrides.over(artifact.preprocessing), artifact.preprocessing.resolution
    if preprocessing.resolution != side:
        raise UserError(f"{artifact.path} takes images of {side} px, not of {preprocessing.resolution}.")
    if fixed_input and preprocessing.input == "uint8" and (overrides.mean or overrides.std):
        raise UserError(f"{artifact.path} normalises in its graph: its mean and std can't be changed.")
    facts = Facts(**{each.name: getattr(artifact, each.name) for each in fields(Facts)})
    return replace(facts, variant=name, preprocessing=preprocessing, third_party=True)


def _assumed(path: Path, name: str, source: str, overrides: Overrides, like: Optional[Artifact]) -> Facts:
    """The facts of a graph that says nothing of itself."""
    shape = shape_of(path, overrides.resolution)
    known = like is not None and like.classes == shape.classes
    return Facts(
        name,
        overrides.over(USUAL)._replace(resolution=shape.side),
        f"{path.name}, a third-party model",
        source,
        shape.classes,
        like.labels if like and known else numbered(shape.classes),
        like.wnids if like and known else [],
        third_party=True,
    )


def ends_of(model: Union[Path, bytes]) -> Tuple[List[Any], List[Any]]:
    """Inputs and outputs of a graph as onnxruntime tells them (name, shape, type). Raises UserError if it can't read it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime can't be imported ({error}): {install('onnxruntime')}.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        what = "it" if isinstance(model, bytes) else model
        raise UserError(f"onnxruntime can't load {what}: {str(error).splitlines()[0]}") from None
    return session.get_inputs(), session.get_outputs()


def shape_of(path: Path, resolution: Optional[int] = None) -> Shape:
    """Asks onnxruntime, which reads every graph. `resolution`: of a graph that leaves it open. Raises UserError if there is no
    such file, or it is not a classifier that the runtime can feed as it is."""
    require_one_file(path)
    inputs, outputs = ends_of(path)
    if not inputs or not outputs:
        raise UserError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: it is no image classifier.")
    output, takes = outputs[0], inputs[0].shape  # type: Any, List[Any]
    floats = inputs[0].type == "tensor(float)" and output.type == "tensor(float)"
    sides = {side for side in takes[2:] if isinstance(side, int)} or {resolution or USUAL.resolution}
    if len(inputs) != 1 or not floats or len(takes) != 4 or takes[1] != 3 or len(sides) != 1 or len(output.shape) != 2:
        raise UserError(
            f"{path} takes {', '.join(f'{each.type} {each.shape}' for each in inputs)} and gives {output.type} "
            f"{output.shape}: only classifiers from tensor(float) [N, 3, S, S] to tensor(float) [N, classes] run as they "
            f"are. 'make export ONNX={path}' converts many others."
        )
    side, classes = sides.pop(), output.shape[1]
    if resolution not in (None, side):
        raise UserError(f"{path} takes images of {side} px, not of {resolution}.")
    if not isinstance(classes, int):
        raise UserError(f"{path} does not say how many classes it tells apart: its output is {output.shape}.")
    return Shape(side, classes, takes[0] if isinstance(takes[0], int) else None)
