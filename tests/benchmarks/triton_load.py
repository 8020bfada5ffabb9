"""Throughput and latency of a Triton server on this machine beside the bare Classifier, in turns: make bench-triton

Every client asks for the next image when it has the answer to the last (closed loop). Clients, server and the bare
Classifier share this machine's cores, never at the same moment but for clients and server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from runtime import Classifier  # noqa: E402
from runtime.artifacts.artifact import find_artifact, read_artifact  # noqa: E402
from runtime.command import positive, run  # noqa: E402
from runtime.errors import UserError  # noqa: E402
from runtime.images.find import find_images  # noqa: E402
from runtime.networks.pipeline import lanes_here, overlapped  # noqa: E402
from runtime.serving.client import Server  # noqa: E402
from runtime.serving.repository import Wanted, write_repository  # noqa: E402
from tests.serving.triton import Triton, wheel  # noqa: E402


class Round(NamedTuple):
    """One turn of one way."""

    seconds: float
    milliseconds: List[float]  # of each image; [] where they overlap
    pictures: int
    batch: float = 0.0  # images a run, on average


def bare(classifier: Classifier, pictures: Sequence[bytes], seconds: float) -> Round:
    """One image after the other."""
    spent: List[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        classifier(pictures[len(spent) % len(pictures)])
        spent.append((time.perf_counter() - start) * 1e3)
    return Round(time.perf_counter() - began, spent, len(spent))


def in_pipeline(classifier: Classifier, pictures: Sequence[bytes], seconds: float) -> Round:
    """As runtime.infer takes many."""
    began = time.perf_counter()

    def items() -> Any:
        number = 0
        while time.perf_counter() - began < seconds:
            yield pictures[number % len(pictures)]
            number += 1

    count = 0
    for answer in overlapped([classifier], items(), lambda image: (None, image)):
        classifier.predictions(answer.logits[0][None])
        count += 1
    return Round(time.perf_counter() - began, [], count)


def served(url: str, grpc: bool, triton: Triton, clients: int, pictures: Sequence[bytes], seconds: float) -> Round:
    before = triton.statistics("served")
    spent: List[List[float]] = [[] for _ in range(clients)]
    server = Server(url, grpc, retries=0)
    ready = threading.Barrier(clients + 1)
    failed: List[Exception] = []

    def live(which: int) -> None:
        own = spent[which]
        try:
            server.classify("served", pictures[which % len(pictures)], 5, "it")  # the connection
            ready.wait()
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                start = time.perf_counter()
                server.classify("served", pictures[(which + len(own)) % len(pictures)], 5, "it")
                own.append((time.perf_counter() - start) * 1e3)
        except Exception as error:
            failed.append(error)
            ready.abort()

    threads = [threading.Thread(target=live, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    ended = time.perf_counter()
    if failed:
        raise failed[0]
    after = triton.statistics("served")
    runs, count = (int(after[key]) - int(before[key]) for key in ("execution_count", "inference_count"))
    every = [ms for own in spent for ms in own]
    return Round(ended - began, every, len(every), count / max(1, runs))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", metavar="FILE", help="an exported .onnx file (default: the variant exported last)")
    parser.add_argument("--images", default=str(ROOT / "tests" / "data"), metavar="DIR", help="(default: tests/data)")
    parser.add_argument("--clients", default="1,4,16", metavar="N", help="at once (default 1,4,16)")
    parser.add_argument("--instances", type=positive, metavar="N", help="processes of the model (default: as written)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of a turn (default 5)")
    parser.add_argument("--turns", type=positive, default=3, metavar="N", help="of each way (default 3)")
    parser.add_argument("--grpc", action="store_true", help="gRPC instead of HTTP")
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures into this file too")
    options = parser.parse_args()
    if wheel() is None:
        raise UserError(
            "The server comes with the wheel nvidia-pytriton, which is not installed: make test-triton sets it up."
        )
    model = Path(options.model).resolve() if options.model else find_artifact().resolve()
    artifact = read_artifact(model)
    pictures = [Path(str(source)).read_bytes() for _, source in find_images([options.images])]
    counts = [int(number) for number in options.clients.split(",")]

    with tempfile.TemporaryDirectory(prefix="triton-load-") as place:
        folder = Path(place)
        given = folder / "artifacts" / artifact.variant
        given.mkdir(parents=True)
        (given / model.name).symlink_to(model)
        os.environ["EFFICIENTNET_ARTIFACTS"] = str(given.parent)
        wanted = Wanted(("python",), "cpu", "onnxruntime", options.instances)
        list(write_repository([artifact.variant], artifact.precision, folder / "models", wanted))
        (folder / "models" / artifact.variant).rename(folder / "models" / "served")  # whatever it is called
        config = folder / "models" / "served" / "config.pbtxt"
        config.write_text(config.read_text().replace(f'name: "{artifact.variant}"', 'name: "served"', 1))
        alone = Classifier(model, backend="onnxruntime")
        lanes = Classifier(model, backend="onnxruntime", lanes=lanes_here())
        with Triton(folder / "models", folder) as triton:
            url = triton.grpc_url if options.grpc else triton.url
            ways: Dict[str, Any] = {
                "Classifier, one after the other": lambda: bare(alone, pictures, options.seconds),
                "Classifier in runtime.networks.pipeline": lambda: in_pipeline(lanes, pictures, options.seconds),
            }
            for count in counts:
                ways[f"Triton, {count} client{'s' if count > 1 else ''}"] = lambda count=count: served(
                    url, options.grpc, triton, count, pictures, options.seconds
                )
            rounds: Dict[str, List[Round]] = {name: [] for name in ways}
            for way in ways.values():  # the first run of each is not counted
                way()
            for turn in range(options.turns):
                for name, way in ways.items():
                    found = way()
                    rounds[name].append(found)
                    print(f"turn {turn + 1}: {name}: {found.pictures / found.seconds:.1f} a second", file=sys.stderr)
    rows = [row_of(name, rounds[name], rounds["Classifier, one after the other"]) for name in rounds]
    print(
        f"{artifact.variant} {artifact.precision}, {len(pictures)} images, {'gRPC' if options.grpc else 'HTTP'}, "
        f"{options.turns} turns of {options.seconds:g} s each\n"
    )
    print(f"{'':34}{'a second':>10}{'to bare':>9}{'p50 ms':>9}{'p99 ms':>9}{'batch':>7}")
    for row in rows:
        figures = [f"{row[key]:.1f}" if row[key] else "-" for key in ("p50_ms", "p99_ms", "batch")]
        print(
            f"{row['way']:34}{row['per_second']:10.1f}{row['to_bare']:9.2f}{figures[0]:>9}{figures[1]:>9}{figures[2]:>7}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def row_of(name: str, rounds: Sequence[Round], base: Sequence[Round]) -> Dict[str, Any]:
    """Medians over the turns; percentiles over the images of all."""
    every = [ms for each in rounds for ms in each.milliseconds]
    rates = [each.pictures / each.seconds for each in rounds]
    ratios = [rate / (each.pictures / each.seconds) for rate, each in zip(rates, base)]
    p50, p99 = np.percentile(every, [50, 99]) if every else (0.0, 0.0)
    batch = float(np.median([each.batch for each in rounds]))
    return {
        "way": name,
        "per_second": float(np.median(rates)),
        "to_bare": float(np.median(ratios)),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "batch": batch,
        "pictures": sum(each.pictures for each in rounds),
    }


if __name__ == "__main__":
    run(main)
