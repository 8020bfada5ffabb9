"""Classifies images from a live source until it is stopped: python -m runtime.watch /dev/video0 (or a video, or a folder)"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, Dict, Generator, Iterator, Optional, Sequence, Tuple

from .command import add_decoding_options, add_model_options, number, open_model, positive, run, seconds
from .invocation import typed

if TYPE_CHECKING:
    from .images.decode import Source
    from .images.live import Stop, Stream
    from .networks.classifier import Classifier
    from .networks.pipeline import Answer

_READERS = 2  # threads that decode ahead if no frame may be dropped; the other cores are the network's

Write = Callable[[Dict[str, Any]], None]


def watch(
    classifier: Classifier,
    source: Stream,
    stop: Stop,
    write: Write,
    *,
    top: int = 5,
    min_probability: float = 0.0,
    count: Optional[int] = None,
    on_change: bool = False,
) -> str:
    """Classifies the images of `source` until it ends, `stop` is set or `count` images were classified. Returns why it ended.

    `write` gets an object for each image (with `on_change`, only if the best class is another than in the last), each
    event and each image that can't be used; docs/watch.md lists the keys.
    """
    note = {"weights": "random weights"} if classifier.artifact.random else {}
    classified = failed = 0
    best: Any = object()
    with contextlib.closing(_answers(classifier, source)) as answers:
        for answer in answers:
            item = answer.item
            now = {"time": _now()}
            if not hasattr(item, "image"):
                write({**now, "event": item.name, **item.about})
                continue
            if answer.error is not None:
                failed += 1
                write(
                    {**now, "event": "unreadable", **item.about, "error": str(answer.error), "dropped": source.dropped}
                )
                continue
            classified += 1
            found = classifier.predictions(answer.logits[0][None], top)[0]
            found = [prediction for prediction in found if prediction.probability >= min_probability]
            before, best = best, found[0].index if found else None
            if not on_change or best != before:
                spent = {**answer.milliseconds, "total": sum(answer.milliseconds.values())}
                spent["age"] = (time.monotonic() - item.came) * 1e3
                predictions = [prediction._asdict() for prediction in found]
                spent = {stage: round(value, 3) for stage, value in spent.items()}
                write({**now, **item.about, "predictions": predictions, **note, "ms": spent, "dropped": source.dropped})
            if classified == count:
                stop.pull("count")
                break
    reason = stop.reason or "end"
    now = {"time": _now()}
    totals = {"classified": classified, "failed": failed, "dropped": source.dropped, "missing": source.missing}
    write({**now, "event": "stopped", "reason": reason, **totals})
    return reason


def _answers(classifier: Classifier, source: Stream) -> Generator[Answer, None, None]:
    from .networks.pipeline import one_by_one, overlapped

    def opened(item: Any) -> Optional[Tuple[str, Source]]:
        return (item.name, item.image) if hasattr(item, "image") else None

    if source.live:  # to decode ahead would be to lag
        return one_by_one([classifier], source, opened, decoding=classifier.decoding)
    return overlapped([classifier], source, opened, batch=1, readers=_READERS, decoding=classifier.decoding)


def open_source(options: argparse.Namespace, stop: Stop) -> Stream:
    """The source that the command line names. Raises UserError if it isn't there, or OpenCV is needed and isn't there."""
    from .errors import UserError

    name, rate = options.source, options.rate
    if os.path.isdir(name):
        from .images.folder import Folder

        return Folder(name, stop, options.settle, options.existing, rate)
    from .images import capture

    camera = capture.is_camera(name)
    if not camera and not os.path.isfile(name):
        raise UserError(
            f"There is no {name}: give a folder, a video file, a camera (0, /dev/video0, rtsp://...) or a GStreamer pipeline."
        )
    open_it = capture.opener(name)
    if camera or options.live:
        return capture.Camera(name, open_it, stop, rate, options.keep, ends=not camera)
    return capture.Video(name, open_it, stop, rate)


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("watch"),
        description="Classifies the images of a camera, a video file or a folder. Prints one JSON object a line, for events too.",
        epilog="Exit status: 0 at the end of a video, after --limit, and on SIGTERM; 130 on Ctrl-C; 1 if the camera or the video "
        "can't be opened, 2 wrong use. A camera that is lost later is opened again.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="0 or /dev/video0, rtsp://... or http://..., a GStreamer pipeline that ends in appsink, a video file, or a folder",
    )
    add_model_options(parser)
    what = parser.add_argument_group("what is classified")
    what.add_argument(
        "--rate",
        type=number(float, above=0),
        metavar="FPS",
        help="at most so many images a second; of a video file, a second of the video",
    )
    what.add_argument("--limit", type=positive, metavar="N", help="stop after N classified images")
    what.add_argument("--count", dest="limit", type=positive, help=argparse.SUPPRESS)  # its name until 2026
    what.add_argument(
        "--keep",
        type=positive,
        default=1,
        metavar="N",
        help="frames of a camera that may wait; older are dropped (default 1)",
    )
    what.add_argument(
        "--live", action="store_true", help="play a video file at its own speed, dropping frames as of a camera"
    )
    what.add_argument("--existing", action="store_true", help="of a folder, also the files that are there at the start")
    what.add_argument(
        "--settle",
        type=seconds,
        default=0.5,
        metavar="S",
        help="a file in a folder is complete when it did not change for so many seconds (default 0.5)",
    )
    said = parser.add_argument_group("what is printed")
    said.add_argument("--top", type=positive, default=5, metavar="N", help="classes (default 5)")
    said.add_argument(
        "--min-probability",
        type=number(float, 0, 1),
        default=0.0,
        metavar="P",
        help="leave out classes below it, 0 to 1 (default 0)",
    )
    said.add_argument(
        "--on-change", action="store_true", help="an image only if its best class is another than the last one's"
    )
    add_decoding_options(parser)
    options = parser.parse_args(argv)

    from .artifacts.artifact import RANDOM_WEIGHTS
    from .images.capture import shown
    from .images.live import Stop

    stop = Stop()
    with _signals(stop), contextlib.ExitStack() as held:
        source = open_source(options, stop)  # before the network, which takes longer to load than a typing error to see
        held.callback(source.close)
        classifier = held.enter_context(open_model(options))
        artifact = classifier.artifact
        if artifact.random:
            print(f"{artifact.path}: {RANDOM_WEIGHTS}", file=sys.stderr)
        about = {"variant": artifact.variant, "precision": artifact.precision, "backend": classifier.backend.name}
        _print({"time": _now(), "event": "started", "source": shown(options.source), **about})
        reason = watch(
            classifier,
            source,
            stop,
            _print,
            top=options.top,
            min_probability=options.min_probability,
            count=options.limit,
            on_change=options.on_change,
        )
    if reason == "SIGINT":
        raise KeyboardInterrupt
    return 0


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """SIGTERM and Ctrl-C set `stop`, so that the current frame is finished. A second signal ends the process at once."""

    def pull(each: int, _: Any) -> None:
        stop.pull(signal.Signals(each).name)
        signal.signal(each, before[each])

    before: Dict[int, Any] = {}
    for each in map(int, (signal.SIGTERM, signal.SIGINT)):
        if signal.getsignal(each) is not signal.SIG_IGN:  # a shell's background job ignores Ctrl-C
            before[each] = signal.signal(each, pull)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _print(line: Dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    run(main)
