"""What several tests of the networks need: the implementations to compare with, images, networks worth comparing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from models.dead_leaves import dead_leaves


@cache
def weightless(build: Callable[..., nn.Module], *arguments: str) -> nn.Module:
    """A network of theirs, of which only the layers count."""

    def keep(tensor: Tensor, *_: object, **__: object) -> Tensor:
        return tensor

    with torch.device("meta"), mock.patch("torch.Tensor.normal_", keep), mock.patch("torch.Tensor.uniform_", keep):
        return build(*arguments)  # torch takes a second to find out that there are no numbers to set


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    if not find_spec("torchvision"):
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:  # its compiled operators don't load beside a CPU-only torch, and it asks for two of them
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        module = importlib.import_module("torchvision")
        module.declared_operators = library  # they last as long as it does
        return module


@pytest.fixture(scope="session")
def timm(torchvision: ModuleType) -> ModuleType:
    if not find_spec("timm"):
        pytest.skip("timm is not installed: pip install --no-deps timm")
    return importlib.import_module("timm")


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Four, [4, 3, 101, 96]: one side makes "same" padding asymmetric in the stem and the other later."""
    return torch.from_numpy(dead_leaves(4, 101)[..., :96] - 0.5) * 4


@pytest.fixture(scope="session")
def lifelike(images: Tensor) -> Callable[[nn.Module], Tensor]:
    """Gives a freshly initialised network statistics and gains of its own, and returns its logits for `images`.

    Without them the logits would hardly depend on the input, and one BatchNorm in another's place would not be seen.
    """

    @torch.no_grad()
    def settle(network: nn.Module) -> Tensor:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # average over all passes, of which there is one
                module.reset_running_stats()
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
        network.train()(images)
        return network.eval()(images)

    return settle


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The shared images and checkpoints, where there are any."""
    if not os.environ.get("EFFICIENTNET_TEST_DATA"):
        pytest.skip("EFFICIENTNET_TEST_DATA is not set: no labelled images, no checkpoints")
    return Path(os.environ["EFFICIENTNET_TEST_DATA"])
