"""What a calibration found, for its report and for the metadata of what it writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import share_in_int8
from calibration.report.judge import Score
from calibration.report.speed import Speed
from calibration.search.sensitivity import Budget, Point

if TYPE_CHECKING:  # it imports torch
    from calibration.train.training import Schedule


@dataclass(frozen=True)
class Result:
    """Everything that the report shows."""

    variant: str
    target: str
    budget: Budget
    met: bool
    best: Point
    points: list[Point]
    damages: dict[str, float]  # by layer, error power at the logits with it alone in int8
    scores: list[Score]
    judged_on: str
    pictures: int
    skipped: list[str]
    origin: str
    warnings: list[str]
    speeds: list[Speed]  # on this machine's CPU, for that target
    seconds: float
    training: Schedule | None = None  # with which no layer was chosen to stay in float
    trained: bool = False  # whether what it gave was better, and so is what was written


# As artifacts and reports have always called it.
_KEYS = {"agreement": "same_class"}


def written(value: Any) -> dict[str, Any]:
    """A dataclass as JSON has it."""
    return {_KEYS.get(name, name): each for name, each in asdict(value).items()}


def summary(result: Result) -> dict[str, object]:
    """What the artifacts carry of their calibration."""
    return {
        "target": result.target,
        "pictures": result.pictures,
        "origin": Path(result.origin).name,
        "budget": written(result.budget),
        "budget_met": result.met,
        "kept_in_float": list(result.best.kept),
        "multiply_adds_in_int8": result.best.share,
        "judged_on": Path(result.judged_on).name,
        "scores": [written(score) for score in result.scores],
        "speeds": [asdict(speed) for speed in result.speeds],
        "training": asdict(result.training) if result.training else None,
        "trained": result.trained,
    }


def share_of(network: LayerGraph, name: str) -> float:
    """Share of the network's MACs in layer `name`."""
    return 1 - share_in_int8(network, {name})
