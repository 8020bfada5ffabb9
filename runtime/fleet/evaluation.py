"""runtime.evaluate over a cluster: the same records, put together in order, so the same figures to the last digit."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

from ..artifacts.artifact import RANDOM_WEIGHTS
from ..command import decoding_of, engines_of
from ..measure.dataset import samples_digest
from ..measure.evaluation import (
    LabelCheck,
    LabelError,
    Record,
    read_samples,
    record_of,
    reference_path,
    require_comparable,
    summary,
)
from ..networks.classifier import Classifier
from ..networks.pipeline import Answer
from ..progress import Progress
from .finish import Task, artifact_of, finish, own_folder
from .options import Fleet
from .results import RESULTS, Folder
from .sources import Entry
from .store import Store


def evaluate_spread(options: argparse.Namespace, fleet: Fleet) -> Dict[str, Any]:
    """What `python -m runtime.evaluate ... --ray` reports, with the keys of measure.evaluation.summary. Raises UserError."""
    artifacts = [artifact_of(options.model, options.variant, options.precision)]
    if options.reference:
        artifacts.append(artifact_of(str(reference_path(options.reference, artifacts[0]))))
        require_comparable(*artifacts)
    samples = read_samples(options.data, artifacts[0], options.labels, options.limit)
    if artifacts[0].random:
        print(f"{artifacts[0].path}: {RANDOM_WEIGHTS}", file=sys.stderr)
    task = Task(
        artifacts,
        options.backend,
        engines_of(options),
        decoding_of(options),
        fleet,
        growing=False,
        form=lambda _: recorded,
        entries=lambda: (Entry(sample.path, str(Path(sample.path).absolute())) for sample in samples),
        asked={"samples": samples_digest(samples)},
    )
    folder = Folder(Store(own_folder(task, "evaluation")), ".jsonl")
    check, progress = LabelCheck(samples, artifacts[0], options.force), Progress("evaluating")
    before = 0  # images that an interrupted run had done

    def seen(done: int, of: int, group: Optional[int]) -> None:
        nonlocal before
        progress(done, of)
        if group is None:
            before = done
            return
        for record in _read(folder, group):
            check.add(record)

    began = time.perf_counter()
    with folder.store.mine():
        try:
            job, groups = finish(task, folder, seen, options.fresh)
            records = [record for group in range(len(groups)) for record in _read(folder, group)]
            whole = LabelCheck(samples, artifacts[0], options.force)
            for record in records:
                whole.add(record)
            whole.finish()
        except LabelError:
            folder.remove()  # or the next run would continue it
            raise
        finally:
            progress.end()
        reference = artifacts[1] if options.reference else None
        result = summary(records, samples, artifacts[0], job["description"], reference)
        result["images_per_second"] = round((len(samples) - before) / max(time.perf_counter() - began, 1e-9), 2)
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
