"""Which networks are there, and what is known of them: python -m runtime.artifacts [--artifacts DIR] [--reports DIR]"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from ..backends.tensorrt.manifest import read_manifest, require_current
from ..command import run
from ..errors import UserError
from ..invocation import typed, without_make
from ..table import aligned
from .artifact import PRECISIONS, PROJECT, artifacts_folder, head_named, latest
from .facts import Facts, facts_of
from .identity import why_stale
from .onnx_metadata import read_metadata

_HEAD = ["", "name", "variant", "file", "MB", "classes", "top-1 %", "agreement %", "ms", "weights"]
_NUMBERS = (4, 5, 6, 7, 8)


class Measured(NamedTuple):
    """What was measured of a file: in sweeps, and by its own calibration."""

    top1: Optional[float] = None  # %
    agreement: Optional[float] = None  # top-1 agreement with FP32, %
    ms: Optional[float] = None  # one image, whole way, on the fastest backend


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("artifacts"),
        description="A table of the networks that are there. * marks the one that answers if none is named. Accuracy and "
        "latency are those that sweeps measured, the agreement of an INT8 file else its calibration's.",
    )
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where they are (default: artifacts)")
    parser.add_argument(
        "--reports",
        type=Path,
        default=Path("reports"),
        metavar="DIR",
        help="where sweeps' reports are (default: reports)",
    )
    options = parser.parse_args(argv)
    folder = options.artifacts or artifacts_folder()
    rows, stale = [list(_HEAD)], []  # type: List[List[str]], List[str]
    measured = _of_sweeps(options.reports)
    default = (*latest(folder), "fp32")[:2]
    for home in sorted(path for path in folder.glob("*") if path.is_dir()):
        first = True
        for precision in PRECISIONS:
            path = home / f"{home.name}.{precision}.onnx"
            if not path.is_file():
                continue
            try:
                metadata = read_metadata(path)
                if metadata.get("project") != PROJECT:
                    continue
                facts = facts_of(metadata)
            except (UserError, KeyError, ValueError, TypeError) as error:
                rows.append(["", home.name, "", f"{precision} DAMAGED", *[""] * 5, str(error)])
                continue
            why = why_stale(path, metadata)
            stale += [why] if why else []
            mark = "*" if (home.name, precision) == tuple(default) else ""
            rows.append(
                [mark, *_row(path, metadata, facts, bool(why), measured.get(metadata.get("sha256", "")), first)]
            )
            first = False
        for engine in sorted(home.glob("*.engine")):
            mark = ""
            try:
                require_current(engine, read_manifest(engine))
            except UserError as error:
                mark = " STALE"
                stale.append(str(error))
            rows.append(["", "", "", f"{engine.name[len(home.name) + 1 :]}{mark}", _mb(engine), *[""] * 5])
    if len(rows) == 1:
        raise UserError(f"There is no model in {folder}/ yet: run 'make export VARIANT=b0'.")
    print(aligned(rows, right=_NUMBERS))
    for why in stale:
        print(f"warning: {without_make(why)}", file=sys.stderr)
    return 0


def _row(
    path: Path, metadata: Dict[str, str], facts: Facts, stale: bool, measured: Optional[Measured], first: bool
) -> List[str]:
    found = measured or Measured()
    agreement = found.agreement
    if agreement is None and "calibration" in metadata:
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
            agreement = float(json.loads(metadata["calibration"])["scores"][-1]["same_class"])
    network = "third-party" if facts.third_party else facts.more.get("network", head_named(facts.variant)[0])
    return [
        facts.variant if first else "",
        network if first else "",
        f"{metadata['precision']}{' STALE' if stale else ''}",
        _mb(path),
        str(facts.classes or facts.head),
        *("" if value is None else f"{value:.1f}" for value in (found.top1, agreement, found.ms)),
        facts.weights,
    ]


def _mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f}"


def _of_sweeps(reports: Path) -> Dict[str, Measured]:
    """By the artifact's sha256, from every sweep.json in folders of `reports`; later ones win."""
    found: Dict[str, Measured] = {}
    for file in sorted(reports.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for row in json.loads(file.read_bytes())["rows"]:
                before = found.get(row["sha256"], Measured())
                times = [before.ms, row["total"]["p50"] if row.get("batch") == 1 and "total" in row else None]
                found[row["sha256"]] = Measured(
                    row.get("top1", before.top1),
                    row.get("agreement", before.agreement),
                    min((time for time in times if time is not None), default=None),
                )
    return found


if __name__ == "__main__":
    run(main)
