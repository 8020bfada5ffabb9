"""runtime.evaluate over a cluster: the same records, put together in order, so the same figures to the last digit."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Set, Tuple

from ..artifacts.artifact import RANDOM_WEIGHTS, Artifact
from ..errors import UserError
from ..measure.dataset import Sample
from ..measure.evaluation import (
    Record,
    believable,
    read_samples,
    record_of,
    reference_path,
    require_comparable,
    summary,
)
from ..networks.classifier import Classifier
from ..networks.pipeline import Answer
from ..progress import Progress
from .bulk import Part
from .finish import Task, artifact_of, finish, own_folder
from .options import Fleet
from .results import RESULTS, Folder
from .sources import Entry
from .store import Store


def evaluate_spread(options: argparse.Namespace, fleet: Fleet) -> Dict[str, Any]:
    """What `python -m runtime.evaluate ... --ray` reports, with the keys of measure.evaluation.summary. Raises UserError."""
    artifacts = [artifact_of(options)]
    if options.reference:
        path = str(reference_path(options.reference, artifacts[0]))
        artifacts.append(artifact_of(argparse.Namespace(**{**vars(options), "model": path, "precision": None})))
        require_comparable(*artifacts)
    samples = read_samples(options.data, artifacts[0], options.labels, options.limit)
    if artifacts[0].random:
        print(f"{artifacts[0].path}: {RANDOM_WEIGHTS}", file=sys.stderr)
    asked = {"samples": _digest(samples)}
    task = Task(
        artifacts,
        options,
        fleet,
        growing=False,
        form=lambda _: recorded,
        entries=lambda: (Entry(sample.path, str(Path(sample.path).absolute())) for sample in samples),
        asked=asked,
    )
    folder = Folder(Store(own_folder(task, "evaluation")), ".jsonl")
    checked = _Checked(folder, samples, artifacts[0], options.force)
    began = time.perf_counter()
    with folder.store.mine():
        try:
            job, groups = finish(task, folder, checked.seen, options.fresh)
            checked.end()
        except UserError:
            if checked.wrong:
                folder.remove()  # what it holds would be gone on with
            raise
        finally:
            checked.progress.end()
        records = [record for group in range(len(groups)) for record in _read(folder, group)]
        reference = artifacts[1] if options.reference else None
        result = summary(records, samples, artifacts[0], job["description"], reference)
        done = len(samples) - checked.progress.first
        result["images_per_second"] = round(done / max(time.perf_counter() - began, 1e-9), 2)
        folder.remove()
    return result


def recorded(
    start: int, names: Sequence[str], answers: Sequence[Answer], networks: Sequence[Classifier]
) -> Tuple[bytes, bytes]:
    """A group's records, a line each (see actor.Form); what can't be read is a record like the others."""
    lines = [json.dumps(record_of(start + row, answer)) + "\n" for row, answer in enumerate(answers)]
    return "".join(lines).encode(), b""


def _read(folder: Folder, group: int) -> Iterator[Record]:
    for line in (folder.store.read(f"{RESULTS}/{folder.name(group)}") or b"").splitlines():
        yield Record(*json.loads(line))


class _Checked:
    """Looks at the records from the first image on, as far as they are there without a gap: labels of another label set are
    found out early, as on one machine."""

    def __init__(self, folder: Folder, samples: Sequence[Sample], artifact: Artifact, force: bool) -> None:
        self.folder, self.progress, self.wrong = folder, Progress("evaluated"), False
        self.there: Set[int] = set()
        self.next = 0
        self.waiting: List[Record] = []
        self.force, self.check = force, believable(self._in_order(), samples, artifact, force)

    def _in_order(self) -> Iterator[Record]:
        while self.waiting:
            yield self.waiting.pop(0)

    def seen(self, done: int, of: int, parts: List[Part]) -> None:
        self.progress(done, of)
        if not parts and done:  # an interrupted evaluation is gone on with: its labels were looked at
            self.force = True
        self.there.update(part.group for part in parts)
        while not self.force and self.next in self.there:
            self.waiting += _read(self.folder, self.next)
            self.next += 1
            while self.waiting:
                self._look()

    def end(self) -> None:
        if not self.force:
            self._look()

    def _look(self) -> None:
        try:
            next(self.check, None)
        except UserError:
            self.wrong = True
            raise


def _digest(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        try:
            size = Path(sample.path).stat().st_size
        except OSError:
            size = -1
        digest.update(f"{sample.path!r} {sample.label} {size}\n".encode())
    return digest.hexdigest()
