"""Which network to deploy on this machine, by your own images: python -m runtime.advise --data photos/ [--max-ms 10]"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

from .artifacts.artifact import Artifact
from .command import number, positive, run
from .digest import sha256_of_facts
from .errors import UserError
from .invocation import typed
from .measure.dataset import Sample, samples_digest
from .measure.evaluation import Record, evaluate, read_journal, read_samples
from .networks.classifier import Classifier
from .networks.pipeline import lanes_here
from .printable import printable
from .progress import Progress
from .sweep.candidates import Timed, gather, say, timed
from .sweep.halving import Candidate, Decision, Limits, breaks, decide, drop, points, rounds
from .sweep.plan import Plan, precisions_of, variants_of
from .table import aligned

REPORT = Path("reports") / "advise"
SECONDS = 3.0  # of timing each candidate: enough to tell networks apart


class Entry(NamedTuple):
    """A candidate and what judges it."""

    candidate: Candidate
    artifact: Artifact
    samples: List[Sample]  # in the order in which they are looked at
    journal: Path  # of its answers


def main(argv: Optional[Sequence[str]] = None) -> int:
    options = _parser().parse_args(argv)
    limits = Limits(options.max_ms, options.min_top1, options.max_mb)
    plan = Plan(
        variants=variants_of(options.variants),
        precisions=precisions_of(options.precisions),
        backends=["auto"],
        batches=[1],
        foreign=[],
        data=None,
        limit=None,
        calib=None,
        images=options.data,
        random=False,
        seconds=SECONDS,
        threads=None,
    )
    if options.force:
        (REPORT / "sweep.json").unlink(missing_ok=True)
    entries = _entries(timed(gather(plan), plan, REPORT), options.data, options.limit)
    labelled = entries[0].samples[0].label is not None
    if not labelled and limits.min_top1 is not None:
        raise UserError(f"The images in {options.data} have no labels, so no accuracy is known: leave MIN_TOP1 out.")
    judge = None if labelled else _largest(entries)
    _run_rounds(entries, judge, limits)
    everyone = [entry.candidate for entry in entries]
    decision = decide(everyone, limits)
    print("\n".join(map(printable, _lines(entries, decision, limits, options.data, judge))))
    return 0 if decision.best else 1


def _entries(found: Sequence[Timed], data: Path, limit: Optional[int]) -> List[Entry]:
    """The candidates that tell the images' classes apart. The others are left out, with the reason; UserError if all are."""
    entries, first_error = [], None
    for artifact, candidate in found:
        try:
            samples = read_samples(data, artifact, limit=limit)
        except UserError as error:
            first_error = first_error or error
            say(f"{candidate.name} is left out: {error}")
            continue
        random.Random(0).shuffle(samples)  # or the first round would see the first classes only
        content = [artifact.metadata["sha256"], candidate.backend, samples_digest(samples)]
        entries.append(Entry(candidate, artifact, samples, REPORT / f".answers-{sha256_of_facts(content)[:16]}.jsonl"))
    if not entries:
        raise first_error or UserError("No candidate could be run.")
    return entries


def _largest(entries: List[Entry]) -> Entry:
    """The one with the most multiply-adds, in FP32, whose answers stand for labels. Those that tell other classes apart go."""
    largest = max(entries, key=lambda entry: (entry.candidate.macs, entry.artifact.precision == "fp32"))
    for entry in entries:
        if entry.artifact.labels != largest.artifact.labels:
            entry.candidate.out = f"tells other classes apart than {largest.candidate.name}"
    return largest


def _run_rounds(entries: Sequence[Entry], judge: Optional[Entry], limits: Limits) -> None:
    """Shows the candidates more and more images, and marks who is out."""
    for entry in entries:
        entry.candidate.out = entry.candidate.out or breaks(entry.candidate, limits)
    sizes = rounds(len(entries[0].samples))
    for round_, size in enumerate(sizes, 1):
        left = [entry for entry in entries if not entry.candidate.out]
        told = f"round {round_} of {len(sizes)}"
        expected = _answers(judge, size, told) if judge and left else []
        for entry in left:
            try:
                records = _answers(entry, size, told)
            except UserError as error:  # labels in another order, say
                entry.candidate.out = str(error)
                continue
            seen = [record for record in records if record.top or record.not_finite]
            entry.candidate.answers = [record.top[0] if record.top else -1 for record in seen]
            truth = [expected[record.row].top[:1] if judge else [entry.samples[record.row].label] for record in seen]
            entry.candidate.right = [[answer] == right for answer, right in zip(entry.candidate.answers, truth)]
        for gone in drop([entry.candidate for entry in entries], limits):
            say(f"{told}, {size} images: {gone.name} is out: {gone.out}")


def _answers(entry: Entry, size: int, told: str) -> List[Record]:
    """The records of the first `size` images, from the journal as far as it goes."""
    records = read_journal(entry.journal)
    if len(records) < size:
        progress = Progress(f"{told}, {entry.candidate.name}:")
        try:
            with Classifier(entry.artifact.path, lanes=lanes_here()) as classifier:
                evaluate(classifier, entry.samples[:size], journal=entry.journal, progress=progress)
        except UserError:
            entry.journal.unlink(missing_ok=True)
            raise
        finally:
            progress.end()
        records = read_journal(entry.journal)
    return records[:size]


