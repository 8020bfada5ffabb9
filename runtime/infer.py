"""Classifies photographs: python -m runtime.infer image.jpg [more.jpg folder/ 'photos/*.png' -]"""

from __future__ import annotations

import argparse
import sys
from typing import IO, TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple, Union

from runtime.command import add_decoding_options, add_model_options, open_model, positive, printable, run
from runtime.errors import UserError
from runtime.fleet.options import add_fleet_options, fleet_of, require_ray

if TYPE_CHECKING:
    from runtime.artifact import Artifact
    from runtime.classifier import Classifier, Prediction
    from runtime.pipeline import Answer

_READ_AT_ONCE = 1 << 20  # bytes, of a pipe


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.infer",
        description="Names what photographs show, on the model exported last or the one named.",
        epilog="Exit status: 0 all classified, 1 some failed, 2 wrong use.",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder, a quoted pattern, or - for standard input"
    )
    add_model_options(parser)
    add_output_options(parser)
    parser.add_argument(
        "--time",
        action="store_true",
        help="milliseconds for each stage; one image after the other, without overlapping them",
    )
    add_decoding_options(parser)
    table = add_fleet_options(parser)
    table.add_argument(
        "--out", metavar="FOLDER", help="write Parquet there, a row a picture, instead of lines; may be a URL"
    )
    table.add_argument(
        "--column", metavar="NAME", help="of a manifest or of Parquet: what holds the pictures or their paths"
    )
    table.add_argument("--fresh", action="store_true", help="do not go on with a job that was interrupted")
    options = parser.parse_args()
    fleet = fleet_of(options)
    if fleet is not None:
        require_ray(fleet.address)
        from runtime.fleet.inference import infer

        return infer(options, fleet)
    if options.out or options.column or options.fresh:
        raise UserError("--out, --column and --fresh are for many pictures on a cluster: add --ray.")

    from runtime.artifact import RANDOM_WEIGHTS
    from runtime.pictures import find_pictures

    pictures = find_pictures(options.images)
    alone = options.time or len(pictures) == 1
    lanes = 1
    if not alone:
        from runtime.pipeline import lanes_here

        lanes = lanes_here()
    classifier = open_model(options, lanes)
    if classifier.artifact.random:
        print(f"{classifier.artifact.path}: {RANDOM_WEIGHTS}", file=sys.stderr)
    model = facts(classifier.artifact, classifier.backend.name)
    return report(_results(classifier, answers(classifier, pictures, alone), options), model, options)


def _results(classifier: Classifier, answered: Iterable[Answer], options: argparse.Namespace) -> Iterator[Result]:
    for answer in answered:
        name, _ = answer.item
        if answer.error is not None:
            yield Result(name, [], str(answer.error))
            continue
        predictions = classifier.predictions(answer.logits[0][None], options.top)[0]
        spent = answer.milliseconds if options.time else {}
        yield Result(name, predictions, "", {**spent, "total": sum(spent.values())} if spent else {})


Picture = Tuple[str, Union[str, IO[bytes]]]  # name, and a path or a pipe


def answers(classifier: Classifier, pictures: Iterable[Picture], alone: bool) -> Iterator[Answer]:
    """What comes of each picture, in order. `alone`: each by itself, from the file to the answer."""
    from runtime.pipeline import one_by_one, overlapped

    limit = classifier.decoding.max_bytes

    def opened(picture: Picture) -> Tuple[Union[str, bytes], str]:
        name, source = picture
        return (source if isinstance(source, str) else read_pipe(source, limit)), name

    if alone:
        return one_by_one([classifier], pictures, opened, decoding=classifier.decoding)
    return overlapped(
        [classifier],
        pictures,
        opened,
        decoding=classifier.decoding,
        growing=True,
        alone=lambda picture: not isinstance(picture[1], str),
    )


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


# What is printed, whoever classified: runtime.remote prints the same.


class Result(NamedTuple):
    """What came of one picture."""

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
    """A block for each picture."""

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
    """One line for each class of each picture; failed pictures are on stderr only."""

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


if __name__ == "__main__":
    run(main)
