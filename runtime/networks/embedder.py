"""From images to embeddings: vectors that are close to each other if the images are similar."""

from __future__ import annotations

from typing import Any, Sequence, Union

import numpy as np

from ..artifacts.facts import EMBEDDING
from ..images.decode import Source
from .network import BATCH, Network


class Embedder(Network):
    """From images to embeddings, vectors that are close if the images are similar; exported with `make export HEAD=embedding`.

    embed = Embedder("artifacts/b0-embedding/b0-embedding.fp32.onnx")    # or Embedder(variant="b0-embedding")
    one, other = embed(["a.jpg", "b.jpg"])                               # float32 [2, 1280], each of length 1
    one @ other                                                          # cosine similarity
    """

    head = EMBEDDING

    def __call__(self, images: Union[Source, Sequence[Source]], raw: bool = False) -> np.ndarray:
        """float32 [C] of one image, [N, C] of a list or tuple; of length 1, or with `raw` as the network gives it.

        Raises ImageError for an image that can't be used or that the network answers with NaN or infinity."""
        several: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
        rows = np.empty((len(several), self.artifact.outputs[0].channels), np.float32)
        for start in range(0, len(several), BATCH):
            part = list(several[start : start + BATCH])
            rows[start : start + len(part)] = self.finite(self.logits(self.preprocess(part)), part)
        rows = rows if raw else unit(rows)
        return rows if isinstance(images, (list, tuple)) else rows[0]


def unit(rows: np.ndarray) -> np.ndarray:
    """Each row divided by its length, in float32; a row of zeros stays one."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return (rows / np.maximum(lengths, 1e-30)[:, None]).astype(np.float32)
