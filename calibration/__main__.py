"""Calibrates a variant to INT8: python -m calibration --variant v2-b0 --calib photos/ [--budget 25dB]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.command import run
from runtime.printable import printable
from runtime.progress import Progress

if TYPE_CHECKING:
    from calibration.report.result import Result
    from calibration.train.training import Schedule


def main(argv: Sequence[str] | None = None) -> int:
    from calibration.budget import DEFAULT_BUDGETS, read_budget
    from calibration.collect.images import read_built_in, read_folder
    from calibration.quantise.blocks import FORMS
    from calibration.stage import SEARCH, TARGETS, Request, calibrate, up_to_date
    from runtime.artifacts.artifact import artifacts_folder, find_artifact, read_artifact, require_classes

    defaults = " or ".join(f"{budget.sqnr:g}dB for {target}" for target, budget in DEFAULT_BUDGETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m calibration",
        description="Writes artifacts/<variant>/<variant>.int8.onnx and .int8-fp16.onnx, and a report beside them.",
    )
    parser.add_argument("--variant", metavar="NAME", help="an exported variant (default: the one exported last)")
    parser.add_argument(
        "--calib", type=Path, metavar="DIR", help="images (default: scikit-image's samples, enough to try it out)"
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="images to judge by (default: a quarter of the others)"
    )
    parser.add_argument(
        "--budget",
        metavar="GOAL",
        help="what INT8 must keep, in as little predicted time as that takes: the logits' signal to noise, as 25dB; a top-1 "
        "agreement with FP32, as 99%%; or points of top-1 that may be lost, as 0.5. Shares of images are known no better than "
        f"their number allows, dB are (default: {defaults})",
    )
    parser.add_argument(
        "--placement",
        choices=(SEARCH, *(name for name in FORMS if name != "fp16")),
        default=SEARCH,
        help="which tensors are INT8. search: each block in one of the forms below or in FP16, as the budget allows (default); "
        "the others alike in every block. chain: all, so that TensorRT 10.15 and later (Lite: any) goes from INT8 to INT8; "
        "pointwise: the inputs of 1x1 convolutions; project: the inputs of projections",
    )
    parser.add_argument(
        "--qat",
        action="store_true",
        help="leave no layer in higher precision, train all with INT8's roundings in place (without labels: FP32 teaches)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="of --qat (default 3)")
    parser.add_argument(
        "--target", choices=TARGETS, default="tensorrt", help="cpu: also time it on this machine (default: tensorrt)"
    )
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where to read and write (default: artifacts)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of onnxruntime (default: all cores)")
    parser.add_argument("--force", action="store_true", help="calibrate anew, without anything that earlier runs left")
    options = parser.parse_args(argv)
    budget = read_budget(options.budget) if options.budget is not None else None
    training = _schedule(parser, options)

    folder = options.artifacts or artifacts_folder()
    artifact = read_artifact(find_artifact(options.variant, "fp32", folder))
    require_classes(artifact)
    progress, pre, classes = Progress(f"{artifact.variant}:"), artifact.preprocessing, artifact.classes
    if options.calib:
        images = read_folder(options.calib, pre, classes, progress)
    else:
        images = read_built_in(pre, progress)
    judging = read_folder(options.evaluation, pre, classes, progress) if options.evaluation else None
    if budget and budget.points is not None and images.labels is None:
        why = f": {images.warnings[0]}" if images.warnings else " (a labels.csv in the folder of --calib)"
        parser.error(f"--budget in points of top-1 needs labels{why}; without any give dB, as 25dB")
    request = Request(artifact, images, judging, budget, options.target, training, options.placement)
    if not options.force and up_to_date(request, folder):
        progress.end(erase=True)
        print(
            f"{folder / artifact.variant} is calibrated already: same network, images and options (FORCE=1 repeats it)"
        )
        return 0
    result = calibrate(request, folder, options.threads, progress, anew=options.force)
    progress.end(erase=True)
    print("\n".join(map(printable, _lines(result, folder))))
    if options.budget and not result.met:
        print(f"error: the goal was missed: {result.budget.goal}. The best was written.", file=sys.stderr)
        return 1
    return 0


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
    how = (
        f"{len(best.kept)} layers in higher precision; predicted bytes of activations {best.activations:.2f} of FP16's"
    )
    if result.placement != "search":
        how = f"every block in the form {result.placement}"
    if training:
        how = (
            f"all layers trained, {training.epochs} epochs" if result.trained else "training did harm, and was left out"
        )
    goal = f"{'reached' if result.met else 'MISSED'}: {result.budget.goal}" if result.asked else "none"
    lines = [
        *(f"WARNING      {warning}" for warning in result.warnings),
        f"images       {result.images} of {result.origin}, {len(result.skipped)} skipped",
        f"in INT8      {best.share:.1%} of the MACs; {how}",
        f"goal         {goal}; it is {result.reached}",
        f"judged on    {result.judged_on}",
    ]
    for score in result.scores:
        top1 = "" if score.top1 is None else f"top-1 {score.top1:5.1f} %   "
        sqnr = "exact" if score.sqnr >= 200 else f"{score.sqnr:5.1f} dB"
        low, high = score.interval
        agreement = f"top-1 agreement {score.agreement:5.1f} % [{low:.1f}, {high:.1f}]"
        moved = "" if score.moved is None else f"   {score.moved:.2f} of FP16's bytes, {score.kernels} kernels"
        lines.append(f"  {score.name:<18} {top1}{agreement}   SQNR {sqnr}{moved}")
    if any(score.moved is not None for score in result.scores):
        lines.append(
            "predicted    bytes of activations and kernels of a TensorRT engine, from the graph alone: nothing was timed"
        )
    lines += [f"  {speed.engine:<18} {speed.milliseconds:.1f} ms" for speed in result.speeds]
    lines += [f"speed        {verdict(result.speeds)}"] if result.speeds else []
    lines += [f"note         {note}" for note in result.notes]
    where = folder / result.variant / result.variant
    lines += [f"wrote        {where}.int8.onnx, .int8-fp16.onnx, .calibration.html, .calibration.json"]
    return [*lines, f"took         {result.seconds:.0f} s"]


if __name__ == "__main__":
    run(main)
