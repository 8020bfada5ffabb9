"""What a calibration found, for its report and for the metadata of what it writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.budget import Budget, Point
from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import share_in_int8
from calibration.report.judge import Score
from calibration.report.speed import Speed
from runtime.measure.accuracy import wilson

if TYPE_CHECKING:  # it imports torch
    from calibration.train.training import Schedule


@dataclass(frozen=True)
class Result:
    """Everything that the report shows."""

    variant: str
    target: str
    placement: str
    budget: Budget
    met: bool
    best: Point
    points: list[Point]
    damages: dict[str, dict[str, float]]  # by block and form, error power at the logits with it alone in INT8
    earlier: dict[str, float]  # predicted, as shares of FP16's, on TensorRT before 10.15: "activations" and "time"
    scores: list[Score]
    judged_on: str
    images: int
    skipped: list[str]
    origin: str
    warnings: list[str]
    notes: list[str]
    speeds: list[Speed]  # on this machine's CPU, for that target
    seconds: float
    training: Schedule | None = None  # with which no layer was left in higher precision
    trained: bool = False  # whether what it gave was better, and so is what was written

    @property
    def asked(self) -> bool:
        """Whether there was a goal."""
        return self.budget != Budget()

    @property
    def reached(self) -> str:
        """What was chosen, in the units of the goal."""
        best, n, parts = self.best, self.best.images, []
        if self.budget.agreement:
            low, high = wilson(round(best.agreement * n), n)
            parts = [f"{best.agreement:.1%} agreement on {n} images [{100 * low:.1f}, {100 * high:.1f}]"]
        if self.budget.points is not None:
            parts.append(f"{best.lost:.1f} points lost on {n} images")
        return ", ".join([*parts, f"{best.sqnr:.1f} dB"])


# As artifacts and reports have always called it.
_KEYS = {"agreement": "same_class"}


def written(value: Any) -> dict[str, Any]:
    """A dataclass as JSON has it."""
    return {_KEYS.get(name, name): each for name, each in asdict(value).items()}


def summary(result: Result) -> dict[str, object]:
    """What the artifacts carry of their calibration."""
    return {
        "target": result.target,
        "placement": result.placement,
        "pictures": result.images,
        "origin": Path(result.origin).name,
        "budget": written(result.budget),
        "budget_met": result.met,
        "goal": result.budget.goal,
        "kept_in_float": list(result.best.kept),
        "multiply_adds_in_int8": result.best.share,
        "forms": dict(result.best.forms),  # by block; a block that is not there is in chain
        "predicted": {"activations": result.best.activations, "time": result.best.time, "before_10.15": result.earlier},
        "judged_on": result.judged_on,
        "warnings": result.warnings,
        "scores": [written(score) for score in result.scores],
        "speeds": [asdict(speed) for speed in result.speeds],
        "training": asdict(result.training) if result.training else None,
        "trained": result.trained,
    }


def share_of(network: LayerGraph, name: str) -> float:
    """Share of the network's MACs in layer `name`."""
    return 1 - share_in_int8(network, {name})
