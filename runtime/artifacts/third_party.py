"""Image classifiers that this project did not make, taken over as artifacts, so that every command takes them as its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple, Union

from ..digest import sha256_of, sha256_of_facts
from ..errors import UserError
from ..images.preprocess import Preprocessing
from ..whole_file import write_whole
from .artifact import NAME, Artifact, artifact_path, read_artifact, sealed
from .onnx_metadata import require_one_file, verify, without_metadata

# What nearly every ImageNet classifier was trained with: torchvision's ImageClassification preset.
CROP, INTERPOLATION = 0.875, "bilinear"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224  # px, where the graph leaves it open
PRECISIONS = ("fp32", "fp16")  # that adopting may write; FP32 always

Triple = Tuple[float, float, float]
Labels = Callable[[int], Tuple[List[str], List[str]]]  # number of classes -> (names, wnids)


class Shape(NamedTuple):
    """What a graph takes and gives: [N, 3, side, side] -> [N, classes]."""

    side: int
    classes: int
    batch: Optional[int] = None  # the only N it takes; None: any


class Asked(NamedTuple):
    """What a graph does not say of itself, as the user knows it; None: as it usually is."""

    resolution: Optional[int] = None  # px, where the graph leaves it open
    crop: Optional[float] = None
    interpolation: Optional[str] = None
    mean: Optional[Triple] = None
    std: Optional[Triple] = None

    def preprocessing(self, side: int) -> Preprocessing:
        return Preprocessing(
            side, self.crop or CROP, self.interpolation or INTERPOLATION, self.mean or MEAN, self.std or STD
        )


USUAL = Asked()


class Graph(NamedTuple):
    """An ONNX graph in one precision, ready to be sealed as an artifact."""

    content: bytes  # a serialised ModelProto without metadata
    facts: Mapping[str, str] = {}  # metadata of its own


# A network's ONNX file, without its metadata, to what is kept of it: by precision, FP32 first.
Convert = Callable[[bytes, Shape, Preprocessing], Mapping[str, Graph]]


def as_it_is(content: bytes, shape: Shape, preprocessing: Preprocessing) -> Mapping[str, Graph]:
    """Just the file: all that a device without the onnx package can do, and enough for measuring."""
    return {"fp32": Graph(content)}


def numbered(classes: int) -> Tuple[List[str], List[str]]:
    return [f"class {index}" for index in range(classes)], []


def as_in(like: Optional[Artifact]) -> Labels:
    """The names that `like` has, for a network of as many classes."""

    def labels(classes: int) -> Tuple[List[str], List[str]]:
        if like is None or like.classes != classes:
            return numbered(classes)
        return like.labels, json.loads(like.metadata.get("wnids", "[]"))

    return labels


def name_of(path: Path) -> str:
    """What the network in `path` is called: the file's name, as far as it can be part of others."""
    name = re.sub(r"[^\w.+-]+", "-", path.stem).lstrip(".+-")[:100]
    if not NAME.fullmatch(name):
        raise UserError(f"{path} does not give the network a name: give it one of letters, digits, dots and dashes.")
    return name


def adopted(
    path: Union[str, Path],
    folder: Path,
    name: Optional[str] = None,
    asked: Asked = USUAL,
    labels: Labels = numbered,
    convert: Convert = as_it_is,
    converter: str = "",
) -> Artifact:
    """The ONNX classifier `path` as the artifact `name` (by default as the file is called) below `folder`, made unless it lies
    there already. `converter`: says which version of `convert` it is, since another one makes other artifacts.

    Raises UserError for a file that can't be read or points at others, or a graph that is no image classifier.
    """
    path = Path(path)
    require_one_file(path)
    name, source = name or name_of(path), sha256_of(path)
    known = made_from([source, asked, converter])
    found = there(name, folder, known, labels)
    if found is not None:
        return found
    shape = shape_of(path, asked.resolution)
    weights = f"{path.name}, a network of others"
    return write(
        name,
        folder,
        shape,
        asked.preprocessing(shape.side),
        labels(shape.classes),
        weights,
        source,
        known,
        convert(without_metadata(path), shape, asked.preprocessing(shape.side)),
    )


