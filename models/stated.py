"""What a checkpoint says of its own network: timm's `arch`, training arguments and pretrained_cfg, Hugging Face's config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.artifacts.variant_names import mentioned

_NAMES = ("architecture", "arch", "model", "model_name", "backbone", "encoder", "encoder_name", "variant", "net")
_WITHIN = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt")
_MOST_BYTES = 4 << 20  # of a config.json: ImageNet-21k's names of classes are in it


@dataclass(frozen=True)
class Stated:
    """What is said, and where; nothing where a file says nothing."""

    architecture: str = ""  # tf_efficientnet_b0.ns_jft_in1k
    settings: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of Preprocessing
    where: str = ""


def stated(held: Any, path: Path) -> Stated:
    """What the checkpoint's own content `held`, else a config.json beside `path`, says of its architecture and preprocessing."""
    found = _read(held, f"{path.name} itself")
    if not found.where and path.name in ("model.safetensors", "pytorch_model.bin"):
        beside = path.with_name("config.json")
        try:
            if beside.stat().st_size < _MOST_BYTES:
                found = _read(json.loads(beside.read_text(encoding="utf-8")), "config.json beside it")
        except (OSError, ValueError, RecursionError):  # none, or none that can be read
            pass
    return found


def _read(held: Any, where: str) -> Stated:
    if not isinstance(held, Mapping):
        return Stated()
    inner = [held, getattr(held, "state", {}), *(held.get(key) for key in _WITHIN)]
    places = [place for each in inner for place in (each, getattr(each, "state", None)) if isinstance(place, Mapping)]
    names = [place.get(key) for place in places for key in _NAMES]
    architecture = next((name for name in names if isinstance(name, str) and mentioned(name)), "")
    configs = [place.get(key) for place in places for key in ("pretrained_cfg", "default_cfg")]
    settings: dict[str, Any] = {}
    for config in [*places, *configs] if architecture else configs:  # what training set goes before what it began from
        for name, value in _settings(config).items():
            settings.setdefault(name, value)
    return Stated(architecture, settings, where) if architecture or settings else Stated()


def _settings(config: Any) -> dict[str, Any]:
    """Settings of preprocessing under timm's names, as far as they are possible."""
    if not isinstance(config, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name in ("mean", "std"):
        values: Any = config.get(name)
        three = (
            isinstance(values, list | tuple) and len(values) == 3 and all(isinstance(v, int | float) for v in values)
        )
        if three and (name == "mean" or min(values) > 0):
            found[name] = tuple(float(v) for v in values)
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
