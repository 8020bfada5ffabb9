"""What a checkpoint says of its own network: timm's `arch`, training arguments and pretrained_cfg, Hugging Face's config.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.artifacts.variant_names import mentioned

_NAMES = ("architecture", "arch", "model", "model_name", "backbone", "encoder", "encoder_name", "variant", "net")
# Where training scripts keep their settings, one within the other
_WITHIN = (
    *("args", "hyper_parameters", "hparams", "config", "cfg", "opt", "model", "net", "network", "backbone", "encoder"),
    *("model_cfg", "model_config", "data", "data_config", "_modules", "module"),
)
_CONFIGS = ("pretrained_cfg", "default_cfg")
_DEEPEST = 5
_MOST_BYTES = 4 << 20  # of a config.json: ImageNet-21k's names of classes are in it
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")


@dataclass(frozen=True)
class Stated:
    """What is said, and where; nothing where a file says nothing."""

    architectures: tuple[str, ...] = ()  # tf_efficientnet_b0.ns_jft_in1k; the first that names the variant counts
    settings: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of Preprocessing
    where: str = ""

    def architecture(self, variant: str) -> str:
        """What is said of `variant`, without where it was published; "" for nothing."""
        named = next((name for name in self.architectures if mentioned(name) == variant), "")
        return named.rpartition(":")[2].rpartition("/")[2]


def stated(held: Any, path: Path) -> Stated:
    """What the checkpoint's own content `held`, else a config.json beside `path`, says of its architecture and preprocessing."""
    found = _read(held, f"{path.name} itself")
    if not found.where and _alone(path):
        beside = path.with_name("config.json")
        try:
            if beside.stat().st_size < _MOST_BYTES:
                found = _read(json.loads(beside.read_text(encoding="utf-8-sig")), "config.json beside it")
        except (OSError, ValueError, RecursionError):  # none, or none that can be read
            pass
    return found


def _alone(path: Path) -> bool:
    """Whether a config.json in the folder of `path` means `path`: by its name, or because no other weights are there."""
    if path.name in ("model.safetensors", "pytorch_model.bin"):
        return True
    try:
        return not any(each.suffix in _WEIGHTS and each.name != path.name for each in path.parent.iterdir())
    except OSError:
        return False


def _read(held: Any, where: str) -> Stated:
    places = list(_places(held))
    configs = [config for place in places for key in _CONFIGS for config in _mappings(place.get(key))]
    names = [place.get(key) for place in places for key in (*_NAMES, *(("name",) if place is not held else ()))]
    for config in configs:
        tag = config.get("tag")
        names.append(f"{config.get('architecture')}{f'.{tag}' if tag and isinstance(tag, str) else ''}")
    architectures = tuple(name for name in names if isinstance(name, str) and mentioned(name))
    settings: dict[str, Any] = {}
    for config in [*places, *configs] if architectures else configs:  # what training set goes before what it began from
        for name, value in _settings(config).items():
            settings.setdefault(name, value)
    return Stated(architectures, settings, where) if architectures or settings else Stated()


def _places(held: Any) -> Iterator[Mapping[Any, Any]]:
    """The dictionaries and objects in which a file may say something, the outermost first."""
    waiting = _mappings(held)
    for _ in range(_DEEPEST):
        yield from waiting
        waiting = [inner for place in waiting for key in _WITHIN for inner in _mappings(place.get(key))]


def _mappings(value: Any) -> list[Mapping[Any, Any]]:
    """`value` itself and what an object that stands in for another holds, as far as they are dictionaries."""
    return [each for each in (value, getattr(value, "state", None)) if isinstance(each, Mapping) and each]


def _settings(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings of preprocessing under timm's names, as far as they are possible."""
    found: dict[str, Any] = {}
    mean, std = (_three(config.get(name)) for name in ("mean", "std"))
    if mean and std and max(std) > 2:  # of colours from 0 to 255
        mean, std = tuple(each / 255 for each in mean), tuple(each / 255 for each in std)
    if mean and max(map(abs, mean)) <= 2:
        found["mean"] = mean
    if std and min(std) > 0 and max(std) <= 2:
        found["std"] = std
    size = config.get("test_input_size") or config.get("input_size") or config.get("img_size")
    side = size[-1] if isinstance(size, list | tuple) and size else size
    if isinstance(side, int) and 32 <= side <= 2048:
        found["resolution"] = side
    crop = config.get("test_crop_pct") or config.get("crop_pct")
    if isinstance(crop, int | float) and 0.1 <= crop <= 2:
        found["crop"] = float(crop)
    if config.get("interpolation") in ("bilinear", "bicubic", "lanczos"):
        found["interpolation"] = config["interpolation"]
    return found


def _three(values: Any) -> tuple[float, ...] | None:
    """Numbers for red, green and blue; one stands for all three, as of a network of greyscale. None for anything else."""
    values = values.tolist() if hasattr(values, "tolist") else values  # a tensor, without importing torch for it
    values = list(values) if isinstance(values, list | tuple) else [values]
    finite = all(isinstance(each, int | float) and math.isfinite(each) for each in values)
    return tuple(float(each) for each in values * (3 // len(values))) if finite and len(values) in (1, 3) else None
