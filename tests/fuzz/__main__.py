"""Feeds damaged files to everything that reads any: python -m tests.fuzz [--count 3000] [--seconds 60] [kind ...]"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from runtime.command import run
from tests.fuzz.running import Outcome, fuzz, kinds_of, table

KEPT = Path("build/fuzz")
_PIECE = 500  # cases that one process is given at once


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--count", type=int, default=3000, metavar="N", help="cases of each kind (default 3000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="stop after that long")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first case: others than last time"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    options = parser.parse_args()
    kinds, until = kinds_of(options.kinds), time.monotonic() + options.seconds
    stop = options.first + options.count
    pieces = [
        (kind, range(start, min(start + _PIECE, stop)))
        for start in range(options.first, stop, _PIECE)
        for kind in kinds
    ]
    outcomes = {kind: Outcome() for kind in kinds}
    with ProcessPoolExecutor(options.processes, get_context("fork")) as pool:
        work = [(kind, pool.submit(fuzz, kind, seeds, KEPT, until)) for kind, seeds in pieces]
        for kind, future in work:
            found, whole = future.result(), outcomes[kind]
            whole.tried += found.tried
            whole.taken += found.taken
            whole.refused += found.refused
            whole.slowest = max(whole.slowest, found.slowest)
            whole.failures.update(found.failures)
            whole.kept += found.kept
    print("\n".join(table(outcomes)))
    kept = [path for one in outcomes.values() for path in one.kept]
    if kept:
        print(f"kept {len(kept)} in {KEPT}/, the first: {kept[0]}", file=sys.stderr)
    return 1 if any(one.failures for one in outcomes.values()) else 0


if __name__ == "__main__":
    run(main)
