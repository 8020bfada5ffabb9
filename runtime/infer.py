"""Classifies images: python -m runtime.infer image.jpg [more.jpg folder/ 'photos/*.png' -]"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Iterable, Iterator, Optional, Sequence, Tuple, Union

from .command import add_decoding_options, add_model_options, open_model, run
from .fleet.options import add_fleet_options, fleet_of, require_ray
from .invocation import typed
from .output import Output, Result, add_output_options, answered_by, output_of, read_pipe, report
from .printable import printable

if TYPE_CHECKING:
    from .images.find import NamedImage
    from .networks.classifier import Classifier
    from .networks.pipeline import Answer


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("infer"),
        description="Classifies images with the model exported last, or the one named.",
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
    add_fleet_options(parser, table=True)
    options = parser.parse_args(argv)
    fleet = fleet_of(options)
    if fleet is not None:
        require_ray(fleet.address)
        from .fleet.inference import infer

        return infer(options, fleet)

    from .artifacts.artifact import RANDOM_WEIGHTS
    from .images.find import find_images

    images = find_images(options.images)
    # Nobody knows when a pipe is filled: the images before it are not to wait for that.
    alone = options.time or len(images) == 1 or any(not isinstance(image.source, str) for image in images)
    lanes = 1
    if not alone:
        from .networks.pipeline import lanes_here

        lanes = lanes_here()
    classifier = open_model(options, lanes)
    told = f"answering: {classifier.artifact.told} on {classifier.backend.description}"
    print(printable(told), file=sys.stderr)
    if classifier.artifact.random:
        print(f"{classifier.artifact.path}: {RANDOM_WEIGHTS}", file=sys.stderr)
    model = answered_by(classifier.artifact, classifier.backend.name)
    output = output_of(options)
    return report(_results(classifier, answers(classifier, images, alone), output), model, output.form)


def _results(classifier: Classifier, answered: Iterable[Answer], output: Output) -> Iterator[Result]:
    for answer in answered:
        name = answer.item.name
        if answer.error is not None:
            yield Result(name, [], str(answer.error))
            continue
        predictions = classifier.predictions(answer.logits[0][None], output.top)[0]
        spent = answer.milliseconds if output.time else {}
        yield Result(name, predictions, "", {**spent, "total": sum(spent.values())} if spent else {})


def answers(classifier: Classifier, images: Iterable[NamedImage], alone: bool) -> Iterator[Answer]:
    """The answer to each image, in order. `alone`: one image after the other, without overlapping."""
    from .networks.pipeline import one_by_one, overlapped

    limit = classifier.decoding.max_bytes

    def opened(image: NamedImage) -> Tuple[str, Union[str, bytes]]:
        return image.name, image.source if isinstance(image.source, str) else read_pipe(image.source, limit)

    if alone:
        return one_by_one([classifier], images, opened, decoding=classifier.decoding)
    return overlapped([classifier], images, opened, decoding=classifier.decoding, growing=True)


if __name__ == "__main__":
    run(main)
