"""Measures accuracy on labelled images: python -m runtime.evaluate --data photos/ --precision int8 --reference fp32"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from .artifacts.artifact import RANDOM_WEIGHTS
from .command import add_decoding_options, add_model_options, open_model, positive, run
from .digest import sha256_of_facts
from .errors import UserError
from .fleet.options import add_fleet_options, fleet_of, require_ray
from .invocation import typed
from .measure.dataset import Sample, samples_digest
from .measure.evaluation import evaluate, read_samples, reference_path, require_comparable
from .networks.classifier import Classifier
from .networks.pipeline import lanes_here
from .printable import printable
from .progress import Progress


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog=typed("evaluate"),
        description="Accuracy of an artifact on labelled images, and what it changed against a reference.",
        epilog="Exit status: 0 evaluated, 1 the network failed on some images (NaN or infinity), 2 wrong use. "
        "DATA: a folder for each class (index, wnid or name), or images with labels.csv, LOC_val_solution.csv or "
        "val.txt among them, or images alone (then only the agreement with the reference is measured).",
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DATA", help="folder of images")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="list of files and labels, if it is not in the folder"
    )
    add_model_options(parser)
    parser.add_argument("--reference", metavar="R", help="artifact, or precision of the same variant, to compare with")
    parser.add_argument("--limit", type=positive, metavar="N", help="only every k-th image, so that about N are taken")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.add_argument("--force", action="store_true", help="go on although the labels look like another label set's")
    parser.add_argument("--fresh", action="store_true", help="do not go on with an interrupted evaluation")
    add_decoding_options(parser)
    add_fleet_options(parser)
    options = parser.parse_args(argv)
    fleet = fleet_of(options)
    if fleet is not None:
        require_ray(fleet.address)
        from .fleet.evaluation import evaluate_spread

        result = evaluate_spread(options, fleet)
        return _printed(result, options)

    classifier = open_model(options, lanes_here())
    reference = None
    if options.reference:
        reference = open_model(options, lanes_here(), reference_path(options.reference, classifier.artifact))
        require_comparable(classifier.artifact, reference.artifact)
    samples = read_samples(options.data, classifier.artifact, options.labels, options.limit)
    if classifier.artifact.random:
        print(f"{classifier.artifact.path}: {RANDOM_WEIGHTS}", file=sys.stderr)
    journal = _journal(classifier, reference, samples)
    if options.fresh:
        journal.unlink(missing_ok=True)
    if journal.exists():
        print("going on with an evaluation that was interrupted (--fresh starts anew)", file=sys.stderr)
    progress = Progress("evaluating")
    try:
        result = evaluate(classifier, samples, reference, journal, options.force, progress)
    except UserError:
        journal.unlink(missing_ok=True)  # or the next run would continue it
        raise
    finally:
        progress.end()
    journal.unlink(missing_ok=True)
    return _printed(result, options)


def _printed(result: Dict[str, Any], options: argparse.Namespace) -> int:
    """Prints the result; the exit status."""
    print(json.dumps(result, allow_nan=False) if options.json else _report(result, options.data))
    return 1 if result["not_finite"] else 0


def _journal(classifier: Classifier, reference: Optional[Classifier], samples: Sequence[Sample]) -> Path:
    """Where this very evaluation keeps its records: named by the models' and the data set's contents."""
    models = [
        (loaded.artifact.metadata.get("sha256", ""), loaded.backend.description)
        for loaded in (classifier, reference)
        if loaded
    ]
    digest = sha256_of_facts([models, list(classifier.decoding), samples_digest(samples)])
    return Path("reports") / f".evaluation-{digest[:16]}.jsonl"


def _report(result: Dict[str, Any], data: Path) -> str:
    def interval(key: str, sign: str = "") -> str:
        low, high = result[f"{key}_interval"]
        return f"({low:{sign}.1f} to {high:{sign}.1f})"

    note = "  (random weights)" if result["weights"] == RANDOM_WEIGHTS else ""
    lines = [
        f"{result['model']}{note} on {result['backend']}",
        f"images      {result['n']} of {data}, {result['unreadable']} unreadable; {result['images_per_second']} a second",
    ]
    if result["not_finite"]:
        lines.append(f"failed      {result['not_finite']}: the network's answer holds NaN or infinity; left out below")
    for key, title in (("top1", "top-1"), ("top5", "top-5")):
        if result[key] is not None:
            lines.append(f"{title}       {result[key]:.1f} % {interval(key)}")
        elif key == "top1":
            lines.append(f"accuracy    {'none: random weights' if note else 'not measured: the images have no labels'}")
    if "agreement" in result:
        sqnr = "identical logits" if result["sqnr_db"] is None else f"logit SQNR {result['sqnr_db']:.1f} dB"
        lines.append(f"against     {result['reference']}")
        lines.append(f"agreement   {result['agreement']:.1f} % in top-1 {interval('agreement')}, {sqnr}")
        if "difference" in result:
            change = f"{result['difference']:+.1f} points {interval('difference', '+')}"
            lines.append(f"top-1       {change}, McNemar p {result['mcnemar_p']:.2g}")
        for flip in result["flipped"][:10]:
            truth = f"  (it is {flip['right']})" if flip["right"] else ""
            lines.append(f"  flipped   {flip['file']}: {flip['was']} -> {flip['is']}{truth}")
        if len(result["flipped"]) > 10:
            lines.append(f"  flipped   {len(result['flipped']) - 10} more, all in --json")
    intervals = any(key.endswith("_interval") for key in result)
    return "\n".join(map(printable, lines)) + ("\nIn parentheses: 95 % confidence intervals." if intervals else "")


if __name__ == "__main__":
    run(main)
