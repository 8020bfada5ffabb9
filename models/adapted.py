"""A checkpoint's tensors as the networks of the family have them: images of three channels in, one Linear at the end."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from runtime.errors import UserError

# Luma of ITU-R BT.601, which Pillow's convert("L") and OpenCV's grey images are
GREY = (0.299, 0.587, 0.114)


def in_colour(path: Path, tensors: dict[str, Tensor], first: str) -> bool:
    """Makes the first convolution, `first`, of a network of greyscale take colours, and returns whether it did: the greyscale of
    colours that are normalised alike is a sum of them, so it becomes part of the weights, exactly. Raises UserError for other
    numbers of channels."""
    weights = tensors[first]
    channels = weights.shape[1] if weights.ndim == 4 else 3
    if channels == 1:
        tensors[first] = weights * torch.tensor(GREY, dtype=weights.dtype).reshape(1, 3, 1, 1)
    elif channels != 3:
        raise UserError(
            f"{path} takes images of {channels} channels ({first} is {list(weights.shape)}), and image files have colours (3) or "
            "greyscale (1): train it on those, or export it to ONNX and feed it yourself."
        )
    return channels == 1


def one_linear(path: Path, tensors: dict[str, Tensor], classifier: str) -> None:
    """Calls a classifier by its name, `classifier`, where it lies in a Sequential (behind a Dropout, say) or is a convolution of
    one cell, and gives it a bias of zeros where it has none. Raises UserError if it has several layers."""
    root = classifier.partition(".")[0]
    layers = {
        name.rpartition(".")[0]: tensor
        for name, tensor in tensors.items()
        if (
            name.startswith(f"{root}.") and name.endswith("weight") and (tensor.ndim == 2 or tensor.shape[2:] == (1, 1))
        )
    }
    if len(layers) > 1:
        raise UserError(
            f"{path} has a classifier of several layers ({', '.join(layers)}), and the networks of the family have one. "
            "Export it to ONNX and take that: make export ONNX=file."
        )
    for name, weights in layers.items():
        bias = tensors.pop(f"{name}.bias", torch.zeros(len(weights), dtype=weights.dtype))
        del tensors[f"{name}.weight"]
        tensors.update({f"{classifier}.weight": weights.flatten(1), f"{classifier}.bias": bias})
