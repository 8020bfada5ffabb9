"""What is done to a training image: crop and mirror by itself, kornia's policies, mixup.

Everything is a function of (seed, epoch, row) or of torch's generator, which the training seeds at every step, so that a
training that was interrupted sees the images it would have seen.

Why kornia: it needs torch and 15 MB, is Apache-licensed and kept up; torchvision from the package index does not import
beside a CPU torch, albumentations is no longer maintained and its successor is under the AGPL. It draws one policy for a
batch, so it is handed groups of a few images (docs/finetune.md).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.finetune.dataset import Data
from models.finetune.settings import Settings
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing, scale_and_offset
from runtime.invocation import install
from runtime.pool import OrderedPool

_GROUP = 8  # images that share a policy
_PARTS = 4  # of a training, each with images of one size
_AHEAD = 3  # batches that are made before they are wanted


def crop(pixels: np.ndarray, side: int, settings: Settings, random: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [side, side, 3]: random resized crop (Szegedy et al. 2014, arXiv:1409.4842), and mirror."""
    height, width = pixels.shape[:2]
    for _ in range(10):
        area = random.uniform(settings.area, 1) * height * width
        reach = math.log(settings.stretch)
        shape = math.exp(random.uniform(-reach, reach)) if settings.area < 1 else 1.0
        w, h = math.sqrt(area * shape), math.sqrt(area / shape)
        if w <= width and h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = random.uniform(0, width - w), random.uniform(0, height - h)
    square = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC, (left, top, left + w, top + h))
    if random.uniform() < settings.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def steps_per_epoch(data: Data, settings: Settings) -> int:
    """Whole batches; which images are left over changes from epoch to epoch."""
    return max(1, len(data.train) // settings.batch)


def side_at(epoch: int, settings: Settings, full: int) -> int:
    """Side of the training images in `epoch` (from 1 on), px: in four equal parts of the training from `smallest` to `full`,
    whose difference is made in equal steps (progressive learning, Tan and Le 2021, arXiv:2104.00298, section 4.2)."""
    if not settings.smallest:
        return full
    part = min(_PARTS - 1, (epoch - 1) * _PARTS // max(settings.epochs, 1))
    return settings.smallest + (full - settings.smallest) * part // (_PARTS - 1)


def batches(data: Data, settings: Settings, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 [batch, 3, side, side], int64 [batch]) of epoch `epoch` from step `start` on, made ahead on all cores."""
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(data.train))
    side, count = side_at(epoch, settings, data.preprocessing.resolution), steps_per_epoch(data, settings)

    def make(row: int) -> np.ndarray:
        return crop(data.pixels(row), side, settings, np.random.default_rng([settings.seed, epoch, row]))

    rows = [int(row) for row in order[start * settings.batch : count * settings.batch]]
    with OrderedPool(make, rows, os.cpu_count() or 1, _AHEAD * settings.batch) as crops:
        for first in range(0, len(rows), settings.batch):
            batch = rows[first : first + settings.batch]
            pixels = torch.from_numpy(np.stack([next(crops) for _ in batch])).permute(0, 3, 1, 2)
            yield pixels, torch.tensor([data.train[row].label for row in batch])


def policy(settings: Settings) -> Callable[[Tensor], Tensor]:
    """The operations that `settings` draws for images float [N, 3, H, W] in 0..1. Raises UserError without kornia."""
    if settings.policy == "none":
        return lambda x: x
    try:
        from kornia.augmentation.auto import AutoAugment, RandAugment, TrivialAugment
    except ImportError as error:
        raise UserError(
            f"{settings.policy} needs kornia ({error}): {install('-e', '.[finetune]')} in this repository, or --policy none."
        ) from None
    operations = {
        "randaugment": lambda: RandAugment(n=settings.operations, m=settings.magnitude),
        "autoaugment": lambda: AutoAugment("imagenet"),
        "trivial": TrivialAugment,
    }[settings.policy]()
    return lambda x: torch.cat([operations(group) for group in x.split(_GROUP)]).clamp(0, 1)


def normaliser(preprocessing: Preprocessing, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Images in 0..1 -> as runtime.images.preprocess.normalize gives them."""
    scale, offset = (torch.from_numpy(v).to(device)[:, None, None] for v in scale_and_offset(preprocessing))
    return lambda x: x * (255 * scale) + offset


def mixup(x: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each image mixed with another, targets float [N, classes] likewise (Zhang et al. 2018, arXiv:1710.09412)."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(x)).to(x.device)
    return share * x + (1 - share) * x[other], share * targets + (1 - share) * targets[other]
