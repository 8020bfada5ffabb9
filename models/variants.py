"""The family as one table: every variant is a row of the few numbers that differ, expanded into blocks by the rules below.

Sources: EfficientNet, Tan & Le 2019 (arXiv:1905.11946), tables 1 and 2; EfficientNetV2, Tan & Le 2021
(arXiv:2104.00298), table 4; EfficientNet-Lite, TensorFlow's TPU models, `efficientnet/lite`.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field

from runtime.artifacts.variant_names import mentioned
from runtime.errors import UserError


def compound_scaling(
    phi: float, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15
) -> tuple[float, float, float]:
    """Multipliers (depth, width, resolution) of compound coefficient `phi`: alpha, beta and gamma to its power.

    The defaults are the paper's grid search on B0 under alpha * beta^2 * gamma^2 ~ 2, so that FLOPs grow by 2^phi
    (section 3.3). The published B1-B7 are these, rounded by hand: their rows below hold what was really trained.
    """
    return alpha**phi, beta**phi, gamma**phi


def round_channels(channels: float, divisor: int = 8, floor: float = 0.9) -> int:
    """`channels` to the nearest multiple of `divisor`, and never below `floor` of it (the reference's 10 % rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < floor * channels else rounded


def round_repeats(repeats: int, depth: float) -> int:
    """Blocks of a stage at depth multiplier `depth`: always rounded up."""
    return math.ceil(depth * repeats)


@dataclass(frozen=True)
class Stage:
    """One row of the architecture tables, before scaling. `expand` multiplies the block's input channels."""

    block: str  # "mbconv" or "fused"
    repeats: int
    channels: int
    kernel: int
    stride: int  # of the first block; the others have 1
    expand: int
    squeeze: bool  # squeeze-and-excitation, to a quarter of the block's input channels


@dataclass(frozen=True)
class Block:
    """One block, every number settled."""

    kind: str  # "mbconv", "mbconv-1" (nothing to expand), "fused" or "fused-1"
    inputs: int
    expanded: int
    outputs: int
    kernel: int
    stride: int
    squeezed: int  # channels inside the squeeze-and-excitation; 0: none
    drop: float  # stochastic depth: probability that this block is skipped in training

    @property
    def residual(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


# fmt: off
#              block   repeats channels kernel stride expand squeeze
_V1 = tuple(Stage("mbconv", *row, True) for row in (
    (1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6), (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6), (4, 192, 5, 2, 6), (1, 320, 3, 1, 6)))
_LITE = tuple(Stage(s.block, s.repeats, s.channels, s.kernel, s.stride, s.expand, False) for s in _V1)


def _v2(fused: tuple[tuple[int, int, int, int], ...], mbconv: tuple[tuple[int, int, int, int], ...]) -> tuple[Stage, ...]:
    """V2 stages from (repeats, channels, stride, expand): 3x3 everywhere, fused first and without squeeze."""
    return (*(Stage("fused", r, c, 3, s, e, False) for r, c, s, e in fused),
            *(Stage("mbconv", r, c, 3, s, e, True) for r, c, s, e in mbconv))


_V2_B = _v2(((1, 16, 1, 1), (2, 32, 2, 4), (2, 48, 2, 4)), ((3, 96, 2, 4), (5, 112, 1, 6), (8, 192, 2, 6)))
_V2_S = _v2(((2, 24, 1, 1), (4, 48, 2, 4), (4, 64, 2, 4)), ((6, 128, 2, 4), (9, 160, 1, 6), (15, 256, 2, 6)))
_V2_M = _v2(((3, 24, 1, 1), (5, 48, 2, 4), (5, 80, 2, 4)), ((7, 160, 2, 4), (14, 176, 1, 6), (18, 304, 2, 6), (5, 512, 1, 6)))
_V2_L = _v2(((4, 32, 1, 1), (7, 64, 2, 4), (7, 96, 2, 4)), ((10, 192, 2, 4), (19, 224, 1, 6), (25, 384, 2, 6), (7, 640, 1, 6)))
# fmt: on


@dataclass(frozen=True)
class Variant:
    """One network of the family. What belongs to its weights (padding, epsilon, preprocessing) is the checkpoint's."""

    name: str
    stages: tuple[Stage, ...] = field(repr=False)
    width: float
    depth: float
    resolution: int  # px, as published
    crop: float  # of the usual evaluation at that resolution (timm's table)
    dropout: float
    published: float  # top-1 on ImageNet in the paper (Lite: its repository; V2-B: the authors' repository), %
    stem: int = 32
    head: int = 1280
    activation: str = "silu"
    fixed_ends: bool = False  # Lite: stem, head and the repeats of the first and last stage are not scaled
    floor: float = 0.9  # of `round_channels`; the V2-B rows were made without the 10 % rule
    stochastic_depth: float = 0.2

    def channels(self, channels: int) -> int:
        return round_channels(channels * self.width, floor=self.floor)

    @property
    def stem_channels(self) -> int:
        return self.stem if self.fixed_ends else self.channels(self.stem)

    @property
    def head_channels(self) -> int:
        return self.head if self.fixed_ends else self.channels(self.head)

    def blocks(self) -> list[list[Block]]:
        """The blocks of each stage, scaled and rounded; stochastic depth grows linearly from 0 over all blocks."""
        last = len(self.stages) - 1
        repeats = [
            s.repeats if self.fixed_ends and i in (0, last) else round_repeats(s.repeats, self.depth)
            for i, s in enumerate(self.stages)
        ]
        total, inputs, index = sum(repeats), self.stem_channels, 0
        scaled: list[list[Block]] = []
        for stage, count in zip(self.stages, repeats):
            outputs, blocks = self.channels(stage.channels), []
            for i in range(count):
                blocks.append(
                    Block(
                        kind=stage.block if stage.expand != 1 else f"{stage.block}-1",
                        inputs=inputs,
                        expanded=round_channels(inputs * stage.expand),
                        outputs=outputs,
                        kernel=stage.kernel,
                        stride=stage.stride if i == 0 else 1,
                        squeezed=max(1, inputs // 4) if stage.squeeze else 0,
                        drop=self.stochastic_depth * index / total,
                    )
                )
                inputs, index = outputs, index + 1
            scaled.append(blocks)
        return scaled


def _lite(
    name: str, width: float, depth: float, resolution: int, crop: float, dropout: float, published: float
) -> Variant:
    return Variant(name, _LITE, width, depth, resolution, crop, dropout, published, activation="relu6", fixed_ends=True)


# fmt: off
VARIANTS: dict[str, Variant] = {v.name: v for v in (
    #       name  stages width depth px crop dropout published
    Variant("b0", _V1, 1.0, 1.0, 224, 0.875, 0.2, 77.1),
    Variant("b1", _V1, 1.0, 1.1, 240, 0.882, 0.2, 79.1),
    Variant("b2", _V1, 1.1, 1.2, 260, 0.890, 0.3, 80.1),
    Variant("b3", _V1, 1.2, 1.4, 300, 0.904, 0.3, 81.6),
    Variant("b4", _V1, 1.4, 1.8, 380, 0.922, 0.4, 82.9),
    Variant("b5", _V1, 1.6, 2.2, 456, 0.934, 0.4, 83.6),
    Variant("b6", _V1, 1.8, 2.6, 528, 0.942, 0.5, 84.0),
    Variant("b7", _V1, 2.0, 3.1, 600, 0.949, 0.5, 84.3),
    _lite("lite0", 1.0, 1.0, 224, 0.875, 0.2, 75.1),
    _lite("lite1", 1.0, 1.1, 240, 0.882, 0.2, 76.7),
    _lite("lite2", 1.1, 1.2, 260, 0.890, 0.3, 77.6),
    _lite("lite3", 1.2, 1.4, 280, 0.904, 0.3, 79.8),
    _lite("lite4", 1.4, 1.8, 300, 0.920, 0.3, 81.5),
    Variant("v2-b0", _V2_B, 1.0, 1.0, 224, 0.875, 0.2, 78.7, floor=0.0),
    Variant("v2-b1", _V2_B, 1.0, 1.1, 240, 0.882, 0.2, 79.8, floor=0.0),
    Variant("v2-b2", _V2_B, 1.1, 1.2, 260, 0.890, 0.3, 80.5, floor=0.0),
    Variant("v2-b3", _V2_B, 1.2, 1.4, 300, 0.904, 0.3, 82.1, floor=0.0),
    Variant("v2-s", _V2_S, 1.0, 1.0, 384, 1.0, 0.2, 83.9, stem=24),
    Variant("v2-m", _V2_M, 1.0, 1.0, 480, 1.0, 0.3, 85.1, stem=24),
    Variant("v2-l", _V2_L, 1.0, 1.0, 480, 1.0, 0.4, 85.7),
)}
# fmt: on


def variant_named(name: str) -> Variant:
    """The row of `name`, however it is spelt (`B0`, `efficientnet-b0`, `v2_s`). Raises UserError with the nearest names."""
    spelt = name.strip().lower()
    found = VARIANTS.get(spelt) or VARIANTS.get(mentioned(spelt) or "")
    if found is None:
        near = difflib.get_close_matches(spelt, VARIANTS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"There is no variant '{name}'.{hint} Choose one of: {', '.join(VARIANTS)}.")
    return found
