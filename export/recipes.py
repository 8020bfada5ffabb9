"""Which padding and normalisation a checkpoint wants, where nothing says: the usual ones, measured on labelled images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from export.stage import Request, export
from models.checkpoints import GREY, HALF, IMAGENET
from models.reader import read_checkpoint
from runtime.errors import UserError
from runtime.measure.evaluation import evaluate, read_samples
from runtime.networks.classifier import Classifier

IMAGES = 200  # of the data set, every k-th: enough to tell recipes apart that differ by 5 points
PADDINGS = ({"padding": "symmetric", "eps": 1e-5}, {"padding": "same", "eps": 1e-3})
STATISTICS = (IMAGENET, HALF)


class Tried(NamedTuple):
    """One recipe, as export's options, and its top-1 with the 95 % interval, in %."""

    settings: dict[str, Any]
    top1: float
    low: float
    high: float
    images: int

    def typed(self) -> str:
        """As a user types it: PADDING=same EPS=0.001 MEAN=0.5,0.5,0.5 STD=0.5,0.5,0.5"""
        return " ".join(
            f"{name.upper()}={','.join(f'{each:g}' for each in value) if isinstance(value, tuple) else value}"
            for name, value in self.settings.items()
        )


def try_recipes(request: Request, data: Path, say: Callable[[str], None] = lambda _: None) -> list[Tried]:
    """`request`'s checkpoint with each usual recipe, the best first. Settings that the request names stay as they are.

    `data`: labelled images, as runtime.evaluate takes them. Nothing is left behind. Raises UserError without labels.
    """
    if not data.is_dir():  # said before the work
        raise UserError(f"There is no folder {data}.")
    path = request.weights.path
    statistics = (GREY, HALF) if path and read_checkpoint(path, request.variant).greyscale else STATISTICS
    named = {name: value for name, value in request.overrides.items() if value is not None}
    found: list[Tried] = []
    candidates = [{**padding, "mean": mean, "std": std, **named} for padding in PADDINGS for mean, std in statistics]
    candidates = [each for i, each in enumerate(candidates) if each not in candidates[:i]]
    for number, settings in enumerate(candidates, 1):
        say(f"recipe {number} of {len(candidates)}")
        with tempfile.TemporaryDirectory() as scratch:
            export(replace(request, overrides=settings, named="tried"), Path(scratch))
            with Classifier(Path(scratch) / "tried" / "tried.fp32.onnx", backend="onnxruntime") as classifier:
                samples = read_samples(data, classifier.artifact, limit=IMAGES)
                result = evaluate(classifier, samples, force=True)
        if result["top1"] is None:
            raise UserError(
                f"{data} has no labels: recipes are told apart by accuracy. docs/measuring.md says how to label."
            )
        low, high = result["top1_interval"]
        found.append(Tried(settings, result["top1"], low, high, result["n"]))
    return sorted(found, key=lambda each: -each.top1)


def verdict(tried: list[Tried]) -> list[str]:
    """Lines for people: the figures, and which recipe fits."""
    lines = [f"{each.top1:5.1f} % ({each.low:.1f} to {each.high:.1f})  {each.typed()}" for each in tried]
    best, second = tried[0], tried[1] if len(tried) > 1 else None
    if second is None or best.low > second.high:
        return [*lines, f"This one fits: make export ... {best.typed()}"]
    return [
        *lines,
        f"{best.images} images do not tell the first two apart: take more images, or the first ({best.typed()}).",
    ]
