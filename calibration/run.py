"""What every step of one calibration works on, and whom it tells how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calibration.cache import Cache
from calibration.collect.images import CalibrationImages
from calibration.layer_graph import LayerGraph
from runtime.progress import Report, silent


@dataclass(frozen=True)
class Run:
    """One calibration. Ranges and weights come from the images `fit`, choices are made on those `held_out`."""

    network: LayerGraph
    target: str
    images: CalibrationImages
    fit: np.ndarray  # rows of `images`
    held_out: np.ndarray  # the other rows
    reference: np.ndarray  # FP32's logits of all images, float32 [n, classes]
    cache: Cache
    threads: int = 0  # of onnxruntime; 0: as many as there are cores
    progress: Report = silent

    def batches(self, step: str, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Normalised batches float32 [<=size, 3, side, side] of the images `rows` (default: all), for `step`, whose progress
        is told."""
        return told(self.images, step, rows, self.progress)


def told(images: CalibrationImages, step: str, rows: np.ndarray | None, progress: Report) -> Iterator[np.ndarray]:
    """Batches of the images `rows` (default: all); `progress` is told of each."""
    done, of = 0, len(images) if rows is None else len(rows)
    for batch in images.batches(rows):
        progress(done, of, step)
        yield batch
        done += len(batch)
