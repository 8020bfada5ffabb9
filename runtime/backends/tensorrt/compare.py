"""Whether INT8 is any faster than FP16 on this GPU: both engines timed in turns, and the layers that are to blame if not."""

from __future__ import annotations

import contextlib
import re
import statistics
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from ...artifacts.artifact import Artifact
from ...errors import UserError
from ...images.preprocess import Preprocessing
from ..cuda import open_device
from .engine import Engine, engine_of
from .options import BuildOptions
from .runner import Runner
from .site import Site

WARM, ROUNDS = 20, 100
FASTER = 1.02  # less is within what two runs of one engine differ by
BLAMED = 6  # layers that are named
_NODE = re.compile(r"/[\w./-]+/(?:Conv|Gemm)")  # names of the exported graph, as they stand in TensorRT's


def compare_with_fp16(artifact: Artifact, site: Site, options: BuildOptions) -> List[str]:
    """Lines that say how long a batch of `options.batch.best` takes in INT8 and in FP16, and what slows INT8 down.

    `artifact`: the one that the INT8 engine was built from. Builds the FP16 engine if there is none that fits.
    """
    best = options.batch.best
    engines: Dict[str, Engine] = {}
    for precision in ("int8", "fp16"):
        try:
            engine = engines[precision] = engine_of(artifact, site, precision)
            wanted = options._replace(precision=precision)
            if engine.current(wanted) is None:
                engine.build(wanted)
        except UserError as error:
            return [f"INT8 was not compared with FP16: {error}"]
    with running(engines) as runners:
        images = {name: noise(engine.source.preprocessing, best) for name, engine in engines.items()}
        rounds = in_turns({name: runner.timed for name, runner in runners.items()}, images)
        times = {name: statistics.median(values) for name, values in rounds.items()}
        lines = verdict(times, best)
        if times["fp16"] < FASTER * times["int8"]:
            layers = {name: runner.profiled(images[name], ROUNDS, WARM) for name, runner in runners.items()}
            lines += blame(layers["int8"], layers["fp16"])
    return lines


@contextlib.contextmanager
def running(engines: Mapping[str, Engine]) -> Iterator[Dict[str, Runner]]:
    """A runner for each of `engines`, which are there, on the GPU at the same time."""
    device, loaded, runners = open_device(), {}, {}  # type: Any, Dict[str, Any], Dict[str, Runner]
    try:
        with device:
            try:
                for name, engine in engines.items():
                    loaded[name] = engine.load(engine.content())
                    runners[name] = Runner(engine.site.trt, loaded[name], device)
                yield dict(runners)
            finally:
                for runner in runners.values():
                    runner.close()
                runners.clear()
                loaded.clear()
    finally:
        device.close()


def noise(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """A batch of the type and shape that the network takes, of noise as bright as images."""
    random, batch = np.random.default_rng(0), preprocessing.empty(count)
    batch[...] = random.integers(0, 256, batch.shape) if batch.dtype == np.uint8 else random.normal(0, 1, batch.shape)
    return batch


def in_turns(runs: Dict[str, Any], images: Dict[str, np.ndarray]) -> Dict[str, List[float]]:
    """Milliseconds that the GPU computes in each round, of each of `runs` (Runner.timed) on its `images`, called A B A B."""
    times: Dict[str, List[float]] = {name: [] for name in runs}
    for _ in range(WARM + ROUNDS):
        for name, timed in runs.items():
            times[name].append(timed(images[name])[1].compute)
    return {name: values[WARM:] for name, values in times.items()}


def verdict(times: Dict[str, float], batch: int) -> List[str]:
    """One sentence on the two times, milliseconds."""
    int8, fp16 = times["int8"], times["fp16"]
    pictures = "1 image" if batch == 1 else f"{batch} images"
    measured = f"{pictures}: INT8 {int8:.3f} ms, FP16 {fp16:.3f} ms (median of {ROUNDS}, in turns)"
    if fp16 >= FASTER * int8:
        return [f"{measured}: INT8 is {fp16 / int8:.2f} times as fast"]
    if int8 > FASTER * fp16:
        return [f"{measured}: INT8 is SLOWER, {int8 / fp16:.2f} times the time. Use PRECISION=fp16 here."]
    return [f"{measured}: INT8 is no faster. PRECISION=fp16 loses less accuracy for the same time."]


def blame(int8: Dict[str, float], fp16: Dict[str, float]) -> List[str]:
    """Which layers take longer in INT8 than in FP16, from the layer times of both engines, milliseconds."""
    of_int8, of_fp16 = by_node(int8), by_node(fp16)
    slower: List[Tuple[float, str]] = sorted(
        ((time - of_fp16[node], node) for node, time in of_int8.items() if node in of_fp16 and time > of_fp16[node]),
        reverse=True,
    )
    conversions = sum(time for name, time in int8.items() if not _NODE.search(name) and _converts(name))
    lines = [
        f"  slower in INT8: {node} {of_int8[node]:.3f} ms, {of_fp16[node]:.3f} in FP16" for _, node in slower[:BLAMED]
    ]
    if conversions:
        lines.append(f"  conversions between INT8 and FP16: {conversions:.3f} ms")
    if not lines:
        lines.append("  TensorRT doesn't say which layers: it has fused them under names of its own.")
    return lines


def by_node(times: Dict[str, float]) -> Dict[str, float]:
    """Time of each convolution of the exported graph; a fused layer's time is shared among its convolutions."""
    found: Dict[str, float] = {}
    for name, time in times.items():
        nodes = set(_NODE.findall(name))
        for node in nodes:
            found[node] = found.get(node, 0.0) + time / len(nodes)
    return found


def _converts(name: str) -> bool:
    return any(word in name.lower() for word in ("reformat", "quantize", "_int8_q", "_int8_dq", "cast"))
