"""All settings of a training in one place: what each means, what it is by default, and what is written into the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from runtime.errors import UserError

OPTIMISERS = ("adamw", "rmsprop")
POLICIES = ("none", "randaugment", "autoaugment", "trivial")
CLASS_WEIGHTS = ("none", "sqrt", "balanced")
NORMS = ("learn", "keep")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_BATCH_COST = 16e9  # MACs of a step, at most: b0 32 images, b4 4, since activations grow likewise
_FEW = 16  # images in a step, below which BatchNorm's statistics of them are worse than those it starts from
_LOPSIDED = 3.0  # largest class / smallest, from which classes are weighted


def _set(default: Any, about: str, low: float = 0, high: float = math.inf, choices: tuple[str, ...] = ()) -> Any:
    """A setting: its default, what `--help` says, and what it may be."""
    return field(default=default, metadata={"about": about, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """How a network is trained. Each field is an option of the command line."""

    epochs: int = _set(8, "passes over the images with all layers learning; 0: the classifier alone", 0, 10_000)
    batch: int = _set(32, "images a step", 2, 65_536)
    head: int = _set(100, "first, iterations of the classifier on features of the network as it is; 0: none", 0, 10_000)
    frozen: int = _set(0, "leading parts (stem, then stages) that are left as they are", 0, 20)
    optimiser: str = _set(
        "adamw", "rmsprop as in the paper: decay 0.9, momentum 0.9, epsilon 0.001", choices=OPTIMISERS
    )
    lr: float = _set(1e-3, "learning rate of the classifier, at its highest", 1e-8, 10)
    backbone: float = _set(0.2, "rate of everything before the classifier, as a share of that", 0, 10)
    weight_decay: float = _set(0.02, "of weights, not of biases and BatchNorm", 0, 1)
    warmup: float = _set(0.1, "share of the steps in which the rate rises; it then falls as a cosine", 0, 0.9)
    smoothing: float = _set(0.1, "of labels", 0, 0.9)
    drop_path: float = _set(
        0.1, "stochastic depth: probability of skipping the last block, less for earlier ones", 0, 0.9
    )
    dropout: float = _set(0.2, "before the classifier", 0, 0.9)
    policy: str = _set("randaugment", "operations drawn for an image, by kornia", choices=POLICIES)
    operations: int = _set(2, "of randaugment, on one image", 1, 10)
    magnitude: int = _set(6, "of randaugment, of 30", 1, 29)
    area: float = _set(0.35, "random resized crop: least share of the image; 1: no crop", 0.01, 1)
    stretch: float = _set(1.33, "random resized crop: most that width / height may change by", 1, 4)
    flip: float = _set(0.5, "probability of the mirror image; 0 where left and right mean something", 0, 1)
    mixup: float = _set(0.0, "alpha of the share in which two images are mixed; 0: never", 0, 10)
    norm: str = _set("learn", "statistics of BatchNorm: learn them, or keep those it starts from", choices=NORMS)
    ema: float = _set(
        0.99, "decay of the averaged weights, which are what is judged and written; 0: no averaging", 0, 0.99999
    )
    patience: int = _set(4, "epochs without progress until it stops early", 1, 10_000)
    class_weights: str = _set("none", "by 1 / count (balanced), its root (sqrt), or none", choices=CLASS_WEIGHTS)
    smallest: int = _set(
        0, "px of training images in the first epochs, growing to the network's in the last quarter; 0: never smaller"
    )
    val_share: float = _set(0.2, "of each class, held out where the folder has no val/", 0.01, 0.9)
    precision: str = _set("auto", "auto: bf16 or fp16 mixed precision on a GPU, fp32 on a CPU", choices=PRECISIONS)
    seed: int = _set(0, "of everything random", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        for each in fields(self):
            value, limits = getattr(self, each.name), each.metadata
            if limits["choices"]:
                if value not in limits["choices"]:
                    raise UserError(f"{each.name} {value}: choose one of {', '.join(limits['choices'])}.")
            elif not (isinstance(value, (int, float)) and limits["low"] <= value <= limits["high"]):
                raise UserError(f"{each.name} {value}: between {limits['low']:g} and {limits['high']:g}.")

    def facts(self) -> dict[str, Any]:
        return asdict(self)


# Named sets of settings. cifar10 follows the transfer of the EfficientNet paper (section 5.2, appendix: ImageNet weights,
# images enlarged to the network's resolution, all layers trained) with the optimiser of this project.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {
        "epochs": 15,
        "batch": 64,
        "head": 0,
        "lr": 1e-3,
        "backbone": 0.5,
        "weight_decay": 0.05,
        "smoothing": 0.1,
        "drop_path": 0.2,
        "policy": "autoaugment",
        "area": 0.5,
        "mixup": 0.2,
        "ema": 0.999,
        "patience": 15,
    },
}


def settings_for(
    sizes: list[int], pretrained: bool, preset: str | None, given: Mapping[str, Any], cost: float = 0.4e9
) -> Settings:
    """Defaults for so many training images of each class, and a network of `cost` MACs; then the preset's, then
    what was `given` (None: not).

    Few images: few steps from the pretrained weights and mild augmentation; many: mixup and a longer average. From
    nothing: many passes and a higher rate everywhere. (BiT's rule, Kolesnikov et al. 2020, arXiv:1912.11370, section 3.3,
    also goes by the size of the data alone: 500 steps below 20k images, mixup from there on.)
    Raises UserError for a value that can't be.
    """
    total = sum(sizes)
    chosen: dict[str, Any] = {"batch": max(4, min(32, 1 << int(math.log2(_BATCH_COST / cost))))}
    if pretrained:
        chosen["epochs"] = 6 if total < 1_000 else 8 if total < 20_000 else 10
        if total >= 20_000:
            chosen |= {"mixup": 0.1, "magnitude": 9}
    else:
        chosen |= {
            "epochs": min(200, max(30, 60_000 // total)),
            "head": 0,
            "backbone": 1.0,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "area": 0.25,
            "magnitude": 9,
            "drop_path": 0.2,
        }
    if min(sizes) * _LOPSIDED < max(sizes):
        chosen["class_weights"] = "sqrt"
    chosen |= PRESETS[preset] if preset else {}
    chosen |= {name: value for name, value in given.items() if value is not None}
    settings = Settings(**chosen)
    if settings.batch > total:
        settings = replace(settings, batch=max(2, total))
    if pretrained and settings.batch < _FEW and given.get("norm") is None:
        settings = replace(settings, norm="keep")
    steps = settings.epochs * max(1, total // settings.batch)
    if given.get("ema") is None and not (preset and "ema" in PRESETS[preset]):
        settings = replace(
            settings, ema=round(min(0.9999, max(0.9, 1 - 10 / max(steps, 1))), 5)
        )  # over a tenth of the steps
    if given.get("patience") is None and not (preset and "patience" in PRESETS[preset]):
        settings = replace(settings, patience=max(3, settings.epochs // 3))
    return settings
