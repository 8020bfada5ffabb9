"""The fuzzer with a target that is wrong in some of the cases: python -m tests.fuzz.faulty FOLDER FAULT [FAULT ...]

Prints for each fault, a statement of Python: failures, cases tried, files kept in FOLDER/0, FOLDER/1, ..., and what it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fuzz import cases, running, targets

if __name__ == "__main__":
    running.SECONDS = 0.5
    for number, fault in enumerate(sys.argv[2:]):

        def target(content: bytes, folder: Path, fault: str = fault) -> None:
            if len(content) % 3 == 0:
                exec(fault)

        targets.KINDS["labels"] = targets.Kind(cases.label_files, target)
        found = running.fuzz("labels", range(8), Path(sys.argv[1]) / str(number))
        print(sum(found.failures.values()), found.tried, len(found.kept), *found.failures)
