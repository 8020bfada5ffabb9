"""Accuracy on labelled images: a record of each as its answer comes, kept in a journal, and the figures that they make."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..artifacts.artifact import PRECISIONS, RANDOM_WEIGHTS, Artifact, find_artifact
from ..errors import UserError
from ..networks.classifier import Classifier
from ..networks.network import NotFiniteError
from ..networks.pipeline import Answer, overlapped
from .accuracy import mcnemar, paired_difference, wilson
from .dataset import Sample, read_dataset
from .label_order import Seen, doubt

_FIRST_LOOK = 512  # labelled images after which their labels are checked for the first time; then after twice as many


class Record(NamedTuple):
    """What is kept of one image."""

    row: int  # in the data set
    top: List[int]  # likeliest classes, best first; empty: the image could not be read, or the network failed on it
    reference: Optional[int]  # the reference's class
    signal: float  # power of the reference's logits
    noise: float  # power of the difference of the logits
    not_finite: bool = False  # the network answered with NaN or infinity


def evaluate(
    classifier: Classifier,
    samples: Sequence[Sample],
    reference: Optional[Classifier] = None,
    journal: Optional[Path] = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Dict[str, Any]:
    """Accuracy of `classifier` on `samples`, and against `reference` where there is one; see `summary` for the keys.

    Streams: memory does not grow with the number of images but for a line each in `journal`, a file that lets an
    interrupted evaluation go on where it stopped. Images that can't be read, or that a network answers with NaN or infinity,
    are counted and left out. Raises UserError if the labels seem to be of another label set or in another order (unless
    `force`), or the two models' classes differ.
    """
    if reference:
        require_comparable(classifier.artifact, reference.artifact)
    batch = min(network.backend.batch for network in (classifier, reference) if network)
    records = _journalled(journal, len(samples), batch)
    began, start = time.perf_counter(), len(records)
    with _appending(journal) as note:
        check = LabelCheck(samples, classifier.artifact, force)
        for record in records:
            check.add(record)
        for record in _records(classifier, samples, reference, start, batch):
            note(record)
            records.append(record)
            check.add(record)
            progress(len(records), len(samples))
        check.finish()
    used = reference.artifact if reference else None
    result = summary(records, samples, classifier.artifact, classifier.backend.description, used)
    result["images_per_second"] = round((len(samples) - start) / max(time.perf_counter() - began, 1e-9), 2)
    return result


def reference_path(reference: str, artifact: Artifact) -> Union[str, Path]:
    """What `--reference` names: a file, or a precision of the same variant."""
    return (
        find_artifact(artifact.variant, reference, artifact.path.parent.parent)
        if reference in PRECISIONS
        else reference
    )


def read_samples(
    data: Path, artifact: Artifact, labels: Optional[Path] = None, limit: Optional[int] = None
) -> List[Sample]:
    """The data set, or about `limit` images of it: every k-th."""
    samples = read_dataset(data, artifact, labels)
    if limit and limit < len(samples):
        step = len(samples) / limit
        samples = [samples[int(i * step)] for i in range(limit)]
    return samples


def require_comparable(ours: Artifact, reference: Artifact) -> None:
    """Raises UserError unless both tell as many classes apart."""
    if reference.classes != ours.classes:
        raise UserError(
            f"{reference.path} tells {reference.classes} classes apart and {ours.path} {ours.classes}: they can't be compared."
        )


class LabelError(UserError):
    """The labels do not mean the model's classes."""


class LabelCheck:
    """Watches the records of an evaluation, in whatever order they come, for labels that do not mean the model's classes.

    Looks at powers of two, so that a data set of millions is not evaluated for nothing, and at the end.
    """

    def __init__(self, samples: Sequence[Sample], artifact: Artifact, force: bool = False) -> None:
        self.samples, self.artifact, self.off = samples, artifact, force or artifact.random
        self.labelled: List[Record] = []
        self.next = _FIRST_LOOK

    def add(self, record: Record) -> None:
        """Raises LabelError with what the labels seem to be."""
        if record.top and self.samples[record.row].label is not None:
            self.labelled.append(record)
        if len(self.labelled) >= self.next:
            self.next *= 2
            self.finish()

    def finish(self) -> None:
        """The same, for all records there are."""
        if self.off or not self.labelled:
            return
        said = self._doubt([record.top[0] for record in self.labelled])
        references = [record.reference for record in self.labelled]
        if said and None not in references:  # labels that suit the reference are right, whatever this model does
            said = self._doubt([reference or 0 for reference in references])
        if said:
            wrong = min(self.labelled, key=lambda record: (self.samples[record.row].label == record.top[0], record.row))
            sample, labels = self.samples[wrong.row], self.artifact.labels
            raise LabelError(
                f"The labels are probably of another label set or in another order. {said} For example, {sample.name} is "
                f"labelled {sample.label} ('{_name(sample, labels)}'), and the model sees '{labels[wrong.top[0]]}'. "
                "--force evaluates them as they are."
            )

    def _doubt(self, found: Sequence[int]) -> Optional[str]:
        truth = [self.samples[record.row].label or 0 for record in self.labelled]
        return doubt([Seen(*each) for each in zip(truth, found)], self.artifact)


