"""The one network that every variant is: stem, stages of blocks, head, classifier; and what it costs to run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.blocks import ACTIVATIONS, BLOCKS, ConvNorm, Convolution, FusedMBConv, MBConv, mean_over_map
from models.variants import Variant

_RESIDUAL_STRENGTH = 0.1


class EfficientNet(nn.Module):
    """Images [N, 3, H, W] float32, normalised as the checkpoint wants -> logits [N, classes].

    `padding` ("symmetric" or "same") and `eps` of BatchNorm belong to the checkpoint that will be loaded.
    Freshly built, the weights are random: see `settle` before measuring anything but shapes on them.
    """

    def __init__(self, variant: Variant, classes: int = 1000, padding: str = "symmetric", eps: float = 1e-5) -> None:
        super().__init__()
        blocks = variant.blocks()
        options: dict[str, Any] = {"padding": padding, "eps": eps}
        self.variant = variant
        self.stem = ConvNorm(3, variant.stem_channels, 3, stride=2, **options)
        self.stages = nn.ModuleList(
            nn.ModuleList(BLOCKS[block.kind](block, variant.activation, padding, eps) for block in stage)
            for stage in blocks
        )
        self.head = ConvNorm(blocks[-1][-1].outputs, variant.head_channels, 1, **options)
        self.act = ACTIVATIONS[variant.activation]()
        self.dropout = nn.Dropout(variant.dropout)
        self.classifier = nn.Linear(variant.head_channels, classes)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]  # a ModuleList iterates; torch types it as Module
                x = block(x)
        x = self.act(self.head(x))
        return self.classifier(self.dropout(mean_over_map(x).flatten(1)))

    def reset_parameters(self) -> None:
        """The reference's initialisation: He normal by fan-out (groups counted), classifier uniform by its classes."""
        if self.classifier.weight.is_meta:  # no numbers to set, and torch takes half a second to find that out
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.uniform_(module.weight, -1 / math.sqrt(module.out_features), 1 / math.sqrt(module.out_features))
                nn.init.zeros_(module.bias)


@torch.no_grad()
def settle(network: EfficientNet, images: Tensor) -> None:
    """Gives a randomly initialised network BatchNorm statistics from `images` [N, 3, H, W] and logits of spread 1.

    Without it the activations shrink from block to block until the logits hardly depend on the input, and any
    comparison of precisions on them passes for nothing. Residual branches are turned down to a trained network's
    share: at full strength B7's 50 of them amplify FP32's own rounding ten-thousandfold.
    """
    for module in network.modules():
        if isinstance(module, MBConv | FusedMBConv) and module.skip is not None:
            last = module.project or module.get_submodule("fused")
            nn.init.constant_(last.get_submodule("norm").get_parameter("weight"), _RESIDUAL_STRENGTH)
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a cumulative average, so that one pass leaves just these statistics
        norm.reset_running_stats()
        norm.train()
    network(images)
    for norm in norms:
        norm.momentum = 0.1
    network.eval()
    spread = network(images).std(dim=0).mean().clamp(min=1e-6)
    network.classifier.weight /= spread


def fix_padding(network: EfficientNet, resolution: int) -> None:
    """Settles "same" padding for inputs of `resolution` px, so that the network can be traced at any other size."""
    for module, side in _sides(network, resolution):
        if isinstance(module, Convolution):
            module.pads = module.same_pads(side, side)


def macs_of(
    network: EfficientNet, resolution: int, part: Callable[[EfficientNet], nn.Module] = lambda network: network
) -> int:
    """MACs (multiply-accumulates) of convolutions and the classifier for one image of `resolution` px.

    `part`: gives that of a network which is counted alone.
    """
    total = 0
    for module, side in _sides(part(network), resolution):
        # The others, of squeeze-and-excitation and the classifier, see a map's means.
        after = strided(side, module.stride[0]) if isinstance(module, Convolution) else 1
        total += module.get_parameter("weight").numel() * after * after
    return total


def _sides(network: nn.Module, resolution: int) -> Iterator[tuple[nn.Module, int]]:
    """Each convolution and the classifier, in the order in which an image passes them, and the side of the map that it gets.

    Reckoned: to see it on the meta device, torch would import its compiler, which takes seconds.
    """
    side = resolution
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module, side
        if isinstance(module, Convolution):
            side = strided(side, module.stride[0])


def strided(side: int, stride: int) -> int:
    """The side of a convolution's output, with either padding."""
    return -(-side // stride)


def tensors_sha256(network: nn.Module) -> str:
    """Sha256 of the weights by name, whatever file they came from. BatchNorm's count of batches is none of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def parameters(network: nn.Module) -> int:
    """Number of trainable values (BatchNorm's running statistics not among them)."""
    return sum(parameter.numel() for parameter in network.parameters())
