"""The gate between two forms of one network: the same images in, the same logits (or maps, or embedding) out, or nothing
is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from PIL import Image

from export.graphs import run_on_cpu, with_outputs
from export.to_onnx import OUTPUT
from models.dead_leaves import dead_leaves
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing, normalize

FP32_TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit; of each other output likewise
FP16_COSINE = 0.9999  # of each output for each image


class ParityError(UserError):
    """Two forms of a network that should agree do not. Ours to mend more often than the user's."""

    status = 1


def gate_images(preprocessing: Preprocessing, count: int = 3) -> np.ndarray:
    """`count` made images, normalised as the network wants: float32 [count, 3, resolution, resolution]."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return ((dead_leaves(count, preprocessing.resolution, seed=1) - mean) / std).astype(np.float32)


def gate_squares(preprocessing: Preprocessing, count: int = 3) -> np.ndarray:
    """The same made images as a camera would give them: uint8 [count, resolution, resolution, 3]."""
    pictures = dead_leaves(count, preprocessing.resolution, seed=1).transpose(0, 2, 3, 1)
    return np.ascontiguousarray((pictures * 255).round().clip(0, 255).astype(np.uint8))


def gate_torch(network: torch.nn.Module, model: onnx.ModelProto, images: np.ndarray, step: str) -> float:
    """Largest relative error of `model`'s outputs against the torch `network`'s, at batch 1 and at the batch of `images`.

    Raises ParityError, naming the first block that differs, if it is above FP32_TOLERANCE or a top-1 class changes.
    """
    expected = _torch_outputs(network, images)
    classifies = model.graph.output[0].name == OUTPUT
    worst = 0.0
    for batch in (images[:1], images):
        wanted, got = [tensor[: len(batch)] for tensor in expected], run_on_cpu(model, batch)
        error = _largest_error(wanted, got)
        same = not classifies or (wanted[0].argmax(1) == got[0].argmax(1)).all()
        if not error <= FP32_TOLERANCE or not same:
            found = first_divergence(
                _torch_blocks(network, batch), model, batch, lambda a, b: relative_error(a, b) <= FP32_TOLERANCE
            )
            raise ParityError(
                f"{step}: the ONNX graph does not compute what the network does (relative error {error:.1e}, at most "
                f"{FP32_TOLERANCE:.0e}, at batch {len(batch)}). {found} Nothing was written."
            )
        worst = max(worst, error)
    return worst


def gate_fp16(model: onnx.ModelProto, half: onnx.ModelProto, images: np.ndarray) -> float:
    """Smallest cosine between an output of `model` and of `half` over `images`. Raises ParityError below FP16_COSINE."""
    names = block_outputs(model)
    outputs = [output.name for output in model.graph.output]
    cosines = [
        [cosine(a, b) for a, b in zip(expected, got, strict=True)]
        for expected, got in zip(run_on_cpu(model, images), run_on_cpu(half, images), strict=True)
    ]
    worst = float(np.min(cosines))
    if not worst >= FP16_COSINE:  # NaN fails too
        tensors = run_on_cpu(with_outputs(model, list(names.values())), images, list(names.values()))
        blocks = dict(zip(names, tensors))
        found = first_divergence(blocks, half, images, lambda a, b: cosine(a, b) >= FP16_COSINE)
        raise ParityError(
            f"FP16: the cosine of {outputs[int(np.min(cosines, axis=1).argmin())]} against FP32 is {worst:.6f}, below "
            f"{FP16_COSINE}. {found} The weights or "
            "activations do not fit FP16's range. Nothing was written."
        )
    return worst


def gate_pixels(
    network: torch.nn.Module,
    floats: Mapping[str, onnx.ModelProto],
    pixels: Mapping[str, onnx.ModelProto],
    preprocessing: Preprocessing,
) -> float:
    """Largest relative error of each of `pixels` (by precision) against that of `floats`, which gets the same images
    as `runtime.images.preprocess.normalize` makes them; 0 where all bits are the same.

    Raises ParityError if that, or the error of FP32 against the torch `network`, is above FP32_TOLERANCE.
    """
    squares = gate_squares(preprocessing)
    images = np.stack([normalize(Image.fromarray(square), preprocessing) for square in squares])
    worst = 0.0
    for precision, model in pixels.items():
        got = run_on_cpu(model, squares)
        errors = [_largest_error(run_on_cpu(floats[precision], images), got)]
        errors += [_largest_error(_torch_outputs(network, images), got)] if precision == "fp32" else []
        if not all(error <= FP32_TOLERANCE for error in errors):  # NaN fails too
            raise ParityError(
                f"uint8 input: fed with pixels, the {precision} graph does not compute what it does on them normalised "
                f"(relative error {max(errors):.1e}, at most {FP32_TOLERANCE:.0e}). Nothing was written."
            )
        worst = max(worst, errors[0])
    return worst


def _largest_error(expected: list[np.ndarray], got: list[np.ndarray]) -> float:
    """The worst `relative_error` of outputs; NaN if one of them is."""
    return float(np.max([relative_error(a, b) for a, b in zip(expected, got, strict=True)]))


def relative_error(expected: np.ndarray, got: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value expected; NaN where either is not finite."""
    return float(np.abs(expected - got).max() / max(float(np.abs(expected).max()), 1e-30))


def cosine(expected: np.ndarray, got: np.ndarray) -> float:
    """Cosine of the angle between two tensors taken as vectors, in float64."""
    a, b = expected.ravel().astype(np.float64), got.ravel().astype(np.float64)
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))


def block_outputs(model: onnx.ModelProto) -> dict[str, str]:
    """Name of the tensor that leaves stem, each block, head and classifier of a graph that `to_onnx.trace` wrote."""
    names: dict[str, str] = {}
    for node in model.graph.node:
        first = node.name.strip("/").split("/")[0]
        if first.startswith(("stem", "stages.", "head", "classifier")):
            names[first] = node.output[0]  # the last node of a block wins
    return names


def first_divergence(
    blocks: dict[str, np.ndarray],
    model: onnx.ModelProto,
    images: np.ndarray,
    agree: Callable[[np.ndarray, np.ndarray], bool],
) -> str:
    """A sentence naming the first block whose output in `model` does not `agree` with the one expected in `blocks`."""
    outputs = {block: tensor for block, tensor in block_outputs(model).items() if block in blocks}
    names = list(outputs.values())
    tensors = run_on_cpu(with_outputs(model, names), images, names)
    for block, tensor in zip(outputs, tensors):
        if not agree(blocks[block], tensor.astype(np.float32)):
            return f"They part first in {block}."
    return "Every block agrees by itself; the differences add up."


@torch.no_grad()
def _torch_outputs(network: torch.nn.Module, images: np.ndarray) -> list[np.ndarray]:
    found = network(torch.from_numpy(images))
    return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]


def _torch_blocks(network: torch.nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """What leaves stem, each block, head and classifier."""
    seen: dict[str, np.ndarray] = {}
    hooks = []
    for name, module in network.named_modules():
        if name in ("stem", "head", "classifier") or (name.startswith("stages.") and name.count(".") == 2):

            def keep(_module: torch.nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
                seen[name] = output.numpy()

            hooks.append(module.register_forward_hook(keep))
    try:
        _torch_outputs(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
