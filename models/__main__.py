"""Prints the family as a table: python -m models [--chart family.png]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.checkpoints import known_checkpoints
from models.variants import VARIANTS
from models.weights import find_weights
from runtime.command import run
from runtime.errors import UserError
from runtime.measure.bound import DEVICES, bound, device_named


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models", description="Prints the family of networks as a table.")
    parser.add_argument(
        "--chart", type=Path, metavar="FILE", help="also draw it: published accuracy against MACs (png, svg)"
    )
    parser.add_argument(
        "--at-hand", action="store_true", help="only the names of those whose weights are on this machine"
    )
    parser.add_argument("--picture", dest="chart", type=Path, help=argparse.SUPPRESS)  # its name until 2026
    parser.add_argument(
        "--device", metavar="NAME", help=f"also the bound of FP16 at batch 1, traced in a minute: {', '.join(DEVICES)}"
    )
    options = parser.parse_args(argv)
    if options.at_hand:
        print(*(name for name in VARIANTS if _at_hand(name)), sep="\n")
        return 0
    device = device_named(options.device) if options.device else None
    import torch  # seconds

    from models.network import EfficientNet, macs_of, parameters

    if device:
        from export.bound import graph_of  # torch, onnx: seconds
    if options.chart:
        import matplotlib  # noqa: F401 - to say at once that it is missing, not after the work
    rows = []
    head = ("    bound", "       ms") if device else ("", "")
    print(f"            parameters     MACs  resolution{head[0]}   published top-1, %")
    print(f"variant       millions billions        px{head[1]}   paper   weights that export downloads", flush=True)
    for variant in VARIANTS.values():
        with torch.device("meta"):
            network = EfficientNet(variant)
        count, cost = parameters(network), macs_of(network, variant.resolution)
        rows.append((variant, count, cost))
        checkpoint = known_checkpoints(variant)[0]
        top1 = f"{checkpoint.top1:5.2f}" if checkpoint.top1 else "    -"
        size = f"{count / 1e6:14.3f}{cost / 1e9:9.3f}{variant.resolution:10}"
        size += f"{bound(graph_of(variant.name, 'fp16').kernels, device).ms:9.2f}" if device else ""
        print(f"{variant.name:8}{size}{variant.published:8.1f}   {top1}  {checkpoint.name}", flush=True)
    print(
        "\nTop-1 on ImageNet as published by the papers' authors and the weights' makers; this command measured nothing."
    )
    if device:
        print(f"bound: the least time of the network alone, FP16, batch 1, computed and not measured. {device.told}")
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
