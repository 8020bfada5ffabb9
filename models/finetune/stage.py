"""The fine-tuning stage: images and a checkpoint in, a checkpoint with their classes and a report out."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.checkpoints import Recipe, default_recipe
from models.finetune.cifar import find_cifar10
from models.finetune.dataset import Data, find, load
from models.finetune.memory import free_memory, keep_freed_memory
from models.finetune.report import write_report
from models.finetune.settings import Settings, settings_for
from models.finetune.state import key_of, read_state, training_of, write_checkpoint, write_state
from models.finetune.train import Answers, Note, Training, judge
from models.network import EfficientNet, macs_of
from models.pretrained import load_pretrained
from models.reader import load_into, read_checkpoint
from models.variants import VARIANTS, Variant
from models.weights import Weights
from runtime.artifacts.facts import NAME
from runtime.artifacts.variant_names import canonical
from runtime.errors import UserError

DATASETS = {"folder": find, "cifar10": find_cifar10}


@dataclass(frozen=True)
class Request:
    """What the user wants trained on what. `overrides` are of the checkpoint's recipe, `given` of the settings."""

    folder: Path
    variant: Variant
    weights: Weights
    output: Path  # a folder
    dataset: str = "folder"  # a key of DATASETS
    overrides: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"  # or "cpu", "cuda", "cuda:1"
    memory: int | None = None  # bytes of pixels that are kept; None: half of what is free
    fresh: bool = False  # do not go on with an interrupted training

    @property
    def checkpoint(self) -> Path:
        return self.output / f"{self.variant.name}.safetensors"

    @property
    def state(self) -> Path:
        return self.output / f"{self.variant.name}.training"


@dataclass(frozen=True)
class Finished:
    """What came of it."""

    checkpoint: Path
    report: Path | None  # None: nothing had changed, so nothing was done
    lines: list[str]  # for the user


def finetune(request: Request, note: Note = lambda *_: None, say: Callable[[str], None] = lambda _: None) -> Finished:
    """Trains and writes `request.checkpoint`, which is whole and the best so far at any moment, and a report beside it.

    Goes on with an interrupted training of the same images, settings and weights, to the same result. Raises UserError.
    """
    began = time.perf_counter()
    device = _device(request.device)
    keep_freed_memory()
    found = DATASETS[request.dataset](request.folder)
    network, recipe, start, labels = _starting_point(request, len(found.classes))
    sizes = np.bincount([labelled.label for labelled in found.train], minlength=len(found.classes))
    pretrained = request.weights.path is not None
    preset = None if request.dataset == "folder" else request.dataset
    cost = macs_of(network, recipe.preprocessing.resolution)
    settings = settings_for([int(size) for size in sizes], pretrained, preset, request.given, cost)
    if settings.smallest and not 32 <= settings.smallest < recipe.preprocessing.resolution:
        raise UserError(
            f"smallest {settings.smallest}: between 32 and the network's {recipe.preprocessing.resolution} px."
        )
    if labels == found.classes and request.given.get("head") is None:
        settings = replace(settings, head=0)  # it knows these classes already
    key = key_of(found, settings, f"{request.variant.name} {start}", recipe)
    held, why = (None, "") if request.fresh else read_state(request.state, key)
    if why:
        say(why)
    elif held is None and not request.fresh and _trained_already(request.checkpoint, key):
        already = f"{request.checkpoint} is trained already: same images, settings and weights (FORCE=1 trains again)"
        return Finished(request.checkpoint, None, [already, _next(request)])

    memory = request.memory if request.memory is not None else free_memory() // 2
    share = settings.val_share
    data = load(
        found, recipe.preprocessing, share, settings.seed, memory, lambda done, of: note("reading images", done, of)
    )
    for line in [
        *data.notes,
        *([f"{len(data.skipped)} images can't be read: {data.skipped[0]}"] if data.skipped else []),
    ]:
        say(line)
    training = Training(network, data, settings, device)
    if held:
        training.restore(held)
        say(f"going on with epoch {training.progress.epoch}, step {training.progress.step} (FORCE=1 starts anew)")
    facts = {"key": key, "from": start, "settings": settings.facts(), "train": len(data.train), "val": len(data.val)}

    def write_best(best: nn.Module) -> None:
        write_checkpoint(request.checkpoint, best, recipe, data.classes, {**facts, "epoch": training.progress.epoch})

    training.run(write_best, lambda state: write_state(request.state, key, state), note)
    answers = _judge_best(request, recipe, data, device, settings, note)
    seconds = time.perf_counter() - began
    page = write_report(request.checkpoint, data, settings, training.progress, answers, start, recipe, seconds)
    request.state.unlink(missing_ok=True)
    return Finished(request.checkpoint, page, _lines(request, data, training, answers, page, seconds))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no GPU here.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: choose auto, cpu or cuda.") from None