def summary(
    records: Sequence[Record], samples: Sequence[Sample], ours: Artifact, backend: str, reference: Optional[Artifact]
) -> Dict[str, Any]:
    """The figures, shares in %: n, unreadable, not_finite; top1, top5 with intervals (None without labels or with random
    weights); agreement, sqnr_db, difference (points of top-1, negative: worse than the reference) and flipped. `backend`:
    what ran it, in words."""
    seen = [record for record in records if record.top]
    known = [record for record in seen if samples[record.row].label is not None]
    labels = ours.labels
    result: Dict[str, Any] = {
        "model": str(ours.path),
        "variant": ours.variant,
        "precision": ours.precision,
        "weights": RANDOM_WEIGHTS if ours.random else ours.weights,
        "backend": backend,
        "n": len(seen),
        "labelled": len(known),
        "unreadable": sum(not record.top and not record.not_finite for record in records),
        "not_finite": sum(record.not_finite for record in records),
        "top1": None,
        "top5": None,
    }
    if known and not ours.random:
        for key, top in (("top1", 1), ("top5", 5)):
            right = sum(samples[record.row].label in record.top[:top] for record in known)
            result[key] = 100 * right / len(known)
            result[f"{key}_interval"] = _percent(wilson(right, len(known)))
    if reference and seen:
        same = sum(record.top[0] == record.reference for record in seen)
        signal, noise = sum(record.signal for record in seen), sum(record.noise for record in seen)
        result["reference"] = str(reference.path)
        result["agreement"] = 100 * same / len(seen)
        result["agreement_interval"] = _percent(wilson(same, len(seen)))
        result["sqnr_db"] = (
            10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None
        )  # None: identical
        result["flipped"] = [
            {
                "file": samples[record.row].name,
                "was": labels[record.reference or 0],
                "is": labels[record.top[0]],
                "right": _name(samples[record.row], labels),
            }
            for record in seen
            if record.top[0] != record.reference
        ]
        if known and not ours.random and not reference.random:
            truth = [(samples[r.row].label, r.top[0], r.reference) for r in known]
            gained = sum(label == now != before for label, now, before in truth)
            lost = sum(label == before != now for label, now, before in truth)
            difference, low, high = paired_difference(gained, lost, len(known))
            result["difference"] = 100 * difference
            result["difference_interval"] = _percent((low, high))
            result["mcnemar_p"] = mcnemar(gained, lost)
    return result


def _records(
    classifier: Classifier, samples: Sequence[Sample], reference: Optional[Classifier], start: int, batch: int
) -> Iterator[Record]:
    """Records of the samples from row `start` on, which begins a batch."""
    networks = [classifier, reference] if reference else [classifier]
    rows = range(start, len(samples))
    for answer in overlapped(
        networks, rows, lambda row: (None, samples[row].path), batch=batch, decoding=classifier.decoding
    ):
        yield record_of(answer.item, answer)


def record_of(row: int, answer: Answer) -> Record:
    """What is kept of the networks' answer to the image in `row`; of two, the second is the reference."""
    if answer.error is not None:
        return Record(row, [], None, 0.0, 0.0, isinstance(answer.error, NotFiniteError))
    logits = answer.logits[0]
    top = [int(index) for index in np.argsort(-logits, kind="stable")[:5]]
    if len(answer.logits) == 1:
        return Record(row, top, None, 0.0, 0.0)
    expected = answer.logits[1]
    signal = float(np.square(expected, dtype=np.float64).sum())
    noise = float(np.square(expected.astype(np.float64) - logits).sum())
    return Record(row, top, int(expected.argmax()), signal, noise)


def read_journal(journal: Path) -> List[Record]:
    """The records that `journal` holds, in the data set's order; none if there is no such file."""
    records: List[Record] = []
    if not journal.is_file():
        return records
    with open(journal, "rb") as file:
        for line in file:
            try:
                record = Record(*json.loads(line))
            except (ValueError, TypeError):
                break  # the line that was being written
            if record.row != len(records):
                break
            records.append(record)
    return records


def _journalled(journal: Optional[Path], count: int, batch: int) -> List[Record]:
    """The whole batches that an interrupted evaluation left in `journal`; the file is cut back to them, so that it goes on
    with the batches that it would have had."""
    if journal is None or not journal.is_file():
        return []
    records = read_journal(journal)
    if len(records) != count:
        del records[len(records) // batch * batch :]
    with open(journal, "rb+") as file:
        for _ in records:
            file.readline()
        file.truncate()
    return records


class _appending:
    """Appends records to a journal as they come; writes nothing without one."""

    def __init__(self, journal: Optional[Path]) -> None:
        self.file = None
        if journal is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(journal, "a", encoding="ascii")  # noqa: SIM115 (closed in __exit__)

    def __enter__(self) -> Callable[[Record], None]:
        return self.note

    def note(self, record: Record) -> None:
        if self.file:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()


def _percent(interval: Tuple[float, float]) -> List[float]:
    return [100 * interval[0], 100 * interval[1]]


def _name(sample: Sample, labels: Sequence[str]) -> Optional[str]:
    if sample.label is None:
        return None
    return labels[sample.label] if sample.label < len(labels) else str(sample.label)