def _lines(
    entries: Sequence[Entry], decision: Decision, limits: Limits, data: Path, judge: Optional[Entry]
) -> List[str]:
    """The table of candidates, and the advice."""
    what = "top-1" if judge is None else f"agreement with {judge.candidate.name}"
    rows = [["candidate", "ms", "MB", "images", f"{what}, %", ""]]
    for entry in sorted(entries, key=lambda entry: (bool(entry.candidate.out), entry.candidate.ms)):
        each = entry.candidate
        figures = f"{each.share:.1f} ({each.interval[0]:.1f} to {each.interval[1]:.1f})" if each.right else "-"
        rows.append(
            [
                each.name,
                f"{each.ms:.2f}{'!' if each.noisy else ''}",
                f"{each.mb:.1f}",
                str(len(each.right)),
                figures,
                each.out,
            ]
        )
    lines = [*aligned(rows, right=(1, 2, 3)).splitlines(), "In parentheses: 95 % confidence intervals.", ""]
    if any(entry.candidate.noisy for entry in entries):
        lines += ["!: timed while other programs ran, not known to 2 %. Close them, and give FORCE=1 (--force).", ""]
    if judge is not None:
        lines += [
            f"The images in {data} have no labels: how often a network answers as {judge.candidate.name}, the largest, stands "
            "for accuracy. It can't show where that one is wrong.",
            "",
        ]
    best, top = decision.best, decision.top
    if best is None:
        asked = {"MAX_MS": limits.max_ms, "MIN_TOP1": limits.min_top1, "MAX_MB": limits.max_mb}
        kept = ", ".join(f"{name}={value:g}" for name, value in asked.items() if value is not None)
        nearest = f" The most accurate left is {top.name}: {_figures(top, what)}." if top else ""
        return [*lines, f"Nothing keeps {kept}.{nearest} The table says what each lacks."]
    path = next(entry.artifact.path for entry in entries if entry.candidate is best)
    lines += [f"deploy    {path}", f"          on {best.backend}: {_figures(best, what)}", f"why       {decision.why}"]
    for other, how in _given_up(entries, decision):
        difference, low, high = points(other, best)
        faster = (
            f"{other.ms / best.ms:.1f} times the time"
            if other.ms >= best.ms
            else f"{best.ms / other.ms:.1f} times as fast"
        )
        lines.append(
            f"given up  {how} {other.name}: {difference:+.1f} points ({low:+.1f} to {high:+.1f}) on {len(other.right)} images, "
            f"{other.ms:.2f} ms ({faster}), {other.mb:.1f} MB{f'; {other.out}' if other.out else ''}"
        )
    return lines


def _given_up(entries: Sequence[Entry], decision: Decision) -> List[Tuple[Candidate, str]]:
    """The most accurate candidate and the fastest one, where they are not the one to deploy."""
    seen = [entry.candidate for entry in entries if entry.candidate.right]
    best, found = decision.best, []
    top = max(seen, key=lambda each: (points(each, best)[0] if best else 0, -each.ms))
    if best and top is not best and points(top, best)[0] > 0:
        found.append((top, "more accurate:"))
    fastest = min(seen, key=lambda each: each.ms)
    if best and fastest is not best and fastest is not top:
        found.append((fastest, "faster:"))
    return found


def _figures(each: Candidate, what: str) -> str:
    low, high = each.interval
    return f"{each.ms:.2f} ms, {what} {each.share:.1f} % ({low:.1f} to {high:.1f}, {len(each.right)} images), {each.mb:.1f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("advise"),
        description="Times the networks whose weights are here, judges them on more and more of your images, drops who is "
        "clearly out, and names the artifact to deploy on this machine, why, and what is given up. Images without labels are "
        "judged by the answers of the largest network. What was measured before is kept.",
        epilog="Exit status: 0 there is one to deploy, 1 nothing keeps the limits, 2 wrong use.",
    )
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="images, labelled as for evaluate or not"
    )
    parser.add_argument("--max-ms", type=number(float, above=0), metavar="X", help="for one image, from file to top-5")
    parser.add_argument(
        "--min-top1", type=number(float, 0, 100), metavar="X", help="%% that will do: the fastest that has it is named"
    )
    parser.add_argument("--max-mb", type=number(float, above=0), metavar="X", help="of the file that is deployed")
    parser.add_argument(
        "--variants", default="", metavar="V", help="lite0,b0,... (default: all whose weights are here)"
    )
    parser.add_argument("--precisions", default="fp32,fp16,int8", metavar="P", help="fp32,fp16,int8 (default)")
    parser.add_argument("--limit", type=positive, metavar="N", help="about N of the images")
    parser.add_argument("--force", action="store_true", help="time all candidates again")
    return parser


if __name__ == "__main__":
    run(main)