def _starting_point(request: Request, classes: int) -> tuple[EfficientNet, Recipe, str, list[str] | None]:
    """(the network with a classifier of `classes`, how to run it, what it is in words, the classes that it knows already)."""
    variant = request.variant
    seed = int(request.given.get("seed") or 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if request.weights.path is None:
            recipe = default_recipe(variant)
            inner = {n: v for n, v in request.overrides.items() if v is not None and n not in ("padding", "eps")}
            outer = {n: v for n, v in request.overrides.items() if v is not None and n in ("padding", "eps")}
            recipe = replace(recipe, **outer, preprocessing=recipe.preprocessing._replace(**inner))
            network = EfficientNet(variant, classes, recipe.padding, recipe.eps)
            _blank(network.classifier)
            return network, recipe, "nothing (random weights)", None
        pretrained = load_pretrained(variant, request.weights, request.overrides)
        network = pretrained.network
        start = f"{pretrained.origin} (sha256 {(pretrained.sha256 or '')[:12]})"
        if network.classifier.out_features != classes or pretrained.labels is None:
            network.classifier = nn.Linear(variant.head_channels, classes)
            _blank(network.classifier)
            return network, pretrained.recipe, start, None
        return network, pretrained.recipe, start, pretrained.labels


def _blank(classifier: nn.Linear) -> None:
    """The reference's range, 1 / sqrt(classes), is meant for a thousand: of three classes the first loss would be 9."""
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)


def _trained_already(path: Path, key: str) -> bool:
    if not path.is_file() or not path.with_suffix(".html").is_file():
        return False
    try:
        return training_of(path).get("key") == key
    except UserError:
        return False


def _judge_best(
    request: Request, recipe: Recipe, data: Data, device: torch.device, settings: Settings, note: Note
) -> Answers:
    """What the checkpoint on the disk says: not the last network, and read as export will read it."""
    network = EfficientNet(request.variant, len(data.classes), recipe.padding, recipe.eps).eval()
    load_into(network, read_checkpoint(request.checkpoint))
    return judge(network.to(device), data, device, settings.batch, note)


def _lines(request: Request, data: Data, training: Training, answers: Answers, page: Path, seconds: float) -> list[str]:
    rows, labels = training.progress.rows, training.labels
    best = max(rows, key=lambda row: (row["top1"] if training.weights is None else row["balanced"], -row["val_loss"]))
    split = "its own val/" if data.given else "held out"
    return [
        f"images     {len(data.train)} to learn from, {len(data.val)} to judge by ({split}), {len(data.skipped)} unreadable",
        f"classes      {len(data.classes)}: {', '.join(data.classes[:6])}{', ...' if len(data.classes) > 6 else ''}",
        f"top-1        {answers.top1(labels):.1f} % on validation, mean of the classes {answers.balanced(labels):.1f} %"
        f" (best epoch {best['epoch']:.0f} of {rows[-1]['epoch']:.0f}; classifier alone {rows[0]['top1']:.1f} %)",
        f"wrote        {request.checkpoint}  {request.checkpoint.stat().st_size / 1e6:.1f} MB",
        f"wrote        {page}, {page.with_suffix('.json').name}",
        f"took         {seconds:.0f} s",
        _next(request),
    ]


def _next(request: Request) -> str:
    name, weights = request.checkpoint.resolve().parent.name, shlex.quote(os.fspath(request.checkpoint))
    named = f" NAME={name}" if NAME.fullmatch(name) and canonical(name) not in VARIANTS else ""
    return f"Next         make export VARIANT={request.variant.name}{named} WEIGHTS={weights}"
