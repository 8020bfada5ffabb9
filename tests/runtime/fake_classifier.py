"""A classifier whose network waits without the CPU, as for a GPU, and answers with the mean of each image."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from runtime.images.decode import DECODING
from runtime.images.preprocess import Preprocessing
from runtime.networks.classifier import Classifier

RECIPE = Preprocessing(32, 1.0, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class FakeClassifier:
    """Two classes; logits [mean brightness, 0.5]."""

    decoding = DECODING
    predictions = Classifier.predictions
    finite = Classifier.finite

    def __init__(self, batch: int = 4, lanes: int = 2, seconds: float = 0.0, recipe: Preprocessing = RECIPE) -> None:
        self.artifact: Any = SimpleNamespace(
            preprocessing=recipe,
            random=False,
            labels=["bright", "dark"],
            variant="fake",
            precision="fp32",
            activation="softmax",
        )
        self.backend: Any = SimpleNamespace(name="fake", batch=batch, lanes=lanes)
        self.seconds, self.sizes = seconds, []  # type: float, List[int]
        self.lock, self.failing = threading.Lock(), False

    def logits(self, batch: np.ndarray) -> np.ndarray:
        with self.lock:
            self.sizes.append(len(batch))
        if self.failing:
            raise RuntimeError("the GPU fell off the bus")
        time.sleep(self.seconds)
        mean = batch.reshape(len(batch), -1).mean(axis=1)
        return np.stack([mean, np.full(len(batch), 0.5)], axis=1).astype(np.float32)
