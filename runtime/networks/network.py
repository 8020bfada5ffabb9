"""An exported network, whatever it gives: loaded once, called often. Classifier, Embedder and Features are made of it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Optional, Sequence, TypeVar, Union

import numpy as np

from ..artifacts.artifact import (
    RANDOM_WEIGHTS,
    Artifact,
    find_artifact,
    head_named,
    read_artifact,
    with_head_name,
)
from ..artifacts.model_path import model_file
from ..backends import open_backend
from ..backends.backend import ANY_ENGINE, TENSORRT, Engines, to_stderr
from ..errors import UserError
from ..images.decode import DECODING, Decoding, ImageError, Source
from ..images.preprocess import preprocess

Self = TypeVar("Self", bound="Network")
BATCH = 8  # images a list is cut into: the CPU gains nothing from more, and memory stays small


class NotFiniteError(ImageError):
    """The network answered this image with NaN or infinity, as an FP16 network does whose values overflow."""


def not_finite(output: np.ndarray, artifact: Artifact, name: str) -> Optional[NotFiniteError]:
    """The error of the image `name` if a network's `output` for it holds NaN or infinity: no class follows from that."""
    if np.isfinite(output).all():
        return None
    what = "NaN" if np.isnan(output).any() else "infinity"
    remedy = "use its FP32 file" if artifact.precision != "fp32" else "the network is numerically unstable for it"
    return NotFiniteError(f"{name}: the network's {artifact.precision} answer to this image holds {what}: {remedy}.")


def _measured(path: Path) -> Path:
    """Of the artifact `path` of a network, taken since no precision was named, the one that was measured to be fastest on the
    GPU of this machine. It says which, and why."""
    variant = path.name.split(".")[0]
    if not any(path.parent.glob(f"{variant}.*.engine")):
        return path
    from ..backends.tensorrt.tuned import fastest_here

    found = fastest_here(path.parent, variant)
    if found is None:
        return path
    precision, why = found
    fastest = path.with_name(f"{variant}.{precision}.onnx")
    if path.name not in (f"{variant}.fp32.onnx", fastest.name) or not fastest.is_file():
        return path  # artifacts/latest names another one
    to_stderr(f"{fastest.name}: {why} (--precision takes another)")
    return fastest


class Network:
    """What the kinds of networks have in common; several threads may call one, if the backend allows it.

    Images are paths, encoded bytes, PIL images or uint8 arrays [H, W, 3], see runtime.images.decode.open_image.
    """

    head = ""  # the one of runtime.artifacts.artifact.HEADS that an artifact must have
    decoding = DECODING

    def __init__(
        self,
        model: Union[str, Path, None] = None,
        *,
        variant: Optional[str] = None,
        precision: Optional[str] = None,
        backend: str = "auto",
        threads: Optional[int] = None,
        engines: Engines = ANY_ENGINE,
        decoding: Decoding = DECODING,
        lanes: int = 1,
        shared: bool = False,
    ) -> None:
        """`model`: an exported ONNX file, an engine that was built from one, a folder or a bundle (see `model_file`);
        else `variant` and `precision` find it.
        `lanes`: calls that are to go on at once, each from a thread of its own; the CPU's cores are divided among them,
        or `shared` by all: see runtime.backends.open_backend.

        Raises UserError if there is no such artifact, no backend for it, or it has another head."""
        self.decoding = decoding
        path = model_file(model, precision) if model is not None else find_artifact(variant, precision)
        if model is None and precision is None and backend in ("auto", *TENSORRT):
            path = _measured(path)
        if path.suffix == ".engine":
            from ..backends.tensorrt.engine import artifact_of

            path, engines = artifact_of(path).path, engines._replace(path=path)
        self.artifact = read_artifact(path)
        self._check(self.artifact)
        if self.artifact.random:
            warnings.warn(f"{self.artifact.path}: {RANDOM_WEIGHTS}", stacklevel=2)
        self.backend = open_backend(self.artifact, backend, threads, engines, lanes=lanes, shared=shared)

    def _check(self, artifact: Artifact) -> None:
        """Raises UserError for an artifact that is none of this kind."""
        if artifact.head == self.head:
            return
        gives = ", ".join(output.name for output in artifact.outputs)
        remedy = "Third-party networks are exported as classifiers only."
        if artifact.metadata.get("foreign") != "yes":
            base = head_named(artifact.variant)[0]
            name = with_head_name(base, self.head)
            remedy = f"'make export VARIANT={base} HEAD={self.head}' makes the one that does; it is called {name}."
            if artifact.path.parent.parent.joinpath(name, f"{name}.fp32.onnx").is_file():
                remedy = f"The one that does is there, and called {name}."
        raise UserError(f"{artifact.path} gives {gives}, no {self.head}. {remedy}")

    def preprocess(self, images: Union[Source, Sequence[Source]]) -> np.ndarray:
        """What the network gets for one image or a list of them: float32 [N, 3, resolution, resolution], or uint8 [N,
        resolution, resolution, 3] where the artifact's preprocessing says so."""
        several = images if isinstance(images, (list, tuple)) else [images]
        recipe = self.artifact.preprocessing
        batch = recipe.empty(len(several))
        for row, image in zip(batch, several):
            preprocess(image, recipe, decoding=self.decoding, out=row)
        return batch

    def finite(self, outputs: np.ndarray, images: Sequence[Source]) -> np.ndarray:
        """`outputs` [N, ...] for N images. Raises NotFiniteError, which names the image, if there is NaN or infinity."""
        for image, row in zip(images, outputs):
            name = os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else "image"
            error = not_finite(row, self.artifact, name)
            if error is not None:
                raise error
        return outputs

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """What the network answers to a batch as `preprocess` makes it, its first output: float32 [N, classes], or [N, C].

        Raises UserError for another type or shape.
        """
        self._check_batch(batch)
        return self.backend.run(batch)

    def _check_batch(self, batch: np.ndarray) -> None:
        wanted = self.artifact.preprocessing.empty(0)
        if batch.dtype != wanted.dtype or batch.shape[1:] != wanted.shape[1:]:
            sizes, kind = ", ".join(map(str, wanted.shape[1:])), type(self).__name__
            raise UserError(
                f"{self.artifact.path} takes a batch of {wanted.dtype} [N, {sizes}], not {batch.dtype} {list(batch.shape)}: "
                f"{kind}.preprocess makes one of images."
            )

    def close(self) -> None:
        """Frees the backend; the network can't be called afterwards."""
        self.backend.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        path, kind = os.fspath(self.artifact.path), type(self).__name__
        return f"<{kind} {self.artifact.variant} {self.artifact.precision} from {path} on {self.backend.description}>"
