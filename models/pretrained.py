"""From a variant's name to a network that is ready to run, with everything that must be known to run it right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.checkpoints import CHANGED, GREY, HALF, Recipe, default_recipe, recipe_of
from models.dead_leaves import dead_leaves
from models.network import EfficientNet, settle
from models.reader import CheckpointFile, classes_of, load_into, own_recipe, read_checkpoint
from models.variants import Variant
from models.weights import Weights
from runtime.errors import UserError

# px, at most: on smaller maps the zeros around them weigh too much in the statistics, and larger ones only take longer.
_SETTLING_RESOLUTION = 224


@dataclass(frozen=True)
class Pretrained:
    """A network in evaluation mode and what belongs to its weights."""

    network: EfficientNet
    recipe: Recipe
    labels: list[str] | None  # what the checkpoint itself says; None where it says nothing
    sha256: str | None  # of the checkpoint file; None for random weights
    origin: str
    format: str  # of the checkpoint's keys, or "random"
    notes: tuple[str, ...] = ()  # for the user


def load_pretrained(
    variant: Variant, weights: Weights, overrides: Mapping[str, Any] | None = None, classes: int = 1000
) -> Pretrained:
    """`variant` with `weights`; `overrides` (padding, eps, resolution, crop, interpolation, mean, std) replace the recipe's.

    The number of classes is the checkpoint's; `classes` counts for random weights only, which are made from a fixed
    seed and given BatchNorm statistics (see models.network.settle). Raises UserError if the file does not fit.
    """
    chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
    if weights.path is None:
        recipe = _overridden(default_recipe(variant), chosen)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = EfficientNet(variant, classes, recipe.padding, recipe.eps).eval()
        images = dead_leaves(6, min(_SETTLING_RESOLUTION, recipe.preprocessing.resolution))
        settle(network, torch.from_numpy(images - np.float32(0.5)) * 4)
        return Pretrained(network, recipe, None, None, weights.origin, "random")
    file = read_checkpoint(weights.path, variant)
    own = own_recipe(file)
    recipe, labels = own or (recipe_of(variant, weights.path.name, file.form, weights.checkpoint, file.stated), None)
    if file.greyscale:
        recipe = _alike(recipe)
    recipe = _overridden(recipe, chosen)
    if file.greyscale and any(len(set(each)) > 1 for each in (recipe.preprocessing.mean, recipe.preprocessing.std)):
        raise UserError(f"{file.path} takes greyscale, so mean and std have one value each: MEAN=0.5 STD=0.5, say.")
    network = EfficientNet(variant, classes_of(file), recipe.padding, recipe.eps).eval()
    load_into(network, file)
    return Pretrained(
        network,
        recipe,
        labels,
        file.sha256,
        weights.origin,
        file.form,
        (*file.notes, *_unsure(variant, file, recipe, chosen)),
    )


def _alike(recipe: Recipe) -> Recipe:
    """The recipe with one mean and one std for all channels, which greyscale has."""
    mean, std = recipe.preprocessing.mean, recipe.preprocessing.std
    if len(set(mean)) > 1 or len(set(std)) > 1:
        mean, std = GREY
    return replace(recipe, preprocessing=recipe.preprocessing._replace(mean=mean, std=std))


def _unsure(variant: Variant, file: CheckpointFile, recipe: Recipe, chosen: Mapping[str, Any]) -> list[str]:
    """What to try where neither the file nor its name says how its weights want to be run, and several ways are usual."""
    if {"mean", "std"} & {*chosen, *file.stated.settings}:
        return []
    if file.greyscale:
        return [
            "nothing says how greyscale was normalised. If the accuracy is below what it should be, try MEAN=0.5 STD=0.5"
        ]
    architecture = file.stated.architecture(variant.name)
    if architecture.lower() in CHANGED:
        return [
            f"timm's {architecture} took MEAN=0.485,0.456,0.406 STD=0.229,0.224,0.225 in earlier versions: try that if the "
            "accuracy is below what it should be"
        ]
    if not recipe.because.startswith("convention of") or chosen or file.form not in ("timm", "lukemelas"):
        return []
    if file.form == "lukemelas" and variant.name.startswith("lite"):
        return []  # only the packages in PACKAGES have Lite in this form, all normalised alike
    half, imagenet = "MEAN=0.5,0.5,0.5 STD=0.5,0.5,0.5", "MEAN=0.485,0.456,0.406 STD=0.229,0.224,0.225"
    other = imagenet if recipe.preprocessing.mean == HALF[0] else half
    padding = "PADDING=same EPS=0.001 (timm's tf_ models), or " if recipe.padding == "symmetric" else ""
    return [
        f"nothing says how these weights were trained. If the accuracy is below what it should be, try {padding}{other}"
    ]


def _overridden(recipe: Recipe, chosen: Mapping[str, Any]) -> Recipe:
    if not chosen:
        return recipe
    outer = {name: value for name, value in chosen.items() if name in ("padding", "eps")}
    inner = {name: value for name, value in chosen.items() if name not in outer}
    because = f"{recipe.because}; set by hand: {', '.join(chosen)}"
    return replace(recipe, **outer, preprocessing=recipe.preprocessing._replace(**inner), because=because)
