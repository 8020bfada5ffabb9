"""Calibrates a variant to INT8: python -m calibration --variant v2-b0 --calib photos/ [--budget 99.3%]"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command import run
from runtime.printable import printable
from runtime.progress import Line, bar

if TYPE_CHECKING:
    from calibration.report.result import Result
    from calibration.search.sensitivity import Budget
    from calibration.train.training import Schedule


def main(argv: Sequence[str] | None = None) -> int:
    from calibration.collect.images import read_built_in, read_folder
    from calibration.quantise.placement import TARGETS
    from calibration.search.sensitivity import DEFAULT_BUDGET as default
    from calibration.stage import calibrate, request_digests, up_to_date
    from runtime.artifacts.artifact import artifacts_folder, find_artifact, read_artifact, require_classes

    parser = argparse.ArgumentParser(
        prog="python -m calibration",
        description="Writes artifacts/<variant>/<variant>.int8.onnx and .int8-fp16.onnx, and a report beside them.",
    )
    parser.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument("--calib", type=Path, metavar="DIR", help="images (default: scikit-image's samples)")
    parser.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="images to judge by (default: a quarter of the others)"
    )
    parser.add_argument(
        "--budget",
        metavar="LOSS",
        help="what may be lost: '0.5' points of top-1, or '99.3%%' of classes as FP32; as few layers as that takes stay "
        f"in float (default: as many as {default.sqnr:g} dB take and those that give half a dB more for a percent of "
        f"the MACs, at most {100 * default.allowance:g}%%)",
    )
    parser.add_argument(
        "--qat",
        action="store_true",
        help="leave no layer in float, but train all with INT8's roundings in place (needs no labels: FP32 teaches)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="of --qat (default 3)")
    parser.add_argument("--target", choices=sorted(TARGETS), default="tensorrt")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where to read and write (default: artifacts)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of onnxruntime (default: all cores)")
    parser.add_argument("--force", action="store_true", help="calibrate even if nothing has changed")
    options = parser.parse_args(argv)
    budget = _budget(parser, options.budget) or default
    training = _schedule(parser, options)

    folder = options.artifacts or artifacts_folder()
    artifact = read_artifact(find_artifact(options.variant, "fp32", folder))
    require_classes(artifact)
    shown = Bar(artifact.variant)
    pre, classes = artifact.preprocessing, artifact.classes

    def reading(done: int, of: int) -> None:
        shown("reading images", done, of)

    if options.calib:
        images = read_folder(options.calib, pre, classes, reading)
    else:
        images = read_built_in(pre, reading)
    judging = read_folder(options.evaluation, pre, classes, reading) if options.evaluation else None
    if budget.points is not None and images.labels is None:
        parser.error("--budget in points needs labels (a labels.csv in the folder of --calib); give one like 99.3%")
    digests = request_digests(artifact, images, judging, budget, options.target, training)
    if not options.force and up_to_date(artifact.variant, digests.all, folder):
        shown.close()
        print(
            f"{folder / artifact.variant} is calibrated already: same network, images and options (FORCE=1 repeats it)"
        )
        return 0
    result = calibrate(artifact, images, judging, budget, options.target, folder, options.threads, shown, training)
    shown.close()
    print("\n".join(map(printable, _lines(result, folder))))
    if options.budget and not result.met:
        print(f"error: the budget {options.budget} can't be met; the best was written.", file=sys.stderr)
        return 1
    return 0


class Bar:
    """The step and how much of it is done; on a log a line for each step."""

    def __init__(self, name: str) -> None:
        self.name, self.step, self.line = name, "", Line(pause=float("inf"))

    def __call__(self, step: str, done: int, of: int) -> None:
        of = max(done, of)
        if self.line.terminal:
            self.line.show(f"{self.name}: {bar(done, of, 24)} {step} {done}/{of}", now=step != self.step)
        else:
            self.line.show(f"{self.name}: {step} ...", now=step != self.step)
        self.step = step

    def close(self) -> None:
        self.line.end(erase=True)


def _budget(parser: argparse.ArgumentParser, text: str | None) -> Budget | None:
    from calibration.search.sensitivity import Budget

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|points?)?", text.strip())
    if not found or (found[2] == "%" and float(found[1]) > 100):
        parser.error(f"--budget {text}: give points of top-1 that may be lost, as 0.5, or a same-class rate, as 99.3%")
    value = float(found[1])
    return Budget(agreement=value / 100) if found[2] == "%" else Budget(points=value)


def _schedule(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Schedule | None:
    if options.epochs is not None and (not options.qat or options.epochs < 1):
        parser.error("--epochs goes with --qat and is at least 1")
    if not options.qat:
        return None
    from calibration.train.training import Schedule

    return Schedule(epochs=options.epochs) if options.epochs else Schedule()


def _lines(result: Result, folder: Path) -> list[str]:
    from calibration.report.speed import verdict

    best, training = result.best, result.training
    how = f"{len(best.kept)} layers chosen for float"
    if training:
        how = (
            f"all layers trained, {training.epochs} epochs" if result.trained else "training did harm, and was left out"
        )
    lines = [
        f"images     {result.pictures} of {result.origin}, {len(result.skipped)} skipped",
        f"in INT8      {best.share:.1%} of the MACs; {how}",
        f"judged on    {result.judged_on}",
    ]
    for score in result.scores:
        top1 = "" if score.top1 is None else f"top-1 {score.top1:5.1f} %   "
        sqnr = "exact" if score.sqnr >= 200 else f"{score.sqnr:5.1f} dB"
        lines.append(f"  {score.name:<18} {top1}same class {score.agreement:5.1f} %   SQNR {sqnr}")
    lines += [f"  {speed.engine:<18} {speed.milliseconds:.1f} ms" for speed in result.speeds]
    lines += [f"speed        {verdict(result.speeds)}"] if result.speeds else []
    lines += [f"NOTE         {warning}" for warning in result.warnings]
    where = folder / result.variant / result.variant
    lines += [f"wrote        {where}.int8.onnx, .int8-fp16.onnx, .calibration.html, .calibration.json"]
    return [*lines, f"took         {result.seconds:.0f} s"]


if __name__ == "__main__":
    run(main)
