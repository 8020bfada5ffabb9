"""Trains a network on your own classes: python -m models.finetune --data photos/ --variant lite0"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from runtime.command import parse_size, run
from runtime.errors import UserError
from runtime.printable import printable
from runtime.progress import Progress

_NAME = re.compile(r"\w[\w.+ -]{0,99}")


def main(argv: Sequence[str] | None = None) -> int:
    from models.finetune.settings import Settings
    from models.variants import VARIANTS, variant_named
    from models.weights import RANDOM, find_weights

    parser = argparse.ArgumentParser(
        prog="python -m models.finetune",
        description="Trains a network on your own classes and writes a checkpoint that 'make export' takes.",
        epilog="DATA: a folder of images for each class, or train/ and val/ with those in them.",
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DATA", help="folder of images")
    parser.add_argument("--dataset", choices=("folder", "cifar10"), default="folder", help="what DATA holds")
    parser.add_argument("--variant", default="lite0", metavar="NAME", help=", ".join(VARIANTS) + " (default lite0)")
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help=f"checkpoint to start from, a file or hf-hub:OWNER/NAME, or '{RANDOM}' to learn from nothing",
    )
    parser.add_argument("--name", help="of the result: finetuned/NAME/ (default: the data folder's name)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write instead of finetuned/NAME")
    parser.add_argument("--output", dest="out", type=Path, help=argparse.SUPPRESS)  # its name until 2026
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU (default: all cores)")
    parser.add_argument(
        "--memory", type=parse_size, metavar="SIZE", help="for decoded images (default: half of what is free)"
    )
    parser.add_argument("--offline", action="store_true", help="never download weights")
    parser.add_argument(
        "--force", action="store_true", help="train again, even if that is done already or was interrupted halfway"
    )
    parser.add_argument("--fresh", action="store_true", dest="force", help=argparse.SUPPRESS)  # its old name
    recipe = parser.add_argument_group("what the starting checkpoint's row says, set by hand")
    recipe.add_argument("--resolution", type=int, metavar="PX")
    recipe.add_argument("--crop", type=float, metavar="FRACTION")
    training = parser.add_argument_group("training (what is not given follows from the number of images)")
    for each in fields(Settings):
        kind: Callable[[str], Any] = {"int": int, "float": float, "str": str}[str(each.type)]
        choices = each.metadata["choices"] or None
        about = each.metadata["about"].replace("%", "%%")
        training.add_argument(
            f"--{each.name.replace('_', '-')}", type=kind, help=about, choices=choices, metavar=None if choices else "N"
        )
    options = parser.parse_args(argv)
    if options.resolution is not None and not 32 <= options.resolution <= 2048:
        parser.error(f"--resolution {options.resolution}: between 32 and 2048 px")
    if options.crop is not None and not 0.1 <= options.crop <= 2:
        parser.error(f"--crop {options.crop}: a fraction between 0.1 and 2, usually 0.875 to 1")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads {options.threads}: 1 or more")

    import torch

    from models.finetune.stage import Request, finetune

    if options.threads:
        torch.set_num_threads(options.threads)
    name = options.name or options.data.resolve().name or "own"
    if options.out is None and not _NAME.fullmatch(name):
        raise UserError(f"'{name}' can't name a folder: give --name letters and digits.")
    variant = variant_named(options.variant)
    request = Request(
        options.data,
        variant,
        find_weights(variant, options.weights, offline=options.offline),
        options.out or Path("finetuned") / name,
        options.dataset,
        {"resolution": options.resolution, "crop": options.crop},
        {each.name: getattr(options, each.name) for each in fields(Settings)},
        options.device,
        options.memory,
        options.force,
    )
    shown = Shown(variant.name)
    try:
        finished = finetune(request, shown, shown.say)
    except KeyboardInterrupt:
        shown.close()
        best = f" The best network so far is {request.checkpoint}." if request.checkpoint.is_file() else ""
        goes_on = "the same command goes on from there" if request.state.is_file() else "the same command starts again"
        print(f"\ninterrupted; {goes_on}.{best}", file=sys.stderr)
        return 130
    finally:
        shown.close()
    print("\n".join(printable(line) for line in finished.lines))
    return 0


class Shown:
    """The step, how much of it is done, and the time that is left."""

    def __init__(self, name: str) -> None:
        self.progress = Progress(f"{name}:")

    def __call__(self, step: str, done: int, of: int) -> None:
        if step.split()[0] != "judging":  # between epochs, whose time it counts into
            self.progress(done, of, step)

    def say(self, text: str) -> None:
        self.close()
        print(printable(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        self.progress.end(erase=True)


if __name__ == "__main__":
    run(main)
