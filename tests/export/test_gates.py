"""What keeps a wrong export from being written, or an old one from being taken for a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.parity import ParityError, gate_torch
from export.stage import Request, up_to_date
from export.to_onnx import traced
from models.pretrained import load_pretrained
from models.variants import VARIANTS
from models.weights import Weights


class Pooled(nn.Module):
    """Images -> logits of three classes, the first two of them nearly the same."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 3)
        self.classifier.weight.data = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, -1.0]])
        self.classifier.bias.data = torch.tensor([5.0 + 2e-5, 5.0, 0.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(x.mean((2, 3)))


def test_a_change_of_the_first_class_is_an_error_however_small(tmp_path: Path) -> None:
    """4e-6 relative error is within the tolerance, and another class is first."""
    network = Pooled().eval()
    images = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    model = traced(network, 16)
    assert gate_torch(network, model, images, "traced") < 1e-6
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.shape == (3,):
            tensor.CopyFrom(numpy_helper.from_array(value[[1, 0, 2]].copy(), tensor.name))
    onnx.checker.check_model(model)
    with pytest.raises(ParityError, match="does not compute what the network does"):
        gate_torch(network, model, images, "traced")


def test_another_version_of_the_code_exports_again(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(VARIANTS["b0"], Weights(None, "random weights"), {"resolution": 64})
    assert up_to_date(request, small)
    monkeypatch.setattr("export.stage.code_digest", lambda: "another")
    assert not up_to_date(request, small)


def test_random_networks_tell_images_apart() -> None:
    """Unsettled, logits hardly depend on the image, and every comparison of precisions passes for nothing."""
    pretrained = load_pretrained(VARIANTS["b0"], Weights(None, "random weights"), {"resolution": 64})
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32))
    with torch.no_grad():
        logits = pretrained.network(images)
    assert 0.1 < float(logits.std(dim=0).mean()) < 10
