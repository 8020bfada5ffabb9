"""Kills export, calibrate, engine and sweep at random moments: python -m tests.kill [--count 100] [stage ...]"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from runtime.command import run
from tests.kill.trials import STAGES, table, trials


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--count", type=int, default=100, metavar="N", help="kills in all (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    options = parser.parse_args()
    stages = options.stages or list(STAGES)
    found = {}
    for i, stage in enumerate(stages):
        count = options.count * (i + 1) // len(stages) - options.count * i // len(stages)
        with tempfile.TemporaryDirectory() as folder:
            found[stage] = trials(stage, count, Path(folder) / "artifacts", random.Random(f"{stage} {options.seed}"))
        print("\n".join(table({stage: found[stage]})[1:-1]), flush=True)
    print("\n".join(table(found)))
    return 1 if any(seen.failures for seen in found.values()) else 0


if __name__ == "__main__":
    run(main)
