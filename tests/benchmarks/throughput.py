"""How well reading, decoding and the network overlap: the pipeline against its slower half, in turns in one process.

    python tests/benchmarks/throughput.py [--model FILE] [--images FOLDER] [--turns N] [--limit 0.9] [--json FILE]

In each turn, over the same images: decoding alone, on all cores; the network alone, an onnxruntime session as anyone
would open it, fed from memory; the pipeline that `runtime.infer folder/` iterates; `runtime.evaluate`. Ratios are taken
turn by turn, and their median counts, because a machine's speed drifts.

A network on a GPU leaves the cores to decoding: the bound is the slower of the two. A network on the CPU needs the
cores that decoding needs: each image costs the core-time of both, and no overlap can beat 1 / (1/decoding + 1/network).
Both bounds are printed. The first is held against a network that sleeps as long as a GPU would compute (once slower,
once quicker than decoding), the second against the real one. Exits with 1 if a ratio is below --limit.

Then memory: the pipeline over --memory images (a list that repeats the real ones), resident memory as it goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.backends.processor import processors  # noqa: E402
from runtime.images.find import below  # noqa: E402
from runtime.images.preprocess import preprocess  # noqa: E402
from runtime.infer import answers  # noqa: E402
from runtime.measure.dataset import Sample  # noqa: E402
from runtime.measure.evaluation import evaluate  # noqa: E402
from runtime.networks.classifier import Classifier  # noqa: E402
from runtime.networks.pipeline import lanes_here, overlapped  # noqa: E402


class Sleeping:
    """A classifier whose network takes `seconds` an image and no core, as on a GPU."""

    def __init__(self, like: Classifier, seconds: float, batch: int = 8) -> None:
        self.artifact, self.decoding, self.seconds = like.artifact, like.decoding, seconds
        self.backend: Any = type("Sleep", (), {"lanes": 1, "batch": batch, "name": "sleep"})()

    def logits(self, batch: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds * len(batch))
        return np.zeros((len(batch), 2), np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="default: the artifact exported last")
    parser.add_argument(
        "--images", type=Path, help="a folder of images (default: the two in tests/data, again and again)"
    )
    parser.add_argument("--pictures", type=int, default=192, metavar="N", help="a turn (default 192)")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--limit", type=float, default=0.9, help="lowest ratio that is accepted (default 0.9)")
    parser.add_argument(
        "--memory", type=int, default=10_000, metavar="N", help="images of the memory run (default 10000)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()

    classifier = Classifier(options.model, backend="onnxruntime", lanes=lanes_here())
    found = list(itertools.islice(below(str(options.images or ROOT / "tests" / "data")), options.pictures))
    files = list(itertools.islice(itertools.cycle(found), options.pictures))
    recipe, batch = classifier.artifact.preprocessing, classifier.backend.batch
    for file in found:
        preprocess(file, recipe)  # every file read once: the disk is not what is measured

    seconds = measured({"decoding": lambda: decode(files, recipe), "network": bare(classifier, len(files))}, 2)
    decoding = min(seconds["decoding"]) / len(files)
    gpus = {"slow GPU": Sleeping(classifier, 1.5 * decoding), "quick GPU": Sleeping(classifier, 0.5 * decoding)}
    ways: Dict[str, Callable[[], None]] = {
        "decoding": lambda: decode(files, recipe),
        "network": bare(classifier, len(files)),
        "infer": lambda: exhaust(answers(classifier, [(file, file) for file in files], False)),
        "evaluate": lambda: evaluated(classifier, files),
    }
    for name, gpu in gpus.items():
        ways[name] = lambda gpu=gpu: exhaust(overlapped([gpu], files, lambda file: (None, file), growing=True))  # type: ignore[misc]
    seconds = measured(ways, options.turns)

    cores = processors()
    lanes, where = classifier.backend.lanes, classifier.backend.description
    print(f"{classifier.artifact.path.name}, batch {batch}, {lanes} lanes, {cores} cores, {where}")
    print(
        f"{len(files)} images a turn, {len(found)} different ones, {options.turns} turns; images a second (median, best)"
    )
    for name in ways:
        rates = [len(files) / each for each in seconds[name]]
        print(f"  {name:<10} {statistics.median(rates):8.1f} {max(rates):8.1f}")
    turns = list(zip(seconds["decoding"], seconds["network"]))
    slower = [max(turn) for turn in turns]
    both = [sum(turn) for turn in turns]
    rows = []
    for name in ("infer", "evaluate"):
        rows.append((name, "1/(1/decoding + 1/network)", ratios(both, seconds[name]), True))
        rows.append((name, "the slower of the two", ratios(slower, seconds[name]), False))
    for name, gpu in gpus.items():
        bound = [max(each, gpu.seconds * len(files)) for each in seconds["decoding"]]
        rows.append((name, "the slower of decoding and its sleep", ratios(bound, seconds[name]), True))
    print(f"ratios to bounds (median, quartiles); those that apply must reach {options.limit}")
    good = True
    for name, bound_name, values, applies in rows:
        low, middle, high = statistics.quantiles(values, n=4)
        reached = middle >= options.limit
        good = good and (reached or not applies)
        verdict = (
            ("reached" if reached else "NOT REACHED") if applies else "does not apply: the network is on the same cores"
        )
        print(f"  {name:<10} / {bound_name:<38} {middle:.3f} ({low:.3f} to {high:.3f})  {verdict}")
    told: Dict[str, Any] = {"seconds": seconds, "pictures": len(files), "cores": cores}
    if options.memory:
        told["memory_mb"] = memory(classifier, found, options.memory)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    return 0 if good else 1


def measured(ways: Dict[str, Callable[[], None]], turns: int) -> Dict[str, List[float]]:
    """Seconds of each way in each turn; every second turn in the opposite order."""
    seconds: Dict[str, List[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(bound: Sequence[float], taken: Sequence[float]) -> List[float]:
    return [best / each for best, each in zip(bound, taken)]


def decode(files: Sequence[str], recipe: Any) -> None:
    with ThreadPoolExecutor(processors()) as pool:
        for future in [pool.submit(preprocess, file, recipe) for file in files]:
            future.result()


def bare(classifier: Classifier, count: int) -> Callable[[], None]:
    """onnxruntime as anyone would use it: all cores, one batch after the other."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(classifier.artifact.path), providers=["CPUExecutionProvider"])
    name, batch = session.get_inputs()[0].name, classifier.backend.batch
    pictures = classifier.artifact.preprocessing.empty(batch)
    pictures[...] = np.random.default_rng(0).integers(0, 2, pictures.shape)

    def run() -> None:
        for start in range(0, count, batch):
            session.run(None, {name: pictures[: count - start]})

    return run


def evaluated(classifier: Classifier, files: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples = [Sample(file, file, 0) for file in files]
        evaluate(classifier, samples, journal=Path(folder) / "journal", force=True)


def exhaust(things: Iterator[Any]) -> None:
    for _ in things:
        pass


def memory(classifier: Classifier, found: Sequence[str], count: int) -> List[float]:
    """Resident memory after each tenth of `count` images, MB."""
    pictures = ((file, file) for file in itertools.islice(itertools.cycle(found), count))
    resident = []
    for done, _ in enumerate(answers(classifier, pictures, False), 1):
        if done % max(1, count // 10) == 0:
            resident.append(rss())
    later = resident[1:] if len(resident) > 2 else resident
    slope = float(np.polyfit(np.linspace(0.2, 1.0, len(later)) * count, later, 1)[0]) if len(later) > 1 else 0.0
    print(f"resident memory over {count} images, MB: {' '.join(f'{each:.0f}' for each in resident)}")
    print(f"slope after the first tenth: {slope * 1e3:+.2f} MB for 1,000 images")
    return resident


def rss() -> float:
    """MB, now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # not Linux: the peak so far
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


if __name__ == "__main__":
    sys.exit(main())
