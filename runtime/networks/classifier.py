"""From images to classes: the object that programs and commands use."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Tuple, Union, overload

import numpy as np

from ..artifacts.artifact import Artifact, require_classes
from ..artifacts.facts import CLASSIFIER, SIGMOID
from ..errors import UserError
from ..images.decode import Source
from .network import BATCH, Network


class Prediction(NamedTuple):
    """One class that an image may show."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a prediction
    label: str
    probability: float  # softmax over all classes; of a network with independent scores, the sigmoid of its own


class Classifier(Network):
    """An exported network, loaded once and called often; from several threads too, if the backend allows it.

        classify = Classifier("artifacts/b1/b1.fp32.onnx")      # or Classifier(variant="b1"), or the one exported last
        classify("photo.jpg")                                   # -> [Prediction(index=281, label='tabby', ...), ...]
        classify(["a.jpg", open("b.png", "rb").read(), array])  # -> one such list each

    Images are paths, encoded bytes, PIL images or uint8 arrays [H, W, 3], see runtime.images.decode.open_image.
    Raises UserError if there is no such artifact or no backend for it, ImageError for an image that can't be used
    or that the network answers with NaN or infinity.
    """

    head = CLASSIFIER

    def _check(self, artifact: Artifact) -> None:
        require_classes(artifact)
        if len(artifact.labels) != artifact.classes:
            raise UserError(f"{artifact.path} has {len(artifact.labels)} labels for {artifact.classes} classes.")

    @overload
    def __call__(self, images: Source, top: int = 5) -> List[Prediction]: ...

    @overload
    def __call__(self, images: Union[List[Source], Tuple[Source, ...]], top: int = 5) -> List[List[Prediction]]: ...

    def __call__(self, images: Any, top: int = 5) -> Any:
        """The `top` likeliest classes, best first, of one image, or of each in a list or tuple."""
        if not isinstance(images, (list, tuple)):
            return self([images], top)[0]
        found: List[List[Prediction]] = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            found += self.predictions(self.finite(self.logits(self.preprocess(part)), part), top)
        return found

    def predictions(self, logits: np.ndarray, top: int = 5) -> List[List[Prediction]]:
        """The `top` likeliest classes of each row of `logits` [N, classes], best first."""
        if self.artifact.activation == SIGMOID:
            likely = 0.5 * (1 + np.tanh(logits / 2))  # the sigmoid, which can't overflow so
        else:
            likely = np.exp(logits - logits.max(axis=1, keepdims=True))
            likely /= likely.sum(axis=1, keepdims=True)
        order = np.argsort(-likely, axis=1, kind="stable")[:, :top]
        labels = self.artifact.labels
        return [[Prediction(int(i), labels[i], float(row[i])) for i in best] for row, best in zip(likely, order)]
