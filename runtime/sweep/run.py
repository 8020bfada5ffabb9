"""The sweep itself: every combination made, measured and written down before the next one begins."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..artifacts.artifact import PRECISIONS, Artifact
from ..artifacts.third_party import import_onnx
from ..errors import UserError
from ..fleet.options import Fleet
from ..measure.timing import Timing
from .artifacts import Maker
from .children import Failed, run_module
from .plan import Plan, fingerprint, site
from .rows import Accuracy, Key, Report, Row, read_rows, write_rows

Say = Callable[[str], None]


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
        self.before: Dict[Key, Row] = {row.key: row for row in before.rows if row.site == self.site}
        self.rows = dict(self.before)
        self.machine: Dict[str, Any] = dict(before.machine) if self.before else {}
        self.data_digest, self.images_digest = fingerprint(plan.data), fingerprint(plan.images)
        self.data = plan.data.resolve().name if plan.data else before.data if self.before else ""

    def save(self) -> Report:
        report = Report(self.folder.name, sorted(self.rows.values(), key=_place), self.machine, self.data)
        write_rows(report, self.folder)
        return report

    def gather(self, variant: str, precisions: Sequence[str], get: Callable[[str], Artifact]) -> List[Artifact]:
        """The variant's artifacts. One that can't be had becomes rows with the reason."""
        artifacts = []
        for precision in precisions:
            try:
                artifacts.append(get(precision))
            except (Failed, UserError) as error:
                for backend in self.plan.backends:
                    for key in self._keys(variant, precision, backend):
                        self.rows[key] = Row(key, self.site, reason=str(error))
        return artifacts

    def measure(self, variant: str, artifacts: Sequence[Artifact]) -> None:
        """Latency, then accuracy, of what was not measured before in the same way."""
        wanted = []
        for artifact in artifacts:
            for backend in self.plan.backends:
                keys = self._keys(variant, artifact.precision, backend)
                if any(
                    key not in self.before or self._latency_key(artifact, key) != self.before[key].latency_key
                    for key in keys
                ):
                    wanted.append((artifact, backend))
        for artifact, backend, found in _latencies(self.plan, wanted, self.machine, self.say):
            for key in self._keys(variant, artifact.precision, backend):
                row = _row_of(artifact, Row(key, self.site))
                timing = found.of(artifact, backend, key.batch)
                if isinstance(timing, Failed):
                    self.rows[key] = replace(row, reason=str(timing))
                else:
                    latency_key = self._latency_key(artifact, key)
                    self.rows[key] = replace(row, latency=timing, latency_key=latency_key, warnings=found.warnings)
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
                keys = self._keys(variant, artifact.precision, backend)
                timed = [key for key in keys if self.rows[key].latency]
                if not timed or artifact.random:
                    continue
                found = self._accuracy(
                    artifact, fp32, backend, [self.before[key] for key in keys if key in self.before]
                )
                for key in timed:
                    failed = isinstance(found, Failed)
                    self.rows[key] = replace(
                        self.rows[key],
                        accuracy=None if isinstance(found, Failed) else found,
                        accuracy_reason=str(found) if failed else "",
                    )
                self.save()

    def _accuracy(
        self, artifact: Artifact, fp32: Optional[Artifact], backend: str, earlier: Sequence[Row]
    ) -> Union[Accuracy, Failed, None]:
        """From the `earlier` rows of the artifact where it was measured in the same way; without images to measure it on,
        where it was measured at all."""
        plan, sha256 = self.plan, artifact.metadata["sha256"]
        reference = None if fp32 is None or artifact.precision == "fp32" else fp32
        key = plan.accuracy_key(sha256, backend, reference.metadata["sha256"] if reference else "", self.data_digest)
        for row in earlier:
            if row.sha256 == sha256 and row.accuracy and (plan.data is None or row.accuracy.key == key):
                return row.accuracy
        if plan.data is None:
            return None
        self.say(f"  accuracy of {artifact.precision} on {backend}")
        arguments: List[object] = ["--model", artifact.path, "--data", plan.data, "--backend", backend, "--json"]
        arguments += ["--reference", reference.path] if reference else []
        for option, value in (("--limit", plan.limit), ("--threads", plan.threads)):
            arguments += [option, value] if value is not None else []
        arguments += self.fleet.arguments() if self.fleet else []
        try:
            printed = run_module("evaluate", *arguments)
        except Failed as error:  # of some images, if there is a result
            if not error.output:
                return error
            printed = error.output
        result = json.loads(printed)
        if not result["n"]:
            return Failed("all images failed: NaN or infinity" if result["not_finite"] else "no image could be read")
        return Accuracy.from_json(
            {**result, "pictures": result["n"], "data": plan.data.resolve().name, "accuracy_key": key}
        )

    def _keys(self, variant: str, precision: str, backend: str) -> List[Key]:
        return [Key(variant, precision, backend, batch) for batch in self.plan.batches]

    def _latency_key(self, artifact: Artifact, key: Key) -> str:
        return self.plan.latency_key(artifact.metadata["sha256"], key.backend, key.batch, self.images_digest)


def _place(row: Row) -> Any:
    """Where a row stands: third-party networks last, b2 before b10."""
    variant = [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", row.variant)]
    return row.foreign, variant, PRECISIONS.index(row.precision), row.key.backend, row.batch


def _row_of(artifact: Artifact, row: Row) -> Row:
    """`row` with what the artifact says of itself."""
    published = artifact.metadata.get("published_top1")
    return replace(
        row,
        artifact=str(artifact.path),
        sha256=artifact.metadata["sha256"],
        foreign=artifact.metadata.get("foreign") == "yes",
        published_top1=float(published) if published else None,
        published_source=artifact.metadata.get("published_source", "") if published else "",
    )


class _Found(NamedTuple):
    """What one run of runtime.bench found, or why it failed as a whole."""

    timings: Sequence[Timing] = ()
    failures: Dict[Tuple[str, str, Optional[int]], str] = {}  # by model, backend and batch (None: every batch)
    warnings: Tuple[str, ...] = ()
    failed: Optional[Failed] = None

    def of(self, artifact: Artifact, backend: str, batch: int) -> Union[Timing, Failed]:
        if self.failed:
            return self.failed
        for timing in self.timings:
            if (timing.model, timing.batch) == (artifact.path.name, batch) and backend in ("auto", timing.backend_name):
                return timing
        reasons = [self.failures.get((str(artifact.path), backend, which)) for which in (batch, None)]
        return Failed(next(filter(None, reasons), "runtime.bench has no figure for it"))


def _latencies(
    plan: Plan, wanted: Sequence[Tuple[Artifact, str]], machine: Dict[str, Any], say: Say
) -> List[Tuple[Artifact, str, _Found]]:
    """Each of `wanted` (artifact, backend) with the run of runtime.bench that has its figures. All are measured in turns in one
    process; where that fails, each in a process of its own, so that one that can't be run does not hide the others."""
    if not wanted:
        return []
    artifacts = list({artifact.path: artifact for artifact, _ in wanted}.values())
    backends = list(dict.fromkeys(backend for _, backend in wanted))
    say(f"  latency of {', '.join(artifact.precision for artifact in artifacts)} on {', '.join(backends)}")
    try:
        found = _bench(plan, artifacts, backends, machine)
    except Failed as error:
        if len(wanted) > 1:
            say(f"  not together ({error}), so one by one")
            return [each for one in wanted for each in _latencies(plan, [one], machine, say)]
        found = _Found(failed=error)
    return [(artifact, backend, found) for artifact, backend in wanted]


def _bench(plan: Plan, artifacts: Sequence[Artifact], backends: Sequence[str], machine: Dict[str, Any]) -> _Found:
    """Runs runtime.bench and brings `machine` up to date. Raises Failed if it wrote nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        arguments: List[object] = ["--models", ",".join(str(artifact.path) for artifact in artifacts), "--json", file]
        arguments += ["--backends", ",".join(backends), "--batches", ",".join(map(str, plan.batches))]
        for option, value in (("--images", plan.images), ("--seconds", plan.seconds), ("--threads", plan.threads)):
            arguments += [option, value] if value is not None else []
        try:
            run_module("bench", *arguments)
        except Failed:  # of some models, if it wrote what it found
            if not file.exists():
                raise
        result = json.loads(file.read_text(encoding="utf-8"))
    machine.update(result["machine"])
    failures = {(each["model"], each["backend"], each.get("batch")): each["reason"] for each in result["failed"]}
    return _Found([Timing.from_json(row) for row in result["rows"]], failures, tuple(result["warnings"]))
