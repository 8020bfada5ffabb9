"""How classifications are printed, whether the network ran here (infer), on a server (remote) or on a cluster (fleet)."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, Iterable, List, NamedTuple

from .command import positive
from .printable import printable

if TYPE_CHECKING:
    from .artifacts.artifact import Artifact
    from .networks.classifier import Prediction

_READ_AT_ONCE = 1 << 20  # bytes, of a pipe


def read_pipe(pipe: IO[bytes], limit: int) -> bytes:
    """The whole pipe, or one byte more than `limit`. Waiting for a pipe does not count as decoding time."""
    raw = getattr(pipe, "raw", pipe)  # Python can't end while another thread is inside a buffered stream
    parts: List[bytes] = []
    size = 0
    while size <= limit:
        part = raw.read(min(_READ_AT_ONCE, limit + 1 - size))
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


class Result(NamedTuple):
    """The classification of one image, or why it failed."""

    name: str
    predictions: List[Prediction]  # best first; [] for one that failed
    error: str = ""  # why it failed
    milliseconds: Dict[str, float] = {}  # by stage, where they were asked for
    answered_by: Dict[str, str] = {}  # the network, where it may change from image to image: on a server


def answered_by(artifact: Artifact, backend: str) -> Dict[str, str]:
    """The network that answered, as each JSON line names it."""
    found = {"variant": artifact.variant, "precision": artifact.precision, "backend": backend}
    return {**found, "weights": "random weights"} if artifact.random else found


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options from which `output_of` makes an Output, but for --time: it means another thing to each command."""
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="classes to print (default 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line, for failed images too")
    form.add_argument("--csv", action="store_true", help="one line a class")


class Output(NamedTuple):
    """What is printed of each image, and how."""

    top: int = 5  # classes
    form: str = "text"  # a key of _FORMS
    time: bool = False  # milliseconds for each stage


def output_of(options: argparse.Namespace) -> Output:
    """What the options of `add_output_options` ask for."""
    form = "json" if options.json else "csv" if options.csv else "text"
    return Output(options.top, form, options.time)


def report(results: Iterable[Result], by: Dict[str, str], form: str) -> int:
    """Prints `results` as they come, and gives the exit status: 1 if an image failed. `by`: `answered_by` of the network."""
    write = _FORMS[form](by)
    count = failed = 0
    for result in results:
        count += 1
        if result.error:
            failed += 1
            print(f"error: {printable(result.error)}", file=sys.stderr)
        write(result)
    if failed and count > 1:
        print(f"{failed} of {count} images failed", file=sys.stderr)
    return 1 if failed else 0


class _Text:
    """A block for each image; failed images are on stderr only."""

    def __init__(self, answered_by: Dict[str, str]) -> None:
        self.note = "  (random weights)" if "weights" in answered_by else ""

    def __call__(self, result: Result) -> None:
        if result.error:
            return
        print(f"{printable(result.name)}{self.note}")
        for prediction in result.predictions:
            print(f"  {prediction.probability:7.2%}  {printable(prediction.label)}")
        if result.milliseconds:
            print("  " + ", ".join(f"{stage} {spent:.1f} ms" for stage, spent in result.milliseconds.items()))
        sys.stdout.flush()


class _JsonLines:
    """One object a line, for failed images too."""

    def __init__(self, answered_by: Dict[str, str]) -> None:
        self.answered_by = answered_by

    def __call__(self, result: Result) -> None:
        line: Dict[str, Any] = {"file": result.name}
        if result.error:
            line["error"] = result.error
        else:
            line["predictions"] = [prediction._asdict() for prediction in result.predictions]
        line.update(result.answered_by or self.answered_by)
        if result.milliseconds:
            line["ms"] = {stage: round(spent, 3) for stage, spent in result.milliseconds.items()}
        print(json.dumps(line), flush=True)


class _Csv:
    """One line for each class of each image; failed images are on stderr only."""

    def __init__(self, answered_by: Dict[str, str]) -> None:
        self.note = {key: value for key, value in answered_by.items() if key == "weights"}
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.header = False

    def __call__(self, result: Result) -> None:
        if result.error:
            return
        if not self.header:
            stages = [f"{stage}_ms" for stage in result.milliseconds]
            self.writer.writerow(["file", "rank", "index", "label", "probability", *self.note, *stages])
            self.header = True
        rest = [*self.note.values(), *(f"{value:.3f}" for value in result.milliseconds.values())]
        for rank, (index, label, probability) in enumerate(result.predictions, 1):
            self.writer.writerow([printable(result.name), rank, index, printable(label), f"{probability:.6f}", *rest])
        sys.stdout.flush()


_FORMS: Dict[str, Callable[[Dict[str, str]], Callable[[Result], None]]] = {
    "text": _Text,
    "json": _JsonLines,
    "csv": _Csv,
}
