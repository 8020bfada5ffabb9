"""Classifiers of timm (optional: pip install --no-deps timm torchvision) as networks to export, with the preprocessing that
their weights were published with."""

from __future__ import annotations

import hashlib
import importlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from models.dead_leaves import dead_leaves
from models.hub import stay_offline, unreachable
from models.reader import read_tensors
from models.weights import RANDOM
from runtime.artifacts.facts import NAME
from runtime.artifacts.third_party import Overrides
from runtime.artifacts.variant_names import TIMM, canonical
from runtime.errors import UserError
from runtime.images.preprocess import INTERPOLATIONS, Preprocessing
from runtime.invocation import install

# A trained network's residual branches add little each; those that timm starts at zero would leave dead layers.
_BRANCH = 0.1
_OPERATORS = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # they last as long as it does


@dataclass(frozen=True)
class TimmNetwork:
    """A network in evaluation mode, and what belongs to its weights."""

    network: nn.Module
    preprocessing: Preprocessing
    classes: int
    origin: str
    sha256: str  # of the weights' file, else of its tensors; "" for random ones
    notes: list[str]


def artifact_name(variant: str) -> str:
    """timm:resnet50.a1_in1k -> timm-resnet50.a1_in1k. Raises UserError for what can't be a model's name."""
    name = canonical(variant)
    if not NAME.fullmatch(name) or name == canonical(TIMM):
        raise UserError(
            f"'{variant}' names no model of timm: write timm:resnet50, or with its weights timm:resnet50.a1_in1k."
        )
    return name


def import_timm(offline: bool = False) -> ModuleType:
    """timm. Raises UserError if it, or what it needs, is not installed."""
    if offline:
        stay_offline()
    try:
        try:
            importlib.import_module("torchvision")
        except RuntimeError:  # its compiled operators don't load beside another torch, and it asks for two of them
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")
            for operator in _OPERATORS:
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError(
            f"timm can't be imported ({error}): {install('--no-deps', 'timm', 'torchvision')}, and {install('huggingface_hub')} "
            "safetensors pyyaml. With their dependencies they would bring another torch."
        ) from None


def load_timm(
    variant: str, weights: str | None, overrides: Overrides, classes: int, offline: bool = False
) -> TimmNetwork:
    """timm's model `variant` ("timm:NAME") with `weights`: a file, "random", or None for those that timm downloads or finds in
    its cache. `overrides` replace what they were published with; `classes` counts for random weights only.

    Raises UserError if timm is missing, has no such model, or the weights can't be had or don't fit.
    """
    name = variant[len(TIMM) :]
    away = unreachable() if not weights and not offline else ""  # timm's library would ask for a minute
    timm = import_timm(offline or bool(away))
    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:8]}*")[:6])
        raise UserError(f"timm {timm.__version__} has no model '{name}'.{f' There are: {near}.' if near else ''}")
    logging.getLogger("timm").setLevel(logging.ERROR)
    options: dict[str, Any] = {"exportable": True}
    sha256 = ""
    if weights == RANDOM:
        options["num_classes"] = classes
    elif weights:
        path = Path(weights).expanduser()
        tensors, sha256 = read_tensors(path)
        head = timm.get_pretrained_cfg(name).classifier
        head = head if isinstance(head, str) else next(iter(head or ()), "")
        found = tensors.get(f"{head}.weight")
        if found is None:
            raise UserError(f"{path} has no classifier ({head}.weight): is it {name}'s?")
        options.update(pretrained=True, num_classes=len(found))
        options["pretrained_cfg_overlay"] = {"state_dict": tensors, "num_classes": len(found)}
    else:
        options["pretrained"] = True
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = timm.create_model(name, **options).eval()
    except Exception as error:  # of the hub, of torch's loading, and RuntimeErrors of timm's own
        reason = " ".join(str(error).split())[:300]
        if away:
            raise UserError(
                f"The weights of timm's {name} are not in the hub's cache on this machine, and the hub was {away}: give "
                "WEIGHTS=path or WEIGHTS=random."
            ) from None
        where = f"from {weights}" if weights else "from timm's cache or the hub; give WEIGHTS=path or WEIGHTS=random"
        raise UserError(f"timm can't make {name} {where}: {reason}") from None
    preprocessing, notes = _preprocessing(timm, network, overrides)
    if weights == RANDOM:
        _settle(network, preprocessing.resolution)
        return TimmNetwork(network, preprocessing, classes, f"timm's {name}, random weights", "", notes)
    origin = f"{Path(weights).name}, as timm's {name}" if weights else f"timm's {_tagged(network, name)}"
    with torch.no_grad():
        if not all(value.isfinite().all() for value in network.state_dict().values() if value.is_floating_point()):
            raise UserError(f"The weights of {name} hold values that are not finite.")
    return TimmNetwork(network, preprocessing, int(network.num_classes), origin, sha256 or _digest(network), notes)


def _tagged(network: nn.Module, name: str) -> str:
    """The model's name with that of its weights."""
    held: Mapping[str, Any] = getattr(network, "pretrained_cfg", {})
    tag = held.get("tag") or ""
    return name if "." in name or not tag else f"{name}.{tag}"


def _preprocessing(timm: ModuleType, network: nn.Module, overrides: Overrides) -> tuple[Preprocessing, list[str]]:
    held = timm.data.resolve_model_data_config(network)
    channels, *sides = held["input_size"]
    side = overrides.resolution or sides[0]
    if channels != 3 or (len(set(sides)) > 1 and overrides.resolution is None):
        raise UserError(f"It takes images of {held['input_size']}: only square ones in colour are supported.")
    interpolation = overrides.interpolation or held["interpolation"]
    if interpolation not in INTERPOLATIONS:
        raise UserError(
            f"It wants images resized by '{interpolation}': choose INTERPOLATION={' or '.join(INTERPOLATIONS)}."
        )
    notes = []
    if held.get("crop_mode", "center") != "center":
        notes.append(f"timm evaluates it with crop mode '{held['crop_mode']}'; here the middle is cut out")
    mean, std = overrides.mean or tuple(held["mean"]), overrides.std or tuple(held["std"])
    return Preprocessing(side, overrides.crop or float(held["crop_pct"]), interpolation, mean, std), notes


@torch.no_grad()
def _settle(network: nn.Module, side: int) -> None:
    """Gives random weights BatchNorm statistics from images and logits of spread 1, as models.network.settle does for ours:
    else activations fade from layer to layer, and any comparison of precisions passes for nothing."""
    pictures = torch.from_numpy(dead_leaves(6, min(side, 224)) - np.float32(0.5)) * 4
    if side > 224:
        pictures = nn.functional.interpolate(pictures, size=(side, side))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        if norm.affine and not norm.weight.any():
            nn.init.constant_(norm.weight, _BRANCH)
        norm.momentum = None  # a cumulative average, so that one pass leaves just these statistics
        norm.reset_running_stats()
        norm.train()
    network(pictures)
    network.eval()
    spread = network(pictures).std(dim=0).mean().clamp(min=1e-6)
    head: Any = network.get_classifier()  # type: ignore[operator]  # of every model of timm's
    if isinstance(getattr(head, "weight", None), torch.Tensor):
        head.weight /= spread


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(
            name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else name.encode()
        )
    return digest.hexdigest()


def timm_version() -> str:
    try:
        return version("timm")
    except ImportError:
        return ""
