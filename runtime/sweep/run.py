"""The sweep itself: every combination made, measured and written down before the next one begins."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Optional, Sequence, Tuple

from ..artifacts.artifact import PRECISIONS, Artifact
from ..artifacts.third_party import import_onnx
from ..errors import UserError
from ..fleet.options import Fleet
from .artifacts import Maker
from .children import Failed, run_module
from .plan import Plan, fingerprint, site
from .rows import Report, Row, read_rows, write_rows

Key = Tuple[str, str, str, int]  # variant, precision, backend that was asked for, batch
Say = Callable[[str], None]
# What a row takes over from runtime.evaluate's result.
_ACCURACY = (
    "top1",
    "top1_interval",
    "top5",
    "top5_interval",
    "agreement",
    "agreement_interval",
    "sqnr_db",
    "difference",
    "difference_interval",
    "mcnemar_p",
    "pictures",
    "data",
    "accuracy_key",
    "accuracy_reason",
)


def sweep(plan: Plan, folder: Path, say: Say, fresh: bool = False, fleet: Optional[Fleet] = None) -> Report:
    """Measures what `plan` names and writes it to `folder`, after each step whole. A combination that fails is a row with
    its "reason". What was measured there before, of the same artifact in the same way on this machine, is kept; so are
    the rows of this machine that the plan does not name.

    With a `fleet`, all latencies come first, on this machine while nothing else of the cluster runs here; then the
    accuracies, each spread over the whole cluster. Raises UserError if `folder` can't be written, or images are missing.
    """
    before = Report(folder.name, [], {}, "")
    if not fresh and (folder / "sweep.json").exists():
        before = read_rows(folder)
    running, maker = _Sweep(plan, folder, before, say, fleet), Maker(plan)
    like: Optional[Artifact] = None  # an artifact that knows its classes' names
    steps = len(plan.variants) + len(plan.foreign)
    with _alone(fleet, say):
        for step, variant in enumerate(plan.variants, 1):
            say(f"[{step}/{steps}] {variant}")
            artifacts = running.gather(variant, plan.precisions, lambda precision: maker.artifact(variant, precision))  # noqa: B023
            like = like or next(iter(artifacts), None)
            running.measure(variant, artifacts)
        for step, foreign in enumerate(plan.foreign, len(plan.variants) + 1):
            say(f"[{step}/{steps}] {foreign.name}")
            make = partial(import_onnx, foreign.path, folder / "networks", foreign.name, like=like)
            running.measure(foreign.name, running.gather(foreign.name, ["fp32"], lambda _: make()))  # noqa: B023
    running.judge_all()
    return running.save()


def _alone(fleet: Optional[Fleet], say: Say) -> ContextManager[None]:
    """The node to oneself; a cluster that is only started for each evaluation runs nothing meanwhile."""
    if fleet is None or not (fleet.address or os.environ.get("RAY_ADDRESS")):
        return contextlib.nullcontext()
    from ..fleet.reservation import alone

    return alone(fleet.address, say)


class _Sweep:
    """The rows found so far, and those of an earlier run that may be kept."""

    def __init__(self, plan: Plan, folder: Path, before: Report, say: Say, fleet: Optional[Fleet] = None) -> None:
        self.fleet = fleet
        self.unjudged: List[Tuple[str, Sequence[Artifact]]] = []  # put off until the latencies are measured
        self.plan, self.folder, self.say, self.site = plan, folder, say, site()
        self.before: Dict[Key, Row] = {_key(row): row for row in before.rows if row["site"] == self.site}
        self.rows = dict(self.before)
        self.machine: Dict[str, Any] = dict(before.machine) if self.before else {}
        self.pictures, self.images = fingerprint(plan.data), fingerprint(plan.images)
        self.data = plan.data.resolve().name if plan.data else before.data if self.before else ""

    def save(self) -> Report:
        report = Report(self.folder.name, sorted(self.rows.values(), key=_place), self.machine, self.data)
        write_rows(report, self.folder)
        return report

    def gather(self, variant: str, precisions: Sequence[str], get: Callable[[str], Artifact]) -> List[Artifact]:
        """The variant's artifacts; those that can't be had become rows."""
        artifacts = []
        for precision in precisions:
            try:
                artifacts.append(get(precision))
            except (Failed, UserError) as error:
                for backend in self.plan.backends:
                    for batch in self.plan.batches:
                        key = (variant, precision, backend, batch)
                        self.rows[key] = _failed(key, self.site, error)
        return artifacts

    def measure(self, variant: str, artifacts: Sequence[Artifact]) -> None:
        """Latency of all of them in turns, then, on this machine, the accuracy of each that could be run."""
        wanted: List[Tuple[Artifact, str]] = []
        for artifact in artifacts:
            for backend in self.plan.backends:
                keys = [(variant, artifact.precision, backend, batch) for batch in self.plan.batches]
                if any(self.before.get(key, {}).get("latency_key") != self._latency_key(artifact, key) for key in keys):
                    wanted.append((artifact, backend))
        for artifact, backend, batch, found in _latencies(self.plan, wanted, self.machine, self.say):
            key = (variant, artifact.precision, backend, batch)
            if isinstance(found, Failed):
                self.rows[key] = _failed(key, self.site, found)
            else:
                self.rows[key] = {
                    **found,
                    "variant": variant,
                    "precision": artifact.precision,
                    "backend_asked": backend,
                    "latency_key": self._latency_key(artifact, key),
                    "site": self.site,
                }
            self.rows[key].update(_of_artifact(artifact))
        self.save()
        if self.fleet is None:
            self.judge(variant, artifacts)
        else:
            self.unjudged.append((variant, artifacts))

    def judge_all(self) -> None:
        """The accuracies that were put off."""
        for number, (variant, artifacts) in enumerate(self.unjudged, 1):
            self.say(f"[{number}/{len(self.unjudged)}] {variant}, over the cluster")
            self.judge(variant, artifacts)

    def judge(self, variant: str, artifacts: Sequence[Artifact]) -> None:
        """Accuracy of each artifact that could be run."""
        fp32 = next((artifact for artifact in artifacts if artifact.precision == "fp32"), None)
        for artifact in artifacts:
            for backend in self.plan.backends:
                keys = [(variant, artifact.precision, backend, batch) for batch in self.plan.batches]
                own = [self.rows[key] for key in keys if "total" in self.rows[key]]
                if own and not artifact.random:
                    earlier = [self.before[key] for key in keys if key in self.before]
                    result = _accuracy(self.plan, artifact, fp32, backend, self.pictures, earlier, self.say, self.fleet)
                    for row in own:
                        for name in _ACCURACY:
                            row.pop(name, None)
                        row.update(result)
                    self.save()

    def _latency_key(self, artifact: Artifact, key: Key) -> str:
        return self.plan.latency_key(artifact.metadata["sha256"], key[2], key[3], self.images)


def _key(row: Row) -> Key:
    return row["variant"], row["precision"], row["backend_asked"], row["batch"]


def _place(row: Row) -> Any:
    """Where a row stands: networks of others last, b2 before b10."""
    variant = [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", row["variant"])]
    return row.get("foreign", False), variant, PRECISIONS.index(row["precision"]), row["backend_asked"], row["batch"]


def _failed(key: Key, here: Dict[str, str], error: Exception) -> Row:
    variant, precision, backend, batch = key
    return {
        "variant": variant,
        "precision": precision,
        "backend_asked": backend,
        "backend_name": backend,
        "batch": batch,
        "site": here,
        "reason": str(error),
    }


def _of_artifact(artifact: Artifact) -> Row:
    """What a row says of the artifact beyond runtime.bench."""
    foreign = artifact.metadata.get("foreign") == "yes"
    row: Row = {"artifact": str(artifact.path), "sha256": artifact.metadata["sha256"], "foreign": foreign}
    if artifact.metadata.get("published_top1"):
        row["published_top1"] = float(artifact.metadata["published_top1"])
        row["published_source"] = artifact.metadata.get("published_source", "")
    return row


def _latencies(
    plan: Plan, wanted: Sequence[Tuple[Artifact, str]], machine: Dict[str, Any], say: Say
) -> List[Tuple[Artifact, str, int, Any]]:
    """(artifact, backend, batch, row or why there is none) of each combination, measured in turns in one process; where
    that fails, each in a process of its own, so that one that can't be run does not hide the others."""
    if not wanted:
        return []
    artifacts = list({artifact.path: artifact for artifact, _ in wanted}.values())
    backends = list(dict.fromkeys(backend for _, backend in wanted))
    say(f"  latency of {', '.join(artifact.precision for artifact in artifacts)} on {', '.join(backends)}")
    try:
        found, failures = _bench(plan, artifacts, backends, machine)
    except Failed as error:
        if len(wanted) == 1:
            return [(*wanted[0], batch, error) for batch in plan.batches]
        say(f"  not together ({error}), so one by one")
        return [each for one in wanted for each in _latencies(plan, [one], machine, say)]
    results: List[Tuple[Artifact, str, int, Any]] = []
    for artifact, backend in wanted:
        for batch in plan.batches:
            why = [failures.get((str(artifact.path), backend, which)) for which in (batch, None)]
            row: Any = Failed(why[0] or why[1] or "runtime.bench has no figure for it")
            for candidate in found:
                fits = backend in ("auto", candidate["backend_name"])
                if Path(candidate["model"]).name == artifact.path.name and candidate["batch"] == batch and fits:
                    row = candidate
            results.append((artifact, backend, batch, row))
    return results


