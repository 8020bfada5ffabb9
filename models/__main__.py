"""Prints the family as a table: python -m models [--chart family.png]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from models.checkpoints import known_checkpoints
from models.network import EfficientNet, macs_of, parameters
from models.variants import VARIANTS
from models.weights import find_weights
from runtime.command import run
from runtime.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models", description="Prints the family of networks as a table.")
    parser.add_argument(
        "--chart", type=Path, metavar="FILE", help="also draw it: published accuracy against MACs (png, svg)"
    )
    parser.add_argument(
        "--at-hand", action="store_true", help="only the names of those whose weights are on this machine"
    )
    parser.add_argument("--picture", dest="chart", type=Path, help=argparse.SUPPRESS)  # its name until 2026
    options = parser.parse_args(argv)
    if options.at_hand:
        print(*(name for name in VARIANTS if _at_hand(name)), sep="\n")
        return 0
    if options.chart:
        import matplotlib  # noqa: F401 - to say at once that it is missing, not after the work
    rows = []
    print("            parameters     MACs  resolution   published top-1, %")
    print("variant       millions billions        px   paper   weights that export downloads", flush=True)
    for variant in VARIANTS.values():
        with torch.device("meta"):
            network = EfficientNet(variant)
        count, cost = parameters(network), macs_of(network, variant.resolution)
        rows.append((variant, count, cost))
        checkpoint = known_checkpoints(variant)[0]
        top1 = f"{checkpoint.top1:5.2f}" if checkpoint.top1 else "    -"
        size = f"{count / 1e6:14.3f}{cost / 1e9:9.3f}{variant.resolution:10}"
        print(f"{variant.name:8}{size}{variant.published:8.1f}   {top1}  {checkpoint.name}", flush=True)
    print(
        "\nTop-1 on ImageNet as published by the papers' authors and the weights' makers; this command measured nothing."
    )
    if options.chart:
        from models.chart import draw

        draw(options.chart, rows)
    return 0


def _at_hand(name: str) -> bool:
    try:
        return find_weights(VARIANTS[name], offline=True).path is not None
    except UserError:
        return False


if __name__ == "__main__":
    run(main)
