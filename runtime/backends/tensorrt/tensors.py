"""What an engine takes and gives: names, shapes, types and batch sizes of its tensors."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Tuple

import numpy as np

from ...errors import UserError

_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}  # of trt.DataType


class Output(NamedTuple):
    """One of an engine's outputs."""

    name: str
    shape: Tuple[int, ...]  # for one image: (classes,), or (C, H, W)
    dtype: Any


class Tensors(NamedTuple):
    """What an engine takes and gives."""

    input: str
    shape: Tuple[int, ...]  # of one image: (3, S, S) or (S, S, 3)
    input_dtype: Any
    outputs: List[Output]
    min_batch: int
    max_batch: int

    @staticmethod
    def of(trt: Any, engine: Any) -> Tensors:
        """Of an ICudaEngine of the module `trt`. Raises UserError if it isn't one for images."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        ranks = [len(shapes[name]) for name in outputs]
        if [len(shapes[name]) for name in inputs] != [4] or not ranks or set(ranks) - {2, 4}:
            raise UserError(
                f"This engine's tensors are {shapes}: not one input of images, and outputs of logits or maps."
            )
        source = inputs[0]
        known = {getattr(trt.DataType, name): dtype for name, dtype in _DTYPES.items()}
        takes, gives = engine.get_tensor_dtype(source), [engine.get_tensor_dtype(name) for name in outputs]
        if takes not in known or not all(kind in (trt.DataType.FLOAT, trt.DataType.HALF) for kind in gives):
            given = ", ".join(map(str, gives))
            raise UserError(
                f"This engine takes {takes} and gives {given}: choose FP32 or FP16 for both, or an input of UINT8."
            )
        results = [Output(name, shapes[name][1:], known[kind]) for name, kind in zip(outputs, gives)]
        batch = shapes[source][0]
        lowest, highest = batch, batch  # an engine without a dynamic batch
        if batch < 0:
            low, _, high = engine.get_tensor_profile_shape(source, 0)
            lowest, highest = int(tuple(low)[0]), int(tuple(high)[0])
        return Tensors(source, shapes[source][1:], known[takes], results, lowest, highest)
