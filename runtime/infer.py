"""Classifies photographs: python -m runtime.infer image.jpg [more.jpg folder/ 'photos/*.png' -]"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, Dict, List, Union

from runtime.command import printable, run

if TYPE_CHECKING:
    from runtime.classifier import Classifier, Prediction

STAGES = ("decode", "resize", "normalise", "network")


def main() -> int:
    from runtime.backends import BACKENDS, Engines

    parser = argparse.ArgumentParser(
        prog="python -m runtime.infer",
        description="Names what photographs show, on the model exported last or the one named.",
        epilog="Exit status: 0 all classified, 1 some failed, 2 wrong use.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, a quoted pattern, or - for standard input")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="FILE", help="an exported .onnx file, or an .engine built from one")
    model.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument("--precision", metavar="P", help="of the variant: fp32 (default, but in a bundle its own), fp16, int8")
    parser.add_argument("--backend", default="auto", metavar="B", help=f"auto (default), {', '.join(BACKENDS)}")
    parser.add_argument("--no-rebuild", action="store_true", help="fail rather than build a TensorRT engine that doesn't fit")
    parser.add_argument("--trust-engine", action="store_true", help="load an engine without a manifest: it is code, and will run")
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads for one image (default: the backend's)")
    parser.add_argument("--top", type=_positive, default=5, metavar="N", help="classes to print (default 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line, for failed images too")
    form.add_argument("--csv", action="store_true", help="one line a class")
    parser.add_argument("--time", action="store_true", help="milliseconds for each stage")
    options = parser.parse_args()
    if options.model and options.precision:
        parser.error("--precision goes with a variant: the file that --model names has its own")

    from runtime.artifact import RANDOM_WEIGHTS
    from runtime.classifier import Classifier
    from runtime.decode import ImageError
    from runtime.pictures import find_pictures

    pictures = find_pictures(options.images)
    classifier = Classifier(
        options.model,
        variant=options.variant,
        precision=options.precision,
        backend=options.backend,
        threads=options.threads,
        engines=Engines(rebuild=not options.no_rebuild, trust=options.trust_engine),
    )
    if classifier.artifact.random:
        print(f"{classifier.artifact.path}: {RANDOM_WEIGHTS}", file=sys.stderr)
    write = _JsonLines(classifier) if options.json else _Csv(classifier) if options.csv else _Text(classifier)
    failed = 0
    for name, source in pictures:
        try:
            picture = source if isinstance(source, str) else source.read()  # waiting for a pipe is not decoding
            predictions, milliseconds = classify(classifier, picture, name, options.top)
        except ImageError as error:
            failed += 1
            print(f"error: {printable(str(error))}", file=sys.stderr)
            write.failure(name, str(error))
            continue
        write.result(name, predictions, milliseconds if options.time else {})
    return 1 if failed else 0


def classify(classifier: Classifier, source: Union[str, bytes], name: str, top: int) -> Any:
    """(predictions, milliseconds by stage) for one picture. Raises ImageError that calls the picture `name`."""
    from runtime.decode import open_image
    from runtime.preprocess import normalize, resize_crop

    recipe, clock = classifier.artifact.preprocessing, [time.perf_counter()]
    image = open_image(source, name)
    clock.append(time.perf_counter())
    image = resize_crop(image, recipe)
    clock.append(time.perf_counter())
    batch = normalize(image, recipe)[None]
    clock.append(time.perf_counter())
    logits = classifier.logits(batch)
    clock.append(time.perf_counter())
    spent = {stage: (end - start) * 1e3 for stage, start, end in zip(STAGES, clock, clock[1:])}
    return classifier.predictions(logits, top)[0], {**spent, "total": (clock[-1] - clock[0]) * 1e3}


class _Text:
    """A block for each picture."""

    def __init__(self, classifier: Classifier) -> None:
        self.note = "  (random weights)" if classifier.artifact.random else ""

    def result(self, name: str, predictions: List[Prediction], milliseconds: Dict[str, float]) -> None:
        print(f"{printable(name)}{self.note}")
        for prediction in predictions:
            print(f"  {prediction.probability:7.2%}  {printable(prediction.label)}")
        if milliseconds:
            print("  " + ", ".join(f"{stage} {spent:.1f} ms" for stage, spent in milliseconds.items()))
        sys.stdout.flush()

    def failure(self, name: str, reason: str) -> None:
        """Said on stderr already."""


class _JsonLines:
    """One object a line."""

    def __init__(self, classifier: Classifier) -> None:
        artifact = classifier.artifact
        self.model = {"variant": artifact.variant, "precision": artifact.precision, "backend": classifier.backend.name}
        if artifact.random:
            self.model["weights"] = "random weights"

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

    def __init__(self, classifier: Classifier) -> None:
        import csv

        self.note = {"weights": "random weights"} if classifier.artifact.random else {}
        self.writer = csv.writer(sys.stdout, lineterminator="\n")
        self.header = False

    def result(self, name: str, predictions: List[Prediction], milliseconds: Dict[str, float]) -> None:
        if not self.header:
            stages = [f"{stage}_ms" for stage in milliseconds]
            self.writer.writerow(["file", "rank", "index", "label", "probability", *self.note, *stages])
            self.header = True
        rest = [*self.note.values(), *(f"{value:.3f}" for value in milliseconds.values())]
        for rank, (index, label, probability) in enumerate(predictions, 1):
            self.writer.writerow([printable(name), rank, index, printable(label), f"{probability:.6f}", *rest])
        sys.stdout.flush()

    def failure(self, name: str, reason: str) -> None:
        """Said on stderr already."""


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return value


if __name__ == "__main__":
    run(main)
