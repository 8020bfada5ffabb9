"""Exports a variant to checked ONNX artifacts: python -m export --variant b1 [--weights PATH|random]
The same for third-party models: python -m export --onnx resnet50.onnx, python -m export --variant timm:resnet50"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from runtime.command import run
from runtime.errors import UserError
from runtime.printable import printable


def main(argv: Sequence[str] | None = None) -> int:
    from export.stage import Request, export, up_to_date
    from models.variants import VARIANTS, variant_named
    from models.weights import find_weights
    from runtime.artifacts.artifact import RANDOM_WEIGHTS, artifacts_folder, head_named
    from runtime.artifacts.facts import ACTIVATIONS, CLASSIFIER, HEADS
    from runtime.artifacts.variant_names import TIMM
    from runtime.images.preprocess import INPUTS, INTERPOLATIONS

    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Writes artifacts/<variant>/<variant>.fp32.onnx and .fp16.onnx once they agree with the torch network.",
    )
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help=f"{', '.join(VARIANTS)}; timm:NAME for a classifier of timm; with --onnx, what it is to be called",
    )
    parser.add_argument("--name", metavar="NAME", help="what the network is to be called; --variant finds it under it")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="any ONNX image classifier instead")
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="a .pth or .safetensors file, hf-hub:OWNER/NAME on the Hugging Face hub, or 'random' to measure latency alone",
    )
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where to write (default: artifacts)")
    parser.add_argument("--class-names", type=Path, metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--labels", dest="class_names", type=Path, help=argparse.SUPPRESS)  # its name until 2026
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="number of classes, for random weights")
    parser.add_argument(
        "--input",
        choices=INPUTS,
        default="float32",
        help="float32: normalised images [N, 3, H, W] (default); uint8: pixels [N, H, W, 3], normalised in the graph",
    )
    parser.add_argument(
        "--head",
        choices=HEADS,
        help="classifier: logits (default); embedding: the pooled vector before them; features: the maps of strides 4 to 32; "
        "these two are artifacts of their own, as b1-embedding",
    )
    parser.add_argument(
        "--output", metavar="NAME", help="of an ONNX file with several outputs, the one that classifies"
    )
    parser.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="softmax: one class of many; sigmoid: independent scores (default: as the network itself, else softmax)",
    )
    parser.add_argument(
        "--force", action="store_true", help="export even if nothing has changed, or in place of another network"
    )
    parser.add_argument(
        "--try-recipes",
        action="store_true",
        help="write nothing; measure the usual paddings and normalisations on --data, and say which one fits",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="labelled images, for --try-recipes")
    parser.add_argument("--offline", action="store_true", help="never download weights")
    recipe = parser.add_argument_group("what the checkpoint's row says, set by hand")
    recipe.add_argument("--padding", choices=("symmetric", "same"))
    recipe.add_argument("--eps", type=float, help="of BatchNorm")
    recipe.add_argument("--resolution", type=int, metavar="PX")
    recipe.add_argument(
        "--crop", type=float, metavar="FRACTION", help="resolution / length of the resized shorter side"
    )
    recipe.add_argument("--interpolation", choices=INTERPOLATIONS)
    recipe.add_argument("--mean", type=_channels, metavar="R,G,B", help="of channels in 0..1")
    recipe.add_argument("--std", type=_channels, metavar="R,G,B")
    options = parser.parse_args(argv)
    _check(parser, options)

    folder = options.artifacts or artifacts_folder()
    if options.onnx or options.variant.startswith(TIMM):
        return _third_party(options, folder)
    name, head = head_named(options.variant)
    if options.head and head not in (CLASSIFIER, options.head):
        parser.error(f"--variant {options.variant} has the head {head} in its name, and --head is {options.head}")
    if head == CLASSIFIER:
        ending = name.rpartition("-")[2]
        for near in get_close_matches(ending, HEADS[1:], 1, 0.8):  # or b0-embeding would be exported as b0
            parser.error(f"--variant {name}: there is no head '{ending}'. Did you mean {near}?")
    head = options.head or head
    if head != CLASSIFIER and options.class_names:
        parser.error(f"--class-names: with the head {head} there are no classes to name")
    name, named = _called(options, name, folder)
    variant = variant_named(name)
    weights = find_weights(variant, options.weights, offline=options.offline)
    names = ("padding", "eps", "resolution", "crop", "interpolation", "mean", "std")
    request = Request(
        variant,
        weights,
        {name: getattr(options, name) for name in names},
        options.class_names,
        options.classes,
        options.input,
        head,
        named,
        options.activation,
    )
    if options.try_recipes:
        from export.recipes import try_recipes, verdict

        print("\n".join(map(printable, verdict(try_recipes(request, options.data, _progress(name))))))
        return 0
    if weights.path is None:
        print(RANDOM_WEIGHTS, file=sys.stderr)
    if not options.force and up_to_date(request, folder):
        _answers(request.name, head, folder)
        print(f"{folder / request.name} is up to date: same weights, options, code and tools (FORCE=1 exports again)")
        return 0
    exported = export(request, folder, _progress(request.name), options.force)
    _answers(request.name, head, folder)
    print("\n".join(map(printable, exported.lines)))
    if weights.path is None:
        print(f"NOTE         {RANDOM_WEIGHTS}")
    return 0


def _answers(name: str, head: str, folder: Path) -> None:
    """From now on commands take this network if none is named: a classifier, since they need classes."""
    from runtime.artifacts.artifact import CLASSIFIER, set_latest

    if head == CLASSIFIER:
        set_latest(name, folder)


def _called(options: argparse.Namespace, variant: str, folder: Path) -> tuple[str, str]:
    """(variant, name or ""): of VARIANT=birds, which was exported as NAME=birds, those that it was exported with.

    Raises UserError for a NAME that can't be one, and for such a VARIANT without its weights."""
    from models.variants import VARIANTS
    from runtime.artifacts.artifact import artifact_path, head_named, read_artifact
    from runtime.artifacts.facts import NAME
    from runtime.artifacts.variant_names import canonical

    named = options.name
    if named is not None and (
        not NAME.fullmatch(named) or head_named(canonical(named))[0] in VARIANTS or head_named(named)[0] != named
    ):
        raise UserError(
            f"NAME={named}: give letters, digits, dots and dashes, and neither a variant's name nor -embedding or -features."
        )
    if canonical(variant) not in VARIANTS and artifact_path(variant, "fp32", folder).is_file():
        there = read_artifact(artifact_path(variant, "fp32", folder))
        if "network" in there.more:
            if not options.weights:
                raise UserError(
                    f"{variant} was exported from {there.weights}: to export it again, give that as WEIGHTS=."
                )
            return there.more["network"], named or variant
    return variant, named or ""


