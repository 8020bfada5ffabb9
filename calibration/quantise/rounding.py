"""Weights to int8 by the error they cause at their layer's output, and the bias that takes off what error remains.

Rounding each weight to the nearest looks at weights alone. Here a column's rounding error is passed on to the columns
not yet rounded, in the way that leaves the output nearest to what it was on the images (GPTQ: Frantar et al., "GPTQ:
accurate post-training quantization", ICLR 2023; the step is that of optimal brain surgery). Since the bias is float and
free, only the output's variance counts and its mean is put right exactly (Nagel et al., "Data-free quantization through
weight equalization and bias correction", ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from calibration.collect.ranges import LEVELS, half_precision
from calibration.collect.taps import Taps
from calibration.layer_graph import Layer, LayerGraph, open_session

PIXELS = 25  # of each map and image that the moments are taken over
PATCHES = (2, 3)  # for kernels above 1x1: rows and columns, at whose crossings they lie
# Added to the diagonal, as a share of its mean: as many images as one has leave some directions unseen.
DAMPING = 0.01
_BLOCK = 64  # columns whose errors are passed on together


@dataclass
class Moments:
    """Mean [D] and covariance [D, D] of what each output sees, D = input channels x kernel pixels; for a depthwise
    layer [C, k*k] and [C, k*k, k*k]."""

    mean: np.ndarray
    covariance: np.ndarray


def collect_moments(
    network: LayerGraph, layers: Sequence[Layer], batches: Iterable[np.ndarray], threads: int = 0, seed: int = 0
) -> dict[str, Moments]:
    """Moments of the inputs of `layers`, by layer name; one forward pass over batches [n, 3, H, W]."""
    taps = Taps(network)
    for tensor in sorted({layer.input for layer in layers if layer.kernel == 1}):
        taps.grid(tensor, PIXELS)
    windows = {layer.input: layer for layer in layers if layer.kernel > 1}
    for tensor, layer in windows.items():
        taps.crossings(tensor, _geometry(network, layer), *(count * layer.kernel for count in PATCHES))
    session = open_session(taps.model(), threads, in_order=True)
    random = np.random.default_rng(seed)
    sums: dict[str, list] = {}
    # The threads that BLAS keeps waiting would take the cores that onnxruntime works on.
    with threadpool_limits(1, "blas"):
        for batch in batches:
            feeds = {network.input: batch, **taps.random_origins(random)}
            inside = {}
            for layer in windows.values():
                geometry = _geometry(network, layer)
                if geometry not in inside:
                    picked = [_picked(network.shapes[layer.input][2], layer, count, random) for count in PATCHES]
                    feeds.update({f"{kind}_{geometry}": rows for kind, (rows, _) in zip(("rows", "columns"), picked)})
                    inside[geometry] = picked[0][1][:, None] & picked[1][1]
            tapped = dict(zip(taps.outputs, session.run(taps.outputs, feeds)))
            for layer in layers:
                if layer.kernel > 1:
                    values = tapped[f"{layer.input}_crossings"] * inside[_geometry(network, layer)]
                    seen = _patches(values, layer.kernel)
                else:
                    values = tapped[f"{layer.input}_grid"]
                    seen = values.reshape(*values.shape[:2], -1).transpose(0, 2, 1).reshape(-1, values.shape[1], 1)
                if layer.depthwise:
                    seen = np.ascontiguousarray(seen.transpose(1, 0, 2))  # [C, n, k*k]
                    first, second = seen.sum(1), np.matmul(seen.transpose(0, 2, 1), seen)
                    count = seen.shape[1]
                else:
                    seen = seen.reshape(len(seen), -1)
                    first, second, count = seen.sum(0), seen.T @ seen, len(seen)
                total = sums.setdefault(layer.name, [0, 0.0, 0.0])
                sums[layer.name] = [total[0] + count, total[1] + first, total[2] + second]
    found = {}
    for name, (count, first, second) in sums.items():
        mean = first / count
        found[name] = Moments(mean, second / count - mean[..., :, None] * mean[..., None, :])
    return found


def round_weights(weight: np.ndarray, moments: Moments | None) -> tuple[np.ndarray, np.ndarray]:
    """(int8 weights of the shape of `weight`, scale [outputs]), symmetric with one scale an output.

    Without `moments` to the nearest. An output whose weights are all zero gets scale 1.
    """
    flat = weight.reshape(weight.shape[0], -1).astype(np.float64)
    largest = np.abs(flat).max(1)
    scale = half_precision(np.where(largest > 0, largest, LEVELS) / LEVELS).astype(np.float64)
    if moments is None:
        whole = np.clip(np.round(flat / scale[:, None]), -LEVELS, LEVELS)
    elif moments.covariance.ndim == 3:
        whole = _compensated_depthwise(flat, scale, moments.covariance)
    else:
        whole = _compensated(flat, scale, moments.covariance)
    return whole.astype(np.int8).reshape(weight.shape), scale.astype(np.float32)


def _compensated(weight: np.ndarray, scale: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """`weight` [K, D] in units of `scale`, rounded column by column, those that matter most first."""
    diagonal = np.diag(covariance)
    if not diagonal.mean() > 0:
        return np.clip(np.round(weight / scale[:, None]), -LEVELS, LEVELS)
    order = np.argsort(-diagonal)
    damped = covariance[np.ix_(order, order)].astype(np.float64)
    upper = _inverse_root(damped[None], DAMPING * diagonal.mean()[None])[0]
    left = weight[:, order] / scale[:, None]
    whole = np.empty_like(left)
    for start in range(0, left.shape[1], _BLOCK):
        stop = min(start + _BLOCK, left.shape[1])
        errors = np.empty((len(left), stop - start))
        for i in range(start, stop):
            whole[:, i] = np.clip(np.round(left[:, i]), -LEVELS, LEVELS)
            errors[:, i - start] = (left[:, i] - whole[:, i]) / upper[i, i]
            left[:, i + 1 : stop] -= np.outer(errors[:, i - start], upper[i, i + 1 : stop])
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    result = np.empty_like(whole)
    result[:, order] = whole
    return result


def _compensated_depthwise(weight: np.ndarray, scale: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The same for `weight` [C, k*k], all channels at once, each with its own covariance."""
    size = weight.shape[1]
    ridge = DAMPING * np.trace(covariance, axis1=1, axis2=2) / size
    upper = _inverse_root(covariance.astype(np.float64), np.where(ridge > 0, ridge, 1))
    left = weight / scale[:, None]
    whole = np.empty_like(left)
    for i in range(size):
        whole[:, i] = np.clip(np.round(left[:, i]), -LEVELS, LEVELS)
        error = (left[:, i] - whole[:, i]) / upper[:, i, i]
        left[:, i:] -= error[:, None] * upper[:, i, i:]
    return whole


