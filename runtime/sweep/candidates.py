"""What `advise` chooses among: artifacts with trained weights that lie here or whose weights are at hand, each timed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import List, NamedTuple, Sequence

from ..artifacts.artifact import Artifact, artifact_path, require_classes
from ..errors import UserError
from .artifacts import Maker, folder_of
from .children import Failed, run_module
from .halving import Candidate
from .plan import Plan, require_variants
from .rows import Key
from .run import sweep

_MADE = ("fp32", "fp16")  # by export, in seconds. Calibration takes minutes, so INT8 is taken where it lies


class Timed(NamedTuple):
    """An artifact in question, and what is known of it before it has seen an image."""

    artifact: Artifact
    candidate: Candidate


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def gather(plan: Plan) -> List[Artifact]:
    """The artifacts of the plan's variants and precisions, exported where they are missing; of all networks that lie here and
    all variants whose weights are at hand, if it names none. Without random weights. Says which are left out, and why.

    Raises UserError if there is none.
    """
    folder, maker = folder_of(plan), Maker(plan)
    require_variants(plan.variants, folder)
    lying = [home.name for home in sorted(folder.glob("*")) if artifact_path(home.name, "fp32", folder).is_file()]
    variants = plan.variants or list(dict.fromkeys([*lying, *_at_hand()]))
    found: List[Artifact] = []
    for variant in variants:
        for precision in plan.precisions:
            if precision not in _MADE and not artifact_path(variant, precision, folder).is_file():
                say(f"{variant} {precision} is left out: it was not calibrated (make calibrate VARIANT={variant})")
                continue
            try:
                artifact = maker.artifact(variant, precision)
                require_classes(artifact)
            except (Failed, UserError) as error:
                say(f"{variant} {precision} is left out: {error}")
                continue
            if artifact.random:
                say(f"{variant} {precision} is left out: its weights are random")
                continue
            found.append(artifact)
    if not found:
        raise UserError(
            f"There is no network with trained weights in {folder}/: export some ('make export VARIANT=lite0'), or name "
            "those to export with VARIANTS=lite0,lite1."
        )
    return found


def _at_hand() -> List[str]:
    """The family's variants whose weights are on this machine; none where there is no exporter that could read them."""
    if importlib.util.find_spec("models") is None or importlib.util.find_spec("torch") is None:
        return []
    return run_module("models", "--at-hand").split()


def timed(artifacts: Sequence[Artifact], plan: Plan, report: Path) -> List[Timed]:
    """Each of `artifacts` with its latency here; what an earlier run measured in `report` is kept. Left out, with the reason,
    is what could not be run."""
    found = []
    for variant in dict.fromkeys(artifact.variant for artifact in artifacts):
        own = {artifact.precision: artifact for artifact in artifacts if artifact.variant == variant}
        rows = {
            row.key: row for row in sweep(plan._replace(variants=[variant], precisions=list(own)), report, say).rows
        }
        for precision, artifact in own.items():
            row, name = rows[Key(variant, precision, "auto", 1)], f"{variant} {precision}"
            if row.latency is None:
                say(f"{name} is left out: {row.reason}")
                continue
            latency = row.latency
            macs = latency.multiply_adds or 0
            candidate = Candidate(name, latency.total.p50, latency.file_mb, macs, latency.backend, latency.noisy)
            found.append(Timed(artifact, candidate))
    return found