def _third_party(options: argparse.Namespace, folder: Path) -> int:
    """A network that is not of this project's family."""
    from export.third_party import ThirdParty, export_third_party
    from runtime.artifacts.artifact import RANDOM_WEIGHTS, set_latest
    from runtime.artifacts.third_party import Overrides

    overrides = Overrides(options.resolution, options.crop, options.interpolation, options.mean, options.std)
    source = (
        {"onnx": options.onnx, "name": options.name or options.variant} if options.onnx else {"timm": options.variant}
    )
    request = ThirdParty(
        overrides,
        options.class_names,
        options.input,
        weights=options.weights,
        classes=options.classes,
        output=options.output,
        activation=options.activation,
        **source,
    )
    say = _progress(options.onnx.name if options.onnx else options.variant)
    artifact, exported = export_third_party(request, folder, say, options.force, options.offline)
    set_latest(artifact.variant, folder, None if artifact.precision == "fp32" else artifact.precision)
    if not exported.lines:
        print(f"{artifact.path.parent} is up to date: same network, options, code and tools (FORCE=1 exports again)")
        return 0
    print("\n".join(map(printable, exported.lines)))
    if artifact.random:
        print(f"NOTE         {RANDOM_WEIGHTS}")
    return 0


def _progress(name: str) -> Callable[[str], None]:
    return lambda step: print(f"{printable(name)}: {printable(step)} ...", file=sys.stderr, flush=True)


def _channels(text: str) -> tuple[float, float, float]:
    """Values for red, green and blue; one stands for all three."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"'{text}' should be three numbers with commas between them: 0.5,0.5,0.5")
    red, green, blue = values * (3 // len(values))
    return red, green, blue


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.onnx and not options.variant:
        parser.error("--variant names what to export, or --onnx a file")
    if options.name and not options.onnx and options.variant.startswith("timm:"):
        parser.error("--name: a model of timm is called as timm calls it")
    ours = [f"--{name}" for name in ("padding", "eps") if getattr(options, name) is not None]
    if ours and (options.onnx or options.variant.startswith("timm:")):
        parser.error(f"{', '.join(ours)}: belongs to the networks of the family")
    if options.head not in (None, "classifier") and (options.onnx or options.variant.startswith("timm:")):
        parser.error(
            f"--head {options.head}: for the networks of the family; third-party models are exported as classifiers"
        )
    if options.try_recipes != (options.data is not None):
        parser.error("--try-recipes needs --data with labelled images, and --data is for --try-recipes")
    if options.try_recipes and (options.onnx or options.variant.startswith("timm:") or options.weights == "random"):
        parser.error("--try-recipes: for a checkpoint of the family")
    if options.output and not options.onnx:
        parser.error("--output: of an ONNX file, given with --onnx")
    if options.onnx and options.weights:
        parser.error("--weights: an ONNX file has its own")
    if options.resolution is not None and not 32 <= options.resolution <= 2048:
        parser.error(f"--resolution {options.resolution}: between 32 and 2048 px")
    if options.crop is not None and not 0.1 <= options.crop <= 2:
        parser.error(f"--crop {options.crop}: a fraction between 0.1 and 2, usually 0.875 to 1")
    if options.std is not None and min(options.std) <= 0:
        parser.error("--std: above 0")
    if max((abs(value) for value in (*(options.mean or ()), *(options.std or ()))), default=0) > 3:
        parser.error("--mean and --std are of colours from 0 to 1: divide those of colours from 0 to 255 by 255")
    if options.eps is not None and options.eps <= 0:
        parser.error("--eps: above 0")
    if not 1 <= options.classes <= 100_000:
        parser.error(f"--classes {options.classes}: between 1 and 100000")


if __name__ == "__main__":
    run(main)