def _inverse_root(covariances: np.ndarray, ridges: np.ndarray) -> np.ndarray:
    """Upper triangular U with U'U = (covariance + ridge)^-1, for each of [n, D, D].

    Sums in float32 can leave a covariance of nearly constant inputs indefinite; its ridge then grows until it isn't.
    """
    while True:
        damped = covariances + ridges[:, None, None] * np.eye(covariances.shape[1])
        try:
            return np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
        except np.linalg.LinAlgError:
            ridges = ridges * 10


def corrected_bias(
    layer: Layer,
    weight: np.ndarray,
    rounded: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    input_error: np.ndarray,
    height: int,
) -> np.ndarray:
    """`bias` [K] less the mean error of the output.

    `weight` and `rounded` (the same after rounding, as float), `mean` as in Moments, `input_error` [C] the mean error
    of each input channel, `height` of the input map, px.
    """
    reach = _inside(layer, height)  # of a kernel's pixels, padding has no error
    error = input_error[:, None] * reach  # [C, k*k]
    flat, flat_rounded = (w.reshape(w.shape[0], -1).astype(np.float64) for w in (weight, rounded))
    if layer.depthwise:
        shift = (flat_rounded * (mean + error) - flat * mean).sum(1)
    else:
        shift = flat_rounded @ (mean + error.ravel()) - flat @ mean
    return (bias - shift).astype(np.float32)


def _inside(layer: Layer, height: int) -> np.ndarray:
    """Share of the output's pixels for which each of the kernel's pixels lies inside the input, [k*k]."""
    top, bottom = layer.pads[0], layer.pads[2]
    rows = (height + top + bottom - layer.kernel) // layer.stride + 1
    at = np.arange(rows)[None] * layer.stride - top + np.arange(layer.kernel)[:, None]
    share = ((at >= 0) & (at < height)).mean(1)
    return np.outer(share, share).ravel()  # maps and kernels are square


def _geometry(network: LayerGraph, layer: Layer) -> str:
    """What decides which pixels a kernel of `layer` sees."""
    return "_".join(map(str, (network.shapes[layer.input][2], layer.kernel, layer.stride, layer.pads[0])))


def _picked(side: int, layer: Layer, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the input that kernels in `count` random rows of the output see, int64 [count * k], and which of them are
    not padding; for columns the same, as maps, kernels and strides are square."""
    outputs = (side + layer.pads[0] + layer.pads[2] - layer.kernel) // layer.stride + 1
    first = random.choice(outputs, count, replace=outputs < count) * layer.stride - layer.pads[0]
    rows = (first[:, None] + np.arange(layer.kernel)).ravel()
    return np.clip(rows, 0, side - 1), (rows >= 0) & (rows < side)


def _patches(values: np.ndarray, kernel: int) -> np.ndarray:
    """[N, C, rows * k, columns * k] -> [n, C, k*k]."""
    images, channels, height, width = values.shape
    split = values.reshape(images, channels, height // kernel, kernel, width // kernel, kernel)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(-1, channels, kernel**2)
