"""The gates between two forms of a network, on graphs of a few nodes: what they let through, and what not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.parity import ParityError, gate_fp16, gate_torch


def linear(weight: np.ndarray) -> onnx.ModelProto:
    """logits = images @ weight.T, for images [N, D]."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["images", "w"], ["logits"], "classifier/Gemm", transB=1)],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", weight.shape[1]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", weight.shape[0]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Linear(torch.nn.Module):
    """The same in torch."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(*weight.shape[::-1], bias=False)
        self.classifier.weight.data = torch.from_numpy(weight.astype(np.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(images)


IMAGES = np.eye(3, dtype=np.float32)
# For the first image the two best classes are as close as FP32 can tell at this size.
CLOSE = np.array([[1000.0, 2, 3], [1000.0 - 0.01, 5, 1], [3, 1, 9]])


def test_the_same_network_passes() -> None:
    assert gate_torch(Linear(CLOSE), linear(CLOSE), IMAGES, "step") < 1e-6


@pytest.mark.parametrize("image", [0, 1])  # the first one, which is also run alone, and the second
def test_a_top_1_class_that_changes_fails_however_small_the_error(image: int) -> None:
    weight = CLOSE if image == 0 else CLOSE[:, [1, 0, 2]]
    changed = weight.copy()
    changed[1, image] += 0.02  # 2e-5 of the largest logit: the tolerance is 1e-4
    with pytest.raises(ParityError, match=r"step: .*relative error 2\.0e-05"):
        gate_torch(Linear(weight), linear(changed), IMAGES, "step")


def test_an_error_beyond_the_tolerance_fails_though_every_class_stays() -> None:
    changed = CLOSE.copy()
    changed[0, 0] += 0.2
    with pytest.raises(ParityError, match=r"relative error 2\.0e-04"):
        gate_torch(Linear(CLOSE), linear(changed), IMAGES, "step")


def test_nan_fails() -> None:
    changed = CLOSE.copy()
    changed[2, 2] = np.nan
    with pytest.raises(ParityError):
        gate_torch(Linear(CLOSE), linear(changed), IMAGES, "step")
    with pytest.raises(ParityError):
        gate_fp16(linear(CLOSE), linear(changed), IMAGES)


def test_one_image_that_fp16_spoils_is_enough() -> None:
    changed = CLOSE.copy()
    changed[0, 2] = 9
    with pytest.raises(ParityError, match="FP16: the cosine of logits against FP32 is 0.89"):
        gate_fp16(linear(CLOSE), linear(changed), IMAGES)
