"""A network of the family without its classifier: the pooled vector, or the maps of its stages."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from models.blocks import mean_over_map
from models.network import EfficientNet
from models.variants import Variant


class Map(NamedTuple):
    """Where a network gives a map of features."""

    stage: int  # whose last block it leaves
    stride: int  # px of the image that a cell stands for, either way
    channels: int


def maps(variant: Variant) -> list[Map]:
    """The last map of each stride from 4 on, before the next halving: what timm's `features_only` gives from its second on."""
    stride, found = 2, []  # the stem's
    blocks = variant.blocks()
    for index, stage in enumerate(variant.stages):
        stride *= stage.stride
        ends = index + 1 == len(variant.stages) or variant.stages[index + 1].stride > 1
        if ends and stride >= 4:
            found.append(Map(index, stride, blocks[index][-1].outputs))
    return found


class Embedding(nn.Module):
    """Images [N, 3, H, W] -> [N, head channels]: what the classifier is given. Shares the layers of `network`."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.stem, self.stages, self.head, self.act = network.stem, network.stages, network.head, network.act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        return mean_over_map(self.act(self.head(x))).flatten(1)


class Features(nn.Module):
    """Images [N, 3, H, W] -> a map [N, C, H / stride, W / stride] for each of `maps`. Shares the layers of `network`."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.stem, self.stages, self.act = network.stem, network.stages, network.act
        self.kept = {each.stage for each in maps(network.variant)}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found, x = [], self.act(self.stem(x))
        for index, stage in enumerate(self.stages):
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
            if index in self.kept:
                found.append(x)
        return tuple(found)


# Names are those of runtime.artifacts.artifact.HEADS.
_HEADS: dict[str, type[Embedding] | type[Features]] = {"embedding": Embedding, "features": Features}


def with_head(network: EfficientNet, head: str) -> nn.Module:
    """`network` itself for "classifier", else its layers with that head: "embedding" or "features"."""
    return _HEADS[head](network).train(network.training) if head in _HEADS else network
