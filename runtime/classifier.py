"""Pictures in, classes out: the one object that programs and commands use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union, overload

import numpy as np

from runtime.artifact import find_artifact, read_artifact
from runtime.backends import ANY_ENGINE, Engines, open_backend
from runtime.decode import DECODING, Decoding, Source
from runtime.errors import UserError
from runtime.preprocess import preprocess

_BATCH = 8  # pictures a list is cut into: the CPU gains nothing from more, and memory stays small


class Prediction(NamedTuple):
    """One class that a picture may show."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a prediction
    label: str
    probability: float  # softmax over all classes


class Classifier:
    """An exported network, loaded once and called often; from several threads too, if the backend allows it.

        classify = Classifier("artifacts/b1/b1.fp32.onnx")      # or Classifier(variant="b1"), or the one exported last
        classify("photo.jpg")                                   # -> [Prediction(index=281, label='tabby', ...), ...]
        classify(["a.jpg", open("b.png", "rb").read(), array])  # -> one such list each

    Pictures are paths, encoded bytes, PIL images or uint8 arrays [H, W, 3], see runtime.decode.open_image.
    Raises UserError if there is no such artifact or no backend for it, ImageError for a picture that can't be used.
    """

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
    ) -> None:
        """`model`: an exported ONNX file, or an engine that was built from one; else `variant` and `precision` find it.
        `lanes`: calls that are to go on at once, each from a thread of its own; the CPU's cores are divided among them."""
        self.decoding = decoding
        path = Path(model) if model is not None else find_artifact(variant, precision)
        if path.suffix == ".engine":
            from runtime.backends.tensorrt.loader import artifact_of

            path, engines = artifact_of(path).path, engines._replace(path=path)
        self.artifact = read_artifact(path)
        if len(self.artifact.labels) != self.artifact.classes:
            raise UserError(f"{self.artifact.path} has {len(self.artifact.labels)} labels for {self.artifact.classes} classes.")
        self.backend = open_backend(self.artifact, backend, threads, engines, lanes=lanes)

    @overload
    def __call__(self, images: Source, top: int = 5) -> List[Prediction]: ...

    @overload
    def __call__(self, images: Union[List[Source], Tuple[Source, ...]], top: int = 5) -> List[List[Prediction]]: ...

    def __call__(self, images: Any, top: int = 5) -> Any:
        """The `top` likeliest classes, best first, of one picture, or of each in a list or tuple."""
        if not isinstance(images, (list, tuple)):
            return self.predictions(self.logits(self.preprocess(images)), top)[0]
        found: List[List[Prediction]] = []
        for start in range(0, len(images), _BATCH):
            found += self.predictions(self.logits(self.preprocess(images[start : start + _BATCH])), top)
        return found

    def preprocess(self, images: Union[Source, Sequence[Source]]) -> np.ndarray:
        """What the network gets for one picture or a list of them: float32 [N, 3, resolution, resolution], or uint8 [N,
        resolution, resolution, 3] where the artifact's preprocessing says so."""
        several = images if isinstance(images, (list, tuple)) else [images]
        recipe = self.artifact.preprocessing
        batch = recipe.empty(len(several))
        for row, image in zip(batch, several):
            preprocess(image, recipe, decoding=self.decoding, out=row)
        return batch

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """What the network answers to a batch as `preprocess` makes it: float32 [N, classes].

        Raises UserError for another type or shape.
        """
        wanted = self.artifact.preprocessing.empty(0)
        if batch.dtype != wanted.dtype or batch.shape[1:] != wanted.shape[1:]:
            sizes = ", ".join(map(str, wanted.shape[1:]))
            raise UserError(
                f"{self.artifact.path} takes a batch of {wanted.dtype} [N, {sizes}], not {batch.dtype} {list(batch.shape)}: "
                "Classifier.preprocess makes one of pictures."
            )
        return self.backend.run(batch)

    def predictions(self, logits: np.ndarray, top: int = 5) -> List[List[Prediction]]:
        """The `top` likeliest classes of each row of `logits` [N, classes], best first."""
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        order = np.argsort(-likely, axis=1, kind="stable")[:, :top]
        labels = self.artifact.labels
        return [[Prediction(int(i), labels[i], float(row[i])) for i in best] for row, best in zip(likely, order)]

    def close(self) -> None:
        """Frees the backend; the classifier can't be called afterwards."""
        self.backend.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        path = os.fspath(self.artifact.path)
        return f"<Classifier {self.artifact.variant} {self.artifact.precision} from {path} on {self.backend.description}>"
