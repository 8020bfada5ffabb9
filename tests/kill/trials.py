"""Kills the commands that write artifacts at random moments, and looks at what is left.

python -m tests.kill --count 100            # of export, calibrate, engine and sweep, in turns
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.artifacts.artifact import read_artifact
from runtime.artifacts.onnx_metadata import verify
from runtime.backends.tensorrt.manifest import manifest_path, read_engine, read_manifest
from runtime.errors import UserError
from runtime.sweep.rows import read_rows
from tests.calibration.small_network import small_model, write_artifact, write_images
from tests.warm import Command, Ended, descendants_gone

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Stage:
    """A command, where it writes, and what must be there when it is done. `folder` is a fresh one."""

    prepare: Callable[[Path], None]
    words: Callable[[Path], tuple[object, ...]]
    files: tuple[str, ...]  # below the folder, once it is done
    environment: Callable[[Path], dict[str, str]] = lambda folder: {}


def _nothing(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _small(folder: Path) -> None:
    write_artifact(folder, small_model())
    write_images(folder / "photos", 8)


def _export(folder: Path) -> tuple[object, ...]:
    return ("export", "--variant", "lite0", "--weights", "random", "--resolution", 64, "--artifacts", folder)


def _calibrate(folder: Path) -> tuple[object, ...]:
    return ("calibration", "--variant", "small", "--calib", folder / "photos", "--artifacts", folder, "--threads", 1)


def _engine(folder: Path) -> tuple[object, ...]:
    return (
        "runtime.engine",
        "--variant",
        "small",
        "--precision",
        "fp32",
        "--target",
        "sm_89",
        "--opt-level",
        0,
        "--artifacts",
        folder,
    )


def _sweep(folder: Path) -> tuple[object, ...]:
    return (
        "tests.kill.sweep_in",
        folder,
        "--variants",
        "small",
        "--precisions",
        "fp32",
        "--backends",
        "onnxruntime",
        "--seconds",
        "0.05",
        "--images",
        folder / "photos",
        "--threads",
        "1",
    )


STAGES = {
    "export": Stage(_nothing, _export, ("lite0/lite0.fp32.onnx", "lite0/lite0.fp16.onnx", "latest")),
    "calibrate": Stage(
        _small,
        _calibrate,
        (
            "small/small.int8.onnx",
            "small/small.int8-fp16.onnx",
            "small/small.calibration.json",
            "small/small.calibration.html",
        ),
    ),
    "engine": Stage(_small, _engine, ("small/small.fp32.rtx-sm89.engine", "small/small.fp32.rtx-sm89.engine.json")),
    "sweep": Stage(_small, _sweep, ("reports/sweep/sweep.json", "reports/sweep/sweep.csv", "reports/sweep/sweep.html")),
}


def start(stage: str, folder: Path) -> Command:
    module, *arguments = STAGES[stage].words(folder)
    scratch = (
        folder / "tmp"
    )  # what a killed process leaves in the system's folder for temporary files is looked at, too
    scratch.mkdir(exist_ok=True)
    environment = {"EFFICIENTNET_ARTIFACTS": str(folder), "TMPDIR": str(scratch), "EFFICIENTNET_WEIGHTS": ""}
    return Command(str(module), *arguments, **environment)


def whole(folder: Path) -> int:
    """How many artifacts, engines, reports and pages are in `folder`; each must be whole. Raises UserError or AssertionError."""
    count = 0
    for path in sorted(folder.rglob("*")):
        # calibration/ is its cache: each file begins with its own checksum, and is as good as absent where that is wrong.
        if not path.is_file() or path.name.startswith(".") or path.parent.name == "calibration":
            continue
        count += 1
        if path.suffix == ".onnx":
            verify(path)
            read_artifact(path)
        elif path.suffix == ".engine":
            # Killed between the two, the engine is new and its manifest old or absent: refused when it is loaded.
            if manifest_path(path).is_file():
                try:
                    read_engine(path, read_manifest(path))
                except UserError as error:
                    assert "not what its manifest says" in str(error), error
        elif path.name == "sweep.json":
            read_rows(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        elif path.name == "latest":
            assert path.read_text().split()[0] in ("lite0", "small")
        else:
            count -= 1
    return count


def litter(folder: Path) -> list[str]:
    """Temporary files that are still there."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if path.is_file())


