"""How fast could it be? python -m export.bound --variants b0..b7 --device orin-nano
The least time that a device's memory and arithmetic allow: a bound from the graphs and data sheets, nothing is measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from export.cost import least, least_of_variant
from models.variants import VARIANTS
from runtime.artifacts.artifact import artifact_path, artifacts_folder, find_artifact, read_artifact
from runtime.command import positive, run
from runtime.errors import UserError
from runtime.measure.bound import (
    DEVICES,
    LAUNCH,
    Device,
    Kernel,
    all_int8,
    bound,
    device_named,
    device_of,
    kernels_in,
)
from runtime.measure.machine import machine
from runtime.sweep.plan import require_variants, variants_of
from runtime.table import aligned

PRECISIONS = ("fp32", "fp16", "int8")
EVERY_LAYER = "as if every layer were INT8"
TRACED = "traced, not exported"


class Graph(NamedTuple):
    """What the kernels of one network in one precision were read from."""

    kernels: list[Kernel]
    origin: str  # in words


def graph_of(variant: str, precision: str) -> Graph:
    """The kernels of the artifact of `variant`, where there is one; else of the network as it would be traced.

    Raises UserError for an artifact that can't be read, or whose tensors' sizes are unknown.
    """
    path = artifact_path(variant, precision)
    if path.is_file():
        return Graph(kernels_in(read_artifact(path).metadata) or _read(path), str(path))
    if precision == "int8":
        return Graph(all_int8(graph_of(variant, "fp16").kernels), EVERY_LAYER)
    if variant not in VARIANTS:
        find_artifact(variant, precision)  # raises: it says what there is
    return Graph(least_of_variant(variant), TRACED)


def _read(path: object) -> list[Kernel]:
    """From an artifact that was exported before they were part of its metadata."""
    import onnx

    from export.pixels import without_pixels

    try:
        return least(without_pixels(onnx.load(str(path))))
    except ValueError as error:
        raise UserError(f"{path} has no bound: {error}.") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.bound",
        description="The least time of a network alone that a device's memory and arithmetic allow: for each fused layer its "
        "bytes at full bandwidth or its MACs at the full dense rate, whichever is longer, and a launch. A bound, no latency.",
    )
    parser.add_argument("--variants", default="b0..b7", metavar="V", help="b0..b7 (default), or lite0,v2-b0,...")
    parser.add_argument("--device", metavar="D,E", help=f"{', '.join(DEVICES)} (default: this machine)")
    parser.add_argument("--precisions", default="fp16,int8", metavar="P", help="fp16,int8 (default), fp32")
    parser.add_argument("--batches", default="1", metavar="N,M", help="images a run (default 1)")
    options = parser.parse_args(argv)
    devices, precisions = devices_of(options.device), _words(options.precisions)
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown:
        raise UserError(f"There is no precision '{unknown[0]}': choose of {', '.join(PRECISIONS)}.")
    batches, variants = [positive(word) for word in _words(options.batches)], variants_of(options.variants)
    require_variants(variants, artifacts_folder())
    rows = []
    for variant in variants:
        if not artifact_path(variant, "fp16").is_file():
            print(f"{variant}: tracing", file=sys.stderr, flush=True)
        rows += [(variant, precision, graph_of(variant, precision)) for precision in precisions]
    for device in devices:
        print(table(rows, device, batches), end="\n\n" if device is not devices[-1] else "\n")
    return 0


def devices_of(names: str | None) -> list[Device]:
    """Raises UserError for a name that is not in the table, and for none on a machine that is not."""
    if names:
        return [device_named(name) for name in _words(names)]
    here = device_of(machine())
    if here is None:
        raise UserError(f"This machine is not in the table of devices: name one with DEVICE= ({', '.join(DEVICES)}).")
    return [here]


def table(rows: Sequence[tuple[str, str, Graph]], device: Device, batches: Sequence[int]) -> str:
    lines = [["network", "precision", "batch", "kernels", "MB moved", "GMACs"]]
    lines[0] += ["memory", "arithmetic", "launches", "bound, ms", "graph"]
    for variant, precision, graph in rows:
        for batch in batches:
            found = bound(graph.kernels, device, batch, precision == "fp32")
            macs = sum(kernel.macs for kernel in graph.kernels) * batch / 1e9
            figures = (found.memory, found.arithmetic, found.launches, found.ms)
            line = [variant, precision, str(batch), str(len(graph.kernels)), f"{found.megabytes:.1f}", f"{macs:.2f}"]
            lines.append([*line, *(f"{figure:.3f}" for figure in figures), graph.origin])
    note = (
        "bound: the least time of the network alone, computed and not measured; of each kernel its memory or its arithmetic, "
        f"whichever is longer,\nand {LAUNCH:g} us to launch it. memory, arithmetic, launches: each alone, ms"
    )
    return f"{device.told}\n{aligned(lines, range(2, 10))}\n{note}"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


if __name__ == "__main__":
    run(main)
