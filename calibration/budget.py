"""What an INT8 network may lose: the budget, one choice of layers measured against it, and what it will cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.errors import UserError
from runtime.measure.accuracy import wilson


@dataclass(frozen=True)
class Budget:
    """What the INT8 network must keep, measured on the calibration images.

    A share of images is known no better than their number allows. So `agreement` and `points` are met unless the images
    contradict them: the better end of the 95 % interval decides. `sqnr` has no such noise.
    """

    agreement: float = 0.0  # least share of images with FP32's top-1 class
    points: float | None = None  # largest loss of top-1, percentage points; needs labels
    sqnr: float = 0.0  # least, dB, of the held-out images

    @property
    def counts(self) -> bool:
        """Whether the goal is a share of images, which is known the better the more images are judged."""
        return bool(self.agreement) or self.points is not None

    def met(self, point: Point) -> bool:
        lost = 0.0 if self.points is None else point.least_lost
        return point.best_agreement >= self.agreement and lost <= (self.points or 0.0) and point.sqnr >= self.sqnr

    def nearness(self, point: Point) -> tuple[float, float, float]:
        """Greater for a point that is nearer to the budget."""
        lost = 0.0 if self.points is None else point.lost
        return min(point.agreement, self.agreement), -lost, point.sqnr

    @property
    def goal(self) -> str:
        """The budget in words."""
        parts = [f"{self.sqnr:g} dB at the logits"] if self.sqnr else []
        parts += [f"{100 * self.agreement:g} % top-1 agreement"] if self.agreement else []
        parts += [f"at most {self.points:g} points of top-1 lost"] if self.points is not None else []
        return " and ".join(parts) or "nothing asked"


# Where no budget is given. An engine: as much agreement as the method before placement by blocks had. A processor: as before.
DEFAULT_BUDGETS = {"tensorrt": Budget(sqnr=28), "cpu": Budget(sqnr=25)}


@dataclass(frozen=True)
class Point:
    """One choice of layers in higher precision, and what it gives."""

    kept: tuple[str, ...]  # besides those that the placement never quantises
    share: float  # of MACs in int8
    agreement: float  # top-1 with FP32
    lost: float  # top-1, percentage points; 0 without labels
    sqnr: float  # dB, over the held-out ones
    images: int = 0  # of calibration, that agreement and loss were counted on; 0: taken as exact
    forms: Mapping[str, str] = field(default_factory=dict)  # by block; a block that is not there is in chain
    activations: float = 1.0  # bytes of activations, predicted, as a share of FP16's
    time: float = 1.0  # predicted, as a share of what it takes without INT8

    @property
    def best_agreement(self) -> float:
        """Upper end of the 95 % interval."""
        return wilson(round(self.agreement * self.images), self.images)[1] if self.images else self.agreement

    @property
    def least_lost(self) -> float:
        """Lower end of the loss's 95 % interval, points: only images on which the two differ can have gained or lost, and
        their difference has at most the variance of their number."""
        if not self.images:
            return self.lost
        changed = (1 - self.agreement) * self.images
        return self.lost - 100 * 1.96 * math.sqrt(changed) / self.images


def read_budget(text: str) -> Budget:
    """ "25dB", "99.3%" of top-1 agreement, or "0.5" points of top-1. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(dB|%|points?)?", text.strip(), re.IGNORECASE)
    if not found or (found[2] == "%" and float(found[1]) > 100):
        raise UserError(
            f"--budget {text}: give the signal to noise of the logits, as 25dB, a top-1 agreement, as 99%, or points of "
            "top-1 that may be lost, as 0.5."
        )
    value, unit = float(found[1]), (found[2] or "").lower()
    return {"db": Budget(sqnr=value), "%": Budget(agreement=value / 100)}.get(unit, Budget(points=value))


def forecast(
    budget: Budget, damages: Mapping[str, float], costs: Mapping[str, float], reference: np.ndarray
) -> tuple[int, float]:
    """(blocks, share of the predicted time) that `budget` will cost, from the damage of single blocks and their `costs`, each
    a share of the time. `reference`: FP32's logits.

    Damages add up at the logits, within 1 dB. For a top-1 agreement the noise is taken as normal, alike in every logit: an
    image keeps its class while its margin is above the noise of a difference of two logits.
    """
    least = budget.agreement if budget.points is None else max(budget.agreement, 1 - budget.points / 100)
    noise = 10 ** (-budget.sqnr / 10) if budget.sqnr else math.inf
    if least:
        noise = min(noise, _noise_for(least, reference))
    left, taken, cost = sum(damages.values()), 0, 0.0
    for name in sorted(damages, key=lambda name: -damages[name] / costs[name]):
        if left <= noise:
            break
        left, taken, cost = left - damages[name], taken + 1, cost + costs[name]
    return taken, cost


def _noise_for(agreement: float, reference: np.ndarray) -> float:
    """Largest noise, as a share of the logits' power, with which the expected top-1 agreement is `agreement`."""
    if reference.shape[1] < 2:
        return math.inf
    first, second = np.sort(reference, 1)[:, -1:-3:-1].T.astype(np.float64)
    power = float(np.square(reference, dtype=np.float64).mean())
    for decibel in np.arange(0, 60, 0.25):  # of signal to noise
        deviation = math.sqrt(2 * power * 10 ** (-decibel / 10))
        expected = np.mean([0.5 * (1 + math.erf(margin / deviation / math.sqrt(2))) for margin in first - second])
        if expected >= agreement:
            return float(10 ** (-decibel / 10))
    return 0.0