@dataclass
class Trials:
    """What was seen of one stage."""

    seconds: float = 0.0  # that it takes undisturbed
    kills: int = 0
    too_late: int = 0  # it had ended before
    left: int = 0  # files found whole after a kill
    litter: int = 0  # most temporary files at once
    scratch: int = 0  # entries left in TMPDIR in all
    failures: list[str] = field(default_factory=list)


def trials(stage: str, count: int, folder: Path, dice: random.Random) -> Trials:
    """Kills `stage` at `count` random moments, in turns the process alone and with its children; lets it go on in between.

    Over and over in one folder, so that what a kill leaves behind is there for the next run, which must complete.
    """
    seen = Trials()
    Command("platform").wait()  # the process that others fork from is there
    STAGES[stage].prepare(folder)
    began = time.monotonic()
    _complete(stage, folder, seen)
    seen.seconds = time.monotonic() - began
    for number in range(count):
        if number % 3 == 0:  # from nothing; else over what the last run left, damaged, so that there is work to do
            shutil.rmtree(folder)
            STAGES[stage].prepare(folder)
        else:
            for name in STAGES[stage].files[:1]:
                (folder / name).unlink(missing_ok=True)
        running = start(stage, folder)
        running.process.join(dice.uniform(0.02, 1.05) * seen.seconds)
        running.kill(group=number % 2 == 0)
        ended = running.wait()
        seen.kills += 1
        seen.too_late += ended.status == 0
        descendants_gone(folder)
        try:
            seen.left += whole(folder)
        except (UserError, AssertionError) as error:
            seen.failures.append(f"after kill {number}: {error}")
        seen.litter = max(seen.litter, len(litter(folder)))
        seen.scratch += len(list((folder / "tmp").iterdir()))
        shutil.rmtree(folder / "tmp")
        if number % 4 == 3:
            _complete(stage, folder, seen)
    _complete(stage, folder, seen)
    return seen


def _complete(stage: str, folder: Path, seen: Trials) -> Ended:
    """The stage undisturbed: must end well, with everything whole and no temporary file left."""
    ended = start(stage, folder).wait()
    shutil.rmtree(folder / "tmp")
    if ended.status != 0:
        seen.failures.append(f"the next run ended with {ended.status}: {ended.text[-300:]}")
    missing = [name for name in STAGES[stage].files if not (folder / name).is_file()]
    if missing:
        seen.failures.append(f"the next run left out {', '.join(missing)}")
    try:
        whole(folder)
    except (UserError, AssertionError) as error:
        seen.failures.append(f"after a whole run: {error}")
    for path in STAGES[stage].files:
        name = os.path.basename(path)
        if any(f"/.{name}." in f"/{left}" for left in litter(folder)):
            seen.failures.append(f"a whole run left {litter(folder)}")
            break
    return ended


def table(found: dict[str, Trials]) -> list[str]:
    lines = ["stage      undisturbed  kills  of them too late  files found whole  most litter  in TMPDIR  failures"]
    for stage, seen in found.items():
        lines.append(
            f"{stage:10} {seen.seconds:9.2f} s {seen.kills:6} {seen.too_late:17} {seen.left:18} {seen.litter:12} "
            f"{seen.scratch:10} {len(seen.failures):9}"
        )
        lines += [f"    {failure}" for failure in seen.failures]
    kills = sum(seen.kills for seen in found.values())
    return [*lines, f"tried {kills}, damaged {sum(len(seen.failures) for seen in found.values())}"]