def _bench(
    plan: Plan, artifacts: Sequence[Artifact], backends: Sequence[str], machine: Dict[str, Any]
) -> Tuple[List[Row], Dict[Tuple[str, str, Optional[int]], str]]:
    """runtime.bench's rows, each with the warnings of its run, and why there are none of a (model, backend, batch), where
    None stands for every batch. `machine` is brought up to date. Raises Failed if there are no rows at all."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        arguments: List[object] = ["--models", ",".join(str(artifact.path) for artifact in artifacts), "--json", file]
        arguments += ["--backend", ",".join(backends), "--batch", ",".join(map(str, plan.batches))]
        for option, value in (("--images", plan.images), ("--seconds", plan.seconds), ("--threads", plan.threads)):
            if value is not None:
                arguments += [option, value]
        try:
            run_module("runtime.bench", *arguments)
        except Failed:  # of some models, if it wrote what it found
            if not file.exists():
                raise
        result = json.loads(file.read_text(encoding="utf-8"))
    machine.update(result["machine"])
    failures = {(each["model"], each["backend"], each.get("batch")): each["reason"] for each in result["failed"]}
    return [{**row, "warnings": result["warnings"]} for row in result["rows"]], failures


def _accuracy(
    plan: Plan,
    artifact: Artifact,
    fp32: Optional[Artifact],
    backend: str,
    data: str,
    earlier: Sequence[Row],
    say: Say,
    fleet: Optional[Fleet] = None,
) -> Row:
    """What a row says of accuracy, taken from `earlier` rows of the artifact where it was measured in the same way; without
    images to measure it on, where it was measured at all."""
    reference = None if fp32 is None or artifact.precision == "fp32" else fp32
    sha256 = artifact.metadata["sha256"]
    key = plan.accuracy_key(sha256, backend, reference.metadata["sha256"] if reference else "", data)
    for row in earlier:
        if row.get("sha256") == sha256 and "accuracy_key" in row and (plan.data is None or row["accuracy_key"] == key):
            return {name: row[name] for name in _ACCURACY if name in row}
    if plan.data is None:
        return {}
    say(f"  accuracy of {artifact.precision} on {backend}")
    arguments: List[object] = ["--model", artifact.path, "--data", plan.data, "--backend", backend, "--json"]
    arguments += ["--reference", reference.path] if reference else []
    for option, value in (("--limit", plan.limit), ("--threads", plan.threads)):
        if value is not None:
            arguments += [option, value]
    arguments += fleet.arguments() if fleet else []
    try:
        result = json.loads(run_module("runtime.evaluate", *arguments))
    except Failed as error:
        return {"accuracy_reason": str(error)}
    kept = {name: result[name] for name in _ACCURACY if result.get(name) is not None}
    return {**kept, "pictures": result["n"], "data": plan.data.resolve().name, "accuracy_key": key}
