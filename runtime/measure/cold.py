"""Cold start and peak memory of a new process: python -m runtime.measure.cold --model a.onnx

`cold_start` runs that command and takes the times by its own clock. The process is new, but after the first run the system
has the files in its cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ..command import run
from ..errors import UserError
from ..invocation import environment, module, typed
from ..peak_memory import peak_bytes

RUNS = 3


class Cold(NamedTuple):
    """Medians of several new processes."""

    load_ms: float  # from the start of the process until the model is loaded
    start_ms: float  # until it has answered its first batch
    peak_mb: Optional[float]  # the most memory it ever held, in MB of 10^6; None where the system does not tell


def cold_start(model: Path, backend: str, batch: int, threads: Optional[int] = None, runs: int = RUNS) -> Cold:
    """Medians over `runs` processes, one after another, each of which loads `model` and answers a batch of made-up images.

    Raises UserError with the process's own last words if one fails.
    """
    command = [*module("measure.cold"), "--model", str(model), "--backend", backend]
    command += ["--batch", str(batch), *(["--threads", str(threads)] if threads else [])]
    seen = [_one(command) for _ in range(runs)]
    peaks = [one.peak_mb for one in seen if one.peak_mb is not None]
    return Cold(
        statistics.median(one.load_ms for one in seen),
        statistics.median(one.start_ms for one in seen),
        max(peaks) if peaks else None,
    )


def _one(command: Sequence[str]) -> Cold:
    """Times of one process, from the lines of JSON that it prints: {"at": "loaded"}, then {"at": "answered", ...}."""
    began = time.perf_counter()
    marks: Dict[str, Any] = {}
    # Into a file: a pipe that nobody reads while the process prints to stdout is full after 64 KiB, and both would hang.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment(), encoding="utf-8", errors="replace"
        )
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    elapsed = (time.perf_counter() - began) * 1e3
                    with contextlib.suppress(ValueError):  # a library's own words
                        mark = json.loads(line)
                        if isinstance(mark, dict) and "at" in mark:
                            marks.update(mark)
                            marks[mark["at"]] = elapsed
                status = process.wait()
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if status != 0 or not {"loaded", "answered"} <= set(marks):
        reason = said[-1] if said else f"it ended with status {status} and without a word"
        raise UserError(f"A new process can't run {command[4]}: {reason}")
    return Cold(marks["loaded"], marks["answered"], marks.get("peak_mb"))


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog=typed("measure.cold"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, metavar="FILE")
    parser.add_argument("--backend", default="auto", metavar="B")
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N")
    options = parser.parse_args(argv)

    from ..networks.classifier import Classifier
    from ..networks.opening import open_network
    from .image import made_up

    images: List[Any] = [made_up()] * options.batch
    network = open_network(options.model, backend=options.backend, threads=options.threads)
    print(json.dumps({"at": "loaded"}), flush=True)
    logits = network.logits(network.preprocess(images))
    if isinstance(network, Classifier):
        network.predictions(logits)
    peak = peak_bytes()
    print(json.dumps({"at": "answered", "peak_mb": peak / 1e6 if peak else None}), flush=True)
    network.close()
    return 0


if __name__ == "__main__":
    run(main)
