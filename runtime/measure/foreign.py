"""Image classifiers that this project did not export, so that they can be measured beside its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Union

from runtime.artifact import Artifact
from runtime.backends import open_backend
from runtime.classifier import Classifier
from runtime.errors import UserError
from runtime.onnx_metadata import require_one_file
from runtime.preprocess import Preprocessing

# What nearly every ImageNet classifier was trained with: torchvision's ImageClassification preset.
CROP, INTERPOLATION = 0.875, "bilinear"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224  # px, where the graph leaves it open


class Shape(NamedTuple):
    """What a graph takes and gives: [N, 3, side, side] -> [N, classes]."""

    side: int
    classes: int


class Foreign(Classifier):
    """Any ONNX image classifier: one float32 input [N, 3, S, S], first output [N, classes]; preprocessing as above.

    `artifact.variant` is the file's name. Raises UserError for a graph of another kind, or a backend that refuses it.
    """

    def __init__(
        self, model: Union[str, Path], backend: str = "auto", threads: Optional[int] = None, shape: Optional[Shape] = None
    ) -> None:
        """`shape`: what `shape_of` says, if it is known: asking means loading the file once more."""
        path = Path(model)
        self.shape = shape or shape_of(path)
        self.artifact = Artifact(
            path=path,
            variant=path.stem,
            precision="fp32",
            preprocessing=Preprocessing(self.shape.side, CROP, INTERPOLATION, MEAN, STD),
            classes=self.shape.classes,
            labels=[f"class {index}" for index in range(self.shape.classes)],
            weights=f"{path.name}, not made by this project",
            weights_sha256="unknown",
            metadata={},
        )
        self.backend = open_backend(self.artifact, "onnxruntime" if backend == "auto" else backend, threads)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def shape_of(path: Path) -> Shape:
    """Asks onnxruntime, which reads every graph. Raises UserError if there is none, or it is not an image classifier."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    require_one_file(path)
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
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    takes: List[Any] = inputs[0].shape
    floats = inputs[0].type == "tensor(float)" and output.type == "tensor(float)"
    sides = {side if isinstance(side, int) else SIDE for side in takes[2:]}
    if len(inputs) != 1 or not floats or len(takes) != 4 or takes[1] != 3 or len(sides) != 1 or len(output.shape) != 2:
        raise UserError(
            f"{path} takes {', '.join(f'{each.type} {each.shape}' for each in inputs)} and gives {output.type} "
            f"{output.shape}: it takes a classifier from tensor(float) [N, 3, S, S] to tensor(float) [N, classes]."
        )
    classes = output.shape[1]
    if not isinstance(classes, int):
        raise UserError(f"{path} does not say how many classes it tells apart: its output is {output.shape}.")
    return Shape(sides.pop(), classes)
