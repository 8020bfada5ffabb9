"""runtime.infer over a cluster: the same lines, or with --out Parquet."""

from __future__ import annotations

import argparse
import sys
from typing import Iterator

from ..artifacts.artifact import RANDOM_WEIGHTS
from ..command import decoding_of, engines_of
from ..errors import UserError
from ..output import Result, answered_by, output_of, report
from ..progress import Progress
from .finish import Task, artifact_of, finish, own_folder
from .groups import Groups
from .options import Fleet
from .results import RESULTS, UNREADABLE, Folder, form
from .sources import entries
from .store import Store


def infer(options: argparse.Namespace, fleet: Fleet) -> int:
    """What `python -m runtime.infer ... --ray` does; the exit status."""
    if options.time:
        raise UserError("--time is for one machine: stages of images on many overlap.")
    if options.out and (options.json or options.csv):
        raise UserError("--out writes Parquet instead of lines: leave --json and --csv out.")
    artifact = artifact_of(options.model, options.variant, options.precision)
    if artifact.random:
        print(f"{artifact.path}: {RANDOM_WEIGHTS}", file=sys.stderr)
    asked = {"sources": options.images, "column": options.column, "top": options.top}
    task = Task(
        [artifact],
        options.backend,
        engines_of(options),
        decoding_of(options),
        fleet,
        growing=True,
        form=lambda answering: form(answered_by(artifact, answering.backend), options.top),
        entries=lambda: entries(options.images, options.column),
        asked=asked,
    )
    folder = Folder(Store(options.out or own_folder(task, "infer")))
    progress = Progress("classifying")
    with folder.store.mine():
        try:
            job, groups = finish(task, folder, lambda done, of, _: progress(done, of), options.fresh)
        finally:
            progress.end()
        if options.out:
            return _summary(folder, groups, progress)
        status = report(_results(folder, groups), answered_by(artifact, job["backend"]), output_of(options).form)
        folder.remove()
    return status


def _results(folder: Folder, groups: Groups) -> Iterator[Result]:
    for entry, row in folder.rows(groups):
        yield Result(entry.name, row.predictions, row.error)


def _summary(folder: Folder, groups: Groups, progress: Progress) -> int:
    bad = folder.unreadable(groups)
    print(f"{groups.images - bad} images in {folder.store.location}/{RESULTS}")
    if bad:
        print(f"{bad} unreadable, with the reason, in {folder.store.location}/{UNREADABLE}")
    if progress.rate:
        print(f"{progress.rate:.1f} images a second", file=sys.stderr)
    return 1 if bad else 0
