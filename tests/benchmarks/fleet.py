"""A Ray cluster of this machine beside the pipeline of one process, in turns: what more actors bring, and what limits them.

    python tests/benchmarks/fleet.py --model FILE [--images FOLDER] [--pictures N] [--actors 1,2,4] [--turns N] [--json FILE]

A turn: runtime.infer's pipeline in this process with all cores; then the same images as a job with each number of actors.
A job's rate counts from its first group to its last, so that starting actors (a Python with Ray and pyarrow each) is not in
it; that time is in a column of its own. Ratios are taken turn by turn, and their median counts, because a machine's speed drifts.

The bound is what the cores could do with no overhead at all, from decoding alone and the network alone, on one core each,
measured here too. Then the driver by itself, which keeps what the actors answer: how many images a second one can take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.fleet.options import Fleet, require_ray  # noqa: E402

require_ray("local")

import ray  # noqa: E402

from runtime.backends.backend import Engines  # noqa: E402
from runtime.backends.processor import processors  # noqa: E402
from runtime.fleet.actor import Job, Model  # noqa: E402
from runtime.fleet.bulk import Running, answering_of, share_of  # noqa: E402
from runtime.fleet.decoding import Listing, as_table  # noqa: E402
from runtime.fleet.groups import cut  # noqa: E402
from runtime.fleet.results import Folder, form  # noqa: E402
from runtime.fleet.sources import Entry  # noqa: E402
from runtime.fleet.store import Store  # noqa: E402
from runtime.images.decode import DECODING  # noqa: E402
from runtime.images.find import NamedImage, below  # noqa: E402
from runtime.infer import answers  # noqa: E402
from runtime.networks.classifier import Classifier  # noqa: E402
from runtime.networks.pipeline import lanes_here, recipes_of, squares  # noqa: E402
from runtime.output import answered_by  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument(
        "--images", type=Path, help="a folder of images (default: the two in tests/data, again and again)"
    )
    parser.add_argument("--pictures", type=int, default=1000, metavar="N", help="a turn (default 1000)")
    parser.add_argument("--actors", default="1,2,4", metavar="N,...")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()

    found = sorted(below(str(options.images or ROOT / "tests" / "data")))
    files = list(itertools.islice(itertools.cycle(found), options.pictures))
    numbers = [int(word) for word in options.actors.split(",")]
    classifier = Classifier(options.model, backend="onnxruntime", lanes=lanes_here())
    costs = costs_of(options.model, files[:200])
    bound = processors() / (costs["decoding"] + costs["network"])
    turns: List[Dict[str, Any]] = []
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    ray.init(
        address="local",
        num_cpus=max(*numbers, processors()),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=50,
    )
    try:
        for turn in range(options.turns):
            began = time.perf_counter()
            for answer in answers(classifier, (NamedImage(file, file) for file in files), alone=False):
                classifier.predictions(answer.logits[0][None])
            rates: Dict[str, Any] = {"one process": len(files) / (time.perf_counter() - began)}
            for actors in numbers:
                rates[f"{actors} actors"], rates[f"start {actors}"] = spread(options.model, files, actors)
            print(f"turn {turn + 1}: " + ", ".join(f"{name} {value:.1f}" for name, value in rates.items()), flush=True)
            turns.append(rates)
    finally:
        ray.shutdown()
    kept = keeping(classifier, 400)
    print(f"\n{options.model.name}, {len(files)} images, {processors()} cores, {options.turns} turns; medians")
    print(
        f"decoding {costs['decoding'] * 1e3:.2f} ms, network {costs['network'] * 1e3:.2f} ms of one core an image: "
        f"bound {bound:.0f} images a second"
    )
    print(f"{'':14} {'a second':>9} {'of one process':>15} {'of the bound':>13} {'starting, s':>12}")
    table = []
    for name in ["one process", *(f"{actors} actors" for actors in numbers)]:
        rate = statistics.median(each[name] for each in turns)
        ratio = statistics.median(each[name] / each["one process"] for each in turns)
        start = statistics.median(each.get(f"start {name.split()[0]}", 0.0) for each in turns)
        table.append({"name": name, "rate": rate, "ratio": ratio, "of_bound": rate / bound, "start": start})
        print(f"{name:14} {rate:9.1f} {ratio:15.2f} {rate / bound:13.2f} {start:12.1f}")
    print(f"writing alone: {kept:.0f} images a second (groups of 400, fsync of each file)")
    if options.json:
        found_all = {
            "model": options.model.name,
            "costs": costs,
            "bound": bound,
            "table": table,
            "keeping": kept,
            "turns": turns,
        }
        options.json.write_text(json.dumps(found_all, indent=1))
    return 0


def costs_of(model: Path, files: List[str]) -> Dict[str, float]:
    """Seconds of one core for an image: decoding and cutting; the network in batches, with normalising."""
    classifier = Classifier(model, backend="onnxruntime", threads=1)
    recipe, batch = classifier.artifact.preprocessing, classifier.backend.batch
    began = time.perf_counter()
    for file in files:
        for square, _ in squares(file, None, [recipe]):
            np.asarray(square)
    decoding = (time.perf_counter() - began) / len(files)
    pixels = classifier.preprocess(files[:batch])
    times = []
    for _ in range(max(10, len(files) // batch)):
        began = time.perf_counter()
        classifier.logits(pixels)
        times.append(time.perf_counter() - began)
    return {"decoding": decoding, "network": statistics.median(times) / len(pixels)}


def spread(model: Path, files: List[str], actors: int) -> Any:
    """(images a second from the first group to the last, seconds to the first)."""
    artifact = Classifier(model, backend="onnxruntime", threads=1).artifact
    fleet = Fleet("local", actors)
    models = (
        Model(
            str(model.resolve()), artifact.metadata["sha256"], ray.put(model.read_bytes()), "onnxruntime", 1, Engines()
        ),
    )
    job = Job(models, DECODING, True, form(answered_by(artifact, "onnxruntime"), 5))
    share = share_of(fleet)
    answering = answering_of(job, fleet, share)
    recipes = recipes_of([artifact])
    groups = cut(len(files), answering.batch, recipes, actors, True)
    listing = Listing([ray.put(as_table([Entry(file, os.path.abspath(file)) for file in files]))])
    with tempfile.TemporaryDirectory() as out:
        folder, began, stamps = Folder(Store(out)), time.perf_counter(), []
        with Running(job, groups, range(len(groups)), listing, recipes, fleet, share, answering) as running:
            for group, part in running.parts():
                folder.keep(group, part.table, part.bad)
                stamps.append((time.perf_counter(), part.images))
    first, last = stamps[0][0], stamps[-1][0]
    return sum(images for _, images in stamps[1:]) / max(last - first, 1e-9), first - began


def keeping(classifier: Classifier, size: int) -> float:
    """Images a second that a driver writes to a folder here, in groups of `size`."""
    labels = classifier.artifact.labels
    make = partial(form({"variant": "x"}, 5), 0, [f"photos/{i:08}.jpg" for i in range(size)])
    logits = np.random.default_rng(0).normal(size=(1, len(labels))).astype(np.float32)
    answer = type("Answer", (), {"error": None, "logits": (logits[0],)})()
    table, bad = make([answer] * size, [classifier])
    with tempfile.TemporaryDirectory(dir=".") as out:
        folder = Folder(Store(out))
        began = time.perf_counter()
        for group in range(50):
            folder.keep(group, table, bad)
        return 50 * size / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
