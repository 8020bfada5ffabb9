"""What a new process pays before its first answer, and its memory: python -m runtime.measure.cold --model a.onnx --picture b.jpg

`cold_start` runs that command and takes the times by its own clock. Cold is the process; the files it reads are in the
system's cache after the first of the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ..command import run
from ..errors import UserError
from ..peak_memory import peak_bytes

RUNS = 3


class Cold(NamedTuple):
    """Medians of several new processes."""

    load_ms: float  # from the start of the process until the model is loaded
    start_ms: float  # until it has answered its first batch
    peak_mb: Optional[float]  # the most memory it ever held, in MB of 10^6; None where the system does not tell


def cold_start(model: Path, backend: str, batch: int, threads: Optional[int] = None, runs: int = RUNS) -> Cold:
    """Starts `runs` processes, one after another, each of which loads `model` and answers a batch of made-up images.

    Raises UserError with the process's own sentence if it fails.
    """
    command = [sys.executable, "-m", "runtime.measure.cold", "--model", str(model), "--backend", backend]
    command += ["--batch", str(batch), *(["--threads", str(threads)] if threads else [])]
    seen = [_one(command) for _ in range(runs)]
    peaks = [one.peak_mb for one in seen if one.peak_mb is not None]
    return Cold(
        statistics.median(one.load_ms for one in seen),
        statistics.median(one.start_ms for one in seen),
        max(peaks) if peaks else None,
    )


def _one(command: Sequence[str]) -> Cold:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            marks: Dict[str, Any] = {}
            for line in process.stdout:
                marks.update(json.loads(line), **{json.loads(line)["at"]: (time.perf_counter() - began) * 1e3})
            said = process.stderr.read().strip()
            if process.wait() != 0 or "answered" not in marks:
                raise UserError(f"A new process can't run {command[4]}: {said.splitlines()[-1] if said else 'it died'}")
        except BaseException:
            process.kill()
            raise
    return Cold(marks["loaded"], marks["answered"], marks.get("peak_mb"))


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m runtime.measure.cold", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, metavar="FILE")
    parser.add_argument("--backend", default="auto", metavar="B")
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N")
    options = parser.parse_args(argv)

    from ..networks.classifier import Classifier
    from ..networks.opening import open_network
    from .image import made_up

    pictures: List[Any] = [made_up()] * options.batch
    network = open_network(options.model, backend=options.backend, threads=options.threads)
    print(json.dumps({"at": "loaded"}), flush=True)
    logits = network.logits(network.preprocess(pictures))
    if isinstance(network, Classifier):
        network.predictions(logits)
    peak = peak_bytes()
    print(json.dumps({"at": "answered", "peak_mb": peak / 1e6 if peak else None}), flush=True)
    network.close()
    return 0


if __name__ == "__main__":
    run(main)
