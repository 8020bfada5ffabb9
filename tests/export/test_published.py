"""The published accuracy that an artifact carries: that of its very weights, else the variant's, and never a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.stage import Request, published
from models.variants import VARIANTS
from models.weights import Weights

FILE = Weights(Path("some.pth"), "by path")
TORCHVISION = "7f5810bc" + "0" * 56  # begins as the sha256 of torchvision's b0 does


@pytest.mark.parametrize(
    ("request_", "sha256", "form", "classes", "expected"),
    [
        (Request(VARIANTS["b0"], FILE), TORCHVISION, "torchvision", 1000, "77.692"),
        (Request(VARIANTS["b0"], FILE), "f" * 64, "timm", 1000, "77.1"),
        (Request(VARIANTS["b7"], Weights(None, "random weights")), None, "random", 1000, "84.3"),
        (Request(VARIANTS["b0"], FILE), "f" * 64, "timm", 10, None),  # trained on something else
        (Request(VARIANTS["b0"], FILE), "f" * 64, "ours", 1000, None),  # trained by the user
        (Request(VARIANTS["b0"], FILE, {"resolution": 192}), TORCHVISION, "torchvision", 1000, None),
        (Request(VARIANTS["b0"], FILE, {"resolution": None}), TORCHVISION, "torchvision", 1000, "77.692"),
    ],
)
def test_published_top1(request_, sha256, form, classes, expected):
    assert published(request_, sha256, form, classes).get("published_top1") == expected
