"""What infer prints of each image, wherever the network ran: here, on a server (remote) or on a cluster (fleet)."""

from __future__ import annotations

import argparse
import sys
from typing import IO, TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple

from .command import positive
from .printable import printable

if TYPE_CHECKING:
    from .artifacts.artifact import Artifact
    from .networks.classifier import Prediction

_READ_AT_ONCE = 1 << 20  # bytes, of a pipe


def read_pipe(pipe: IO[bytes], limit: int) -> bytes:
    """All of it, or one byte more than `limit`. Waiting for a pipe is not decoding, so it is not timed as such."""
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
    """What came of one image."""

    name: str
    predictions: List[Prediction]  # best first; [] for one that failed
    error: str = ""  # why it failed
    milliseconds: Dict[str, float] = {}  # by stage, where they were asked for


def facts(artifact: Artifact, backend: str) -> Dict[str, str]:
    """What answered, as it stands in each line of JSON."""
    found = {"variant": artifact.variant, "precision": artifact.precision, "backend": backend}
    return {**found, "weights": "random weights"} if artifact.random else found


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options that `report` goes by."""
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="classes to print (default 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line, for failed images too")
    form.add_argument("--csv", action="store_true", help="one line a class")


def report(results: Iterable[Result], model: Dict[str, str], options: argparse.Namespace) -> int:
    """Prints `results` as they come, and gives the exit status. `model`: `facts`, which may still grow meanwhile."""
    write = _JsonLines(model) if options.json else _Csv(model) if options.csv else _Text(model)
    failed = 0
    for result in results:
        if result.error:
            failed += 1
            print(f"error: {printable(result.error)}", file=sys.stderr)
            write.failure(result.name, result.error)
        else:
            write.result(result.name, result.predictions, result.milliseconds)
    return 1 if failed else 0


class _Text:
    """A block for each image."""

    def __init__(self, model: Dict[str, str]) -> None:
        self.model = model

    def result(self, name: str, predictions: List[Prediction], milliseconds: Dict[str, float]) -> None:
        print(f"{printable(name)}{'  (random weights)' if 'weights' in self.model else ''}")
        for prediction in predictions:
            print(f"  {prediction.probability:7.2%}  {printable(prediction.label)}")
        if milliseconds:
            print("  " + ", ".join(f"{stage} {spent:.1f} ms" for stage, spent in milliseconds.items()))
        sys.stdout.flush()

    def failure(self, name: str, reason: str) -> None:
        """Said on stderr already."""


class _JsonLines:
    """One object a line."""

    def __init__(self, model: Dict[str, str]) -> None:
        self.model = model

    def result(self, name: str, predictions: List[Prediction], milliseconds: Dict[str, float]) -> None:
        line = {"file": name, "predictions": [prediction._asdict() for prediction in predictions], **self.model}
        self._print({**line, "ms": {k: round(v, 3) for k, v in milliseconds.items()}} if milliseconds else line)

    def failure(self, name: str, reason: str) -> None:
        self._print({"file": name, "error": reason, **self.model})

    def _print(self, line: Dict[str, Any]) -> None:
        import json

        print(json.dumps(line), flush=True)


class _Csv:
    """One line for each class of each image; failed images are on stderr only."""

    def __init__(self, model: Dict[str, str]) -> None:
        import csv

        self.model = model
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.header = False

    def result(self, name: str, predictions: List[Prediction], milliseconds: Dict[str, float]) -> None:
        note = {key: value for key, value in self.model.items() if key == "weights"}
        if not self.header:
            stages = [f"{stage}_ms" for stage in milliseconds]
            self.writer.writerow(["file", "rank", "index", "label", "probability", *note, *stages])
            self.header = True
        rest = [*note.values(), *(f"{value:.3f}" for value in milliseconds.values())]
        for rank, (index, label, probability) in enumerate(predictions, 1):
            self.writer.writerow([printable(name), rank, index, printable(label), f"{probability:.6f}", *rest])
        sys.stdout.flush()

    def failure(self, name: str, reason: str) -> None:
        """Said on stderr already."""
