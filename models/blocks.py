"""The layers that the family is made of: convolution with either padding, squeeze-and-excitation, the two blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.variants import Block

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu6": nn.ReLU6}


class Convolution(nn.Conv2d):
    """A convolution that keeps the size at stride 1, padded in one of two ways.

    "symmetric" is PyTorch's: (kernel - 1) / 2 on every side. "same" is TensorFlow's: as much as makes
    output = ceil(input / stride), the odd pixel at the bottom and right. They differ at stride 2 only, and weights
    trained with one run a little wrong with the other. "same" depends on the input's size, and is computed at every
    call unless `pads` is set.
    """

    pads: tuple[int, int, int, int] | None = None  # left, right, top, bottom

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, padding: str
    ) -> None:
        self.asymmetric = padding == "same" and stride > 1
        around = 0 if self.asymmetric else (kernel - 1) // 2
        super().__init__(inputs, outputs, kernel, stride, around, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.asymmetric:
            x = functional.pad(x, self.pads or self.same_pads(*x.shape[-2:]))
        return super().forward(x)

    def same_pads(self, height: int, width: int) -> tuple[int, int, int, int]:
        """TensorFlow's pads (left, right, top, bottom) for an input of `height` x `width` px."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        y, x = (max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in (height, width))
        return x // 2, x - x // 2, y // 2, y - y // 2


class ConvNorm(nn.Module):
    """Convolution and BatchNorm, which export folds into one."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, padding: str, eps: float
    ) -> None:
        super().__init__()
        self.conv = Convolution(inputs, outputs, kernel, stride, groups, padding=padding)
        self.norm = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def mean_over_map(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 1, 1]. Exports as ReduceMean rather than GlobalAveragePool, whose sum onnxruntime's CPU
    kernel accumulates in one float: at B7's 300 x 300 px that costs a hundredfold in precision (docs/export.md)."""
    return x.mean((2, 3), keepdim=True)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in 0..1 computed from all channels' means (Hu et al. 2017, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.SiLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(self.act(self.reduce(mean_over_map(x)))))


class StochasticDepth(nn.Module):
    """In training, drops a whole sample's residual branch with probability `drop` and divides the others by 1 - `drop`."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0:
            return x
        kept = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.drop)
        return x * kept / (1 - self.drop)


class MBConv(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise k x k, squeeze-and-excitation, linear 1x1 projection."""

    def __init__(self, block: Block, activation: str, padding: str, eps: float) -> None:
        super().__init__()
        wide = block.expanded
        options: dict[str, Any] = {"padding": padding, "eps": eps}
        self.expand = ConvNorm(block.inputs, wide, 1, **options) if block.kind == "mbconv" else None
        self.depthwise = ConvNorm(wide, wide, block.kernel, block.stride, wide, **options)
        self.squeeze = SqueezeExcite(wide, block.squeezed) if block.squeezed else None
        self.project = ConvNorm(wide, block.outputs, 1, **options)
        self.act = ACTIVATIONS[activation]()
        self.skip = StochasticDepth(block.drop) if block.residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.act(self.expand(x))
        y = self.act(self.depthwise(y))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return y if self.skip is None else x + self.skip(y)


class FusedMBConv(nn.Module):
    """V2's early block: expansion and depthwise convolution fused into one k x k; without expansion that is all."""

    def __init__(self, block: Block, activation: str, padding: str, eps: float) -> None:
        super().__init__()
        alone = block.kind == "fused-1"
        options: dict[str, Any] = {"padding": padding, "eps": eps}
        wide = block.outputs if alone else block.expanded
        self.fused = ConvNorm(block.inputs, wide, block.kernel, block.stride, **options)
        self.project = None if alone else ConvNorm(wide, block.outputs, 1, **options)
        self.act = ACTIVATIONS[activation]()
        self.skip = StochasticDepth(block.drop) if block.residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.fused(x))
        if self.project is not None:
            y = self.project(y)
        return y if self.skip is None else x + self.skip(y)


BLOCKS: dict[str, type[nn.Module]] = {
    "mbconv": MBConv,
    "mbconv-1": MBConv,
    "fused": FusedMBConv,
    "fused-1": FusedMBConv,
}
