"""From images to feature maps: a backbone for detection and segmentation."""

from __future__ import annotations

from typing import Any, Dict, Sequence, Union

import numpy as np

from ..artifacts.facts import FEATURES
from ..images.decode import Source
from .network import Network


class Features(Network):
    """From images to feature maps, for detection and segmentation; exported with `make export HEAD=features`.

    maps = Features("artifacts/b1-features/b1-features.fp32.onnx")("photo.jpg")
    maps["stride8"]                                                      # float32 [1, 40, 30, 30]
    """

    head = FEATURES

    def __call__(self, images: Union[Source, Sequence[Source]]) -> Dict[str, np.ndarray]:
        """A map [N, C, H, W] by name, finest first. All images are one batch: of many, maps fill the memory.

        Raises ImageError for an image that can't be used or that the network answers with NaN or infinity."""
        several: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
        maps = self.maps(self.preprocess(several))
        return {name: self.finite(rows, several) for name, rows in maps.items()}

    def maps(self, batch: np.ndarray) -> Dict[str, np.ndarray]:
        """The maps of a batch as `preprocess` makes it. Raises UserError for another type or shape."""
        self._check_batch(batch)
        names = [output.name for output in self.artifact.outputs]
        return dict(zip(names, self.backend.run_all(batch)))

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """The first map, [N, C, H, W], after all were made: what a benchmark times."""
        return next(iter(self.maps(batch).values()))