def write(
    name: str,
    folder: Path,
    shape: Shape,
    preprocessing: Preprocessing,
    labels: Tuple[List[str], List[str]],
    weights: str,
    weights_sha256: str,
    known: str,
    graphs: Mapping[str, Graph],
) -> Artifact:
    """Writes `graphs` as the artifacts of the network `name`; what was there in another precision is of another network then,
    and removed. `weights_sha256`: "" for random ones; `known`: what `made_from` gave."""
    metadata = {
        "variant": name,
        "weights": weights,
        "weights_sha256": weights_sha256,
        "resolution": str(shape.side),
        "crop": repr(float(preprocessing.crop)),
        "interpolation": preprocessing.interpolation,
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "classes": str(shape.classes),
        "labels": json.dumps(labels[0], ensure_ascii=False),
        "wnids": json.dumps(labels[1]),
        "foreign": "yes",
        "made_from": known,
        "made_for": json.dumps(list(graphs)),
    }
    fp32_sha256 = ""
    for precision in sorted(graphs, key=PRECISIONS.index):
        graph = graphs[precision]
        facts = {**metadata, **graph.facts, **({"fp32_sha256": fp32_sha256} if fp32_sha256 else {})}
        file, sha256 = sealed(graph.content, precision, facts)
        write_whole(artifact_path(name, precision, folder), file)
        fp32_sha256 = fp32_sha256 or sha256
    for precision in PRECISIONS:
        stale = artifact_path(name, precision, folder)
        if precision not in graphs and stale.is_file():
            stale.unlink()
    return read_artifact(artifact_path(name, "fp32", folder))


def made_from(facts: Any) -> str:
    """Sha256 of all that an artifact depends on, besides the names of its classes."""
    return sha256_of_facts(facts)


def there(name: str, folder: Path, known: str, labels: Labels) -> Optional[Artifact]:
    """The artifact `name`, if it is there, whole and made from just what `known` stands for."""
    try:
        artifact = read_artifact(artifact_path(name, "fp32", folder))
        if artifact.metadata.get("made_from") != known or artifact.labels != labels(artifact.classes)[0]:
            return None
        fp32 = verify(artifact.path)
        for precision in json.loads(artifact.metadata["made_for"])[1:]:
            other = artifact_path(name, precision, folder)
            verify(other)
            if read_artifact(other).metadata.get("fp32_sha256") != fp32:
                return None
    except (UserError, KeyError, ValueError):  # not there yet, another one, or damaged
        return None
    return artifact


def ends_of(path: Path) -> Tuple[List[Any], List[Any]]:
    """Inputs and outputs of a graph as onnxruntime tells them (name, shape, type). Raises UserError if it can't read it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime can't be imported ({error}): pip install onnxruntime.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        raise UserError(f"onnxruntime can't load {path}: {str(error).splitlines()[0]}") from None
    return session.get_inputs(), session.get_outputs()


def shape_of(path: Path, resolution: Optional[int] = None) -> Shape:
    """Asks onnxruntime, which reads every graph. `resolution`: of a graph that leaves it open. Raises UserError if there is no
    such file, or it is not an image classifier."""
    require_one_file(path)
    inputs, outputs = ends_of(path)
    if not inputs or not outputs:
        raise UserError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: it is no image classifier.")
    output, takes = outputs[0], inputs[0].shape  # type: Any, List[Any]
    floats = inputs[0].type == "tensor(float)" and output.type == "tensor(float)"
    sides = {side for side in takes[2:] if isinstance(side, int)} or {resolution or SIDE}
    if len(inputs) != 1 or not floats or len(takes) != 4 or takes[1] != 3 or len(sides) != 1 or len(output.shape) != 2:
        raise UserError(
            f"{path} takes {', '.join(f'{each.type} {each.shape}' for each in inputs)} and gives {output.type} "
            f"{output.shape}: it takes a classifier from tensor(float) [N, 3, S, S] to tensor(float) [N, classes]."
        )
    side, classes = sides.pop(), output.shape[1]
    if resolution not in (None, side):
        raise UserError(f"{path} takes images of {side} px, not of {resolution}.")
    if not isinstance(classes, int):
        raise UserError(f"{path} does not say how many classes it tells apart: its output is {output.shape}.")
    return Shape(side, classes, takes[0] if isinstance(takes[0], int) else None)
