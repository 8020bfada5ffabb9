"""The family in one chart: published accuracy against cost, one line a branch, area by parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.variants import Variant

# Where a point's name stands, in points from it and aligned which way: beside its line, by branch.
PLACES = {"b": (-5, 5, "right"), "lite": (7, -9, "left"), "v2": (7, -9, "left"), "v2-b1": (-1, 6, "center")}
PLACES |= dict.fromkeys(("v2-s", "v2-m", "v2-l"), (-9, 6, "right"))
PLACES |= dict.fromkeys(("b5", "b6", "b7"), (8, -13, "left"))
BRANCHES = {"b": ("EfficientNet", "#2f6fbb"), "lite": ("Lite", "#d9822b"), "v2": ("V2", "#3a9d5d")}


def draw(path: Path, rows: Sequence[tuple[Variant, int, int]]) -> None:
    """Writes the chart of `rows` (variant, parameters, MACs) to `path`; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 5), dpi=110)
    for prefix, (title, colour) in BRANCHES.items():
        branch = [
            row for row in rows if row[0].name.startswith(prefix) and (prefix != "b" or row[0].name[1:].isdigit())
        ]
        cost = [macs / 1e9 for _, _, macs in branch]
        top1 = [variant.published for variant, _, _ in branch]
        axes.plot(cost, top1, color=colour, label=title, linewidth=1.2, zorder=1)
        axes.scatter(
            cost,
            top1,
            s=[count / 2.5e5 for _, count, _ in branch],
            color=colour,
            alpha=0.75,
            edgecolor="white",
            zorder=2,
        )
        for x, y, (variant, _, _) in zip(cost, top1, branch):
            right, up, align = PLACES.get(variant.name) or PLACES[prefix]
            axes.annotate(
                variant.name, (x, y), xytext=(right, up), textcoords="offset points", fontsize=8, ha=align, color=colour
            )
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("MACs for one image at the variant's resolution, billions (log)")
    axes.set_ylabel("top-1 on ImageNet as published, %")
    axes.set_title("EfficientNet, published figures. The area of a point is its number of parameters", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
