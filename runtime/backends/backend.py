"""What every backend is, and what each needs: the protocol, the names, and how a fixed batch is fed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Protocol, Tuple

import numpy as np


class Backend(Protocol):
    """An artifact loaded and ready to run."""

    name: str
    lanes: int  # runs at once, from as many threads, that it was opened for
    batch: int  # images a run from which more gain nothing, as far as its memory goes

    @property
    def description(self) -> str:
        """Library, its version and where it runs, for reports."""
        ...

    def run(self, images: np.ndarray) -> np.ndarray:
        """A batch as the artifact's preprocessing makes it (float32 [N, 3, resolution, resolution], or uint8 [N, resolution,
        resolution, 3]) -> the first output, float32: logits [N, classes], or what another head gives."""
        ...

    def run_all(self, images: np.ndarray) -> Tuple[np.ndarray, ...]:
        """The same -> each of the artifact's outputs, in its order, float32."""
        ...

    def close(self) -> None:
        """Frees what the backend holds; it can't be run afterwards."""
        ...


class Engines(NamedTuple):
    """How TensorRT's engines are dealt with."""

    path: Optional[Path] = None  # just this one; None: the one of the artifact and the GPU
    rebuild: bool = True  # one that doesn't fit is built anew
    trust: bool = False  # one without a manifest is loaded


ANY_ENGINE = Engines()
TENSORRT = ("tensorrt", "tensorrt_rtx")
BACKENDS = (*TENSORRT, "onnxruntime", "onnxruntime_cuda", "openvino")
Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_pieces(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, fixed: Optional[int]) -> np.ndarray:
    """`run` on a graph that takes `fixed` images and no other number (None: any): as often as it takes, the last time
    filled up with zeros."""
    if fixed is None or len(images) == fixed:
        return run(images)
    answers = []
    for start in range(0, max(len(images), 1), fixed):
        piece = images[start : start + fixed]
        if len(piece) < fixed:
            filled = np.zeros((fixed, *images.shape[1:]), images.dtype)
            filled[: len(piece)] = piece
            piece = filled
        answers.append(run(piece))
    return np.concatenate(answers)[: len(images)]
