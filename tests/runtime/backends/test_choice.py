"""Which backends "auto" tries, as a table."""

from __future__ import annotations

from typing import Tuple

import pytest

from runtime.backends import choice
from runtime.backends.cuda.driver import Gpu, Gpus

GPU = Gpus([Gpu(0, "Fake", (8, 9), 1, 12020)])
NONE, BROKEN = Gpus([], "The NVIDIA driver is not installed."), Gpus([], "CUDA can't be used: restart.", True)
BOTH = ("tensorrt", "tensorrt_rtx")


@pytest.mark.parametrize(
    ("precision", "found", "installed", "saturates", "tried"),
    [
        ("fp32", NONE, (), False, ("onnxruntime",)),
        ("fp32", NONE, (*BOTH, "openvino"), False, ("onnxruntime",)),  # without a GPU TensorRT is not even asked
        ("fp32", BROKEN, BOTH, False, ("onnxruntime",)),
        ("fp32", GPU, (), False, ("onnxruntime_cuda", "onnxruntime")),
        ("fp16", GPU, BOTH, False, (*BOTH, "onnxruntime_cuda", "onnxruntime")),
        ("fp16", GPU, ("tensorrt_rtx", "openvino"), False, ("tensorrt_rtx", "onnxruntime_cuda", "onnxruntime")),
        ("int8", NONE, ("openvino",), False, ("openvino", "onnxruntime")),
        ("int8", NONE, ("openvino",), True, ("onnxruntime",)),  # in FP32, as the Q/DQ nodes say
        ("int8", GPU, ("tensorrt", "openvino"), False, ("tensorrt", "onnxruntime_cuda", "openvino", "onnxruntime")),
        ("int8-fp16", NONE, ("openvino",), False, ("onnxruntime",)),
    ],
)
def test_what_auto_tries(
    precision: str, found: Gpus, installed: Tuple[str, ...], saturates: bool, tried: Tuple[str, ...]
) -> None:
    backends, said = choice(precision, found, installed, saturates)
    assert backends == tried
    assert ("on the CPU: CUDA can't be used: restart." in said) == found.broken
    assert not any("fp32.onnx" in sentence for sentence in said)  # a bundle holds none
    beside = choice(precision, found, installed, saturates, "b0.fp32.onnx").said
    assert any("b0.fp32.onnx" in sentence for sentence in beside) == (len(said) > found.broken)
    assert any("no VNNI" in sentence for sentence in said) == (saturates and precision.startswith("int8"))
