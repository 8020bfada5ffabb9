"""Classifies images on a Triton server: python -m runtime.remote image.jpg --url localhost:8000"""

from __future__ import annotations

import argparse
import sys
import time
from typing import (
    IO,
    TYPE_CHECKING,
    Any,
    Dict,
    Iterable,
    Iterator,
    Optional,
    Sequence,
    Union,
)

from .command import number, positive, run, seconds
from .invocation import typed
from .output import Output, Result, add_output_options, output_of, read_pipe, report
from .pool import OrderedPool

if TYPE_CHECKING:
    from .images.find import NamedImage
    from .serving.client import Server

AT_ONCE = 8  # requests under way, so that the server has something to make batches of


def main(argv: Optional[Sequence[str]] = None) -> int:
    from .serving.client import PORTS, RETRIES, Server

    parser = argparse.ArgumentParser(
        prog=typed("remote"),
        description="Names what images show, as runtime.infer does, on a Triton server with the models of runtime.serving.",
        epilog="Exit status: 0 all classified, 1 some failed or the server did, 2 wrong use.",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder, a quoted pattern, or - for standard input"
    )
    parser.add_argument("--url", default="localhost", metavar="HOST:PORT", help=f"(default: localhost:{PORTS['http']})")
    parser.add_argument("--grpc", action="store_true", help=f"gRPC instead of HTTP (default port: {PORTS['grpc']})")
    parser.add_argument("--model", metavar="NAME", help="on the server, as b0 or b0_ensemble (default: the only one)")
    add_output_options(parser)
    parser.add_argument("--time", action="store_true", help="milliseconds for each request; one image after the other")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="S",
        help="for one attempt (default 30)",
    )
    parser.add_argument(
        "--retries", type=number(int, 0), default=RETRIES, metavar="N", help=f"of each request (default {RETRIES})"
    )
    parser.add_argument(
        "--at-once", type=positive, default=AT_ONCE, metavar="N", help=f"requests under way (default {AT_ONCE})"
    )
    options = parser.parse_args(argv)

    from .artifacts.artifact import RANDOM_WEIGHTS
    from .images.find import find_images

    images = find_images(options.images)
    server = Server(options.url, options.grpc, options.timeout, options.retries)
    name, config = server.model(options.model)
    known = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    model = {key: known[key] for key in ("variant", "precision") if key in known}
    if known.get("weights") == "random weights":
        model["weights"] = known["weights"]
        print(f"{name} at {server.host}: {RANDOM_WEIGHTS}", file=sys.stderr)
    output = output_of(options)
    at_once = 1 if output.time else options.at_once
    return report(_results(server, name, images, output, at_once, model), model, output.form)


def _results(
    server: Server, model_name: str, images: Iterable[NamedImage], output: Output, at_once: int, known: Dict[str, str]
) -> Iterator[Result]:
    """In the order of the images; `known` is what the model says of itself, and each answer adds what gave it."""
    from .images.decode import DECODING, ImageError
    from .serving.client import Answered, RequestError

    def one(image: NamedImage) -> Any:
        name, source = image
        began = time.perf_counter()
        try:
            content = _content(name, source, DECODING.max_bytes)
            read = time.perf_counter()
            answered = server.classify(model_name, content, output.top, name)
        except ImageError as error:
            return name, Answered([], str(error), {}), {}
        except RequestError as error:
            return name, Answered([], f"{name}: {error}", {}), {}
        ended = time.perf_counter()
        return (
            name,
            answered,
            {"read": (read - began) * 1e3, "request": (ended - read) * 1e3, "total": (ended - began) * 1e3},
        )

    with OrderedPool(one, images, at_once, 2 * at_once, "request") as answers:
        for name, answered, spent in answers:
            by = {**known, **answered.model}
            if "weights" in by:  # the last of the keys, as runtime.infer has it
                by["weights"] = by.pop("weights")
            yield Result(name, answered.predictions, answered.error, spent if output.time else {}, by)


def _content(name: str, source: Union[str, IO[bytes]], limit: int) -> bytes:
    """An encoded image. Raises ImageError, in the words of runtime.images.decode."""
    from .images.decode import ImageError

    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                content = file.read(limit + 1)
        else:
            content = read_pipe(source, limit)
    except OSError as error:
        raise ImageError(f"{name}: cannot be opened: {error.strerror}.") from None
    except ValueError as error:  # a NUL in the path
        raise ImageError(f"{name!r}: cannot be opened: {error}.") from None
    if len(content) > limit:
        raise ImageError(f"{name}: more bytes than the {limit} that are accepted: save it smaller first.")
    return content


if __name__ == "__main__":
    run(main)
