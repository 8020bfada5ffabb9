"""Ranges of activations: histograms that stream, and the choices of a range that can be read from one.

A histogram has a bin for each of the sixteen steps between two powers of two, as a float with four bits of mantissa
has: fine where values are small, and it need not know the range beforehand, so one pass over the images is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.collect.taps import Taps
from calibration.layer_graph import LayerGraph, open_session

LEVELS = 127  # of either sign: symmetric int8 without -128, as TensorRT rounds
POSITIONS = 9  # of each map and image that go into the histograms, on a grid whose origin moves from run to run
_SMALLEST, _GREATEST, _MANTISSA = -14, 12, 4  # powers of two; beyond them the outermost bins
_BINS = (_GREATEST - _SMALLEST) << _MANTISSA
_BASE = (127 + _SMALLEST) << _MANTISSA  # a float32's exponent is stored plus 127
_MAGNITUDES = np.ldexp(1 + np.arange(16) / 16, np.arange(_SMALLEST, _GREATEST)[:, None]).ravel()
_EDGES = np.concatenate([-(2.0**_GREATEST), -_MAGNITUDES[:0:-1], 0, _MAGNITUDES[1:], 2.0**_GREATEST], axis=None)
# The bin of a float32, by its sign, exponent and the first bits of its mantissa.
_BIN = np.clip(np.arange(1 << (8 + _MANTISSA)) - _BASE, 0, _BINS - 1)
_BIN = np.concatenate([_BINS + _BIN, _BINS - 1 - _BIN])


class Histogram:
    """How often each channel of a tensor takes which value. Its size does not depend on how much is added."""

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 2 * _BINS), np.uint32)
        self.low, self.high = np.inf, -np.inf  # of every value, not only of those that were counted

    def add(self, values: np.ndarray) -> None:
        """Counts `values` [n, channels], float32."""
        values = np.ascontiguousarray(values.T, np.float32)  # a channel's counts stay in the cache while it is counted
        index = _BIN[values.view(np.uint32) >> (23 - _MANTISSA)]
        index += np.arange(len(values))[:, None] * (2 * _BINS)
        np.add.at(self.counts.reshape(-1), index.ravel(), np.uint32(1))  # bincount would make a whole array each time
        self.widen(float(values.min()), float(values.max()))

    def widen(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def max(self) -> float:
        return max(abs(self.low), abs(self.high))

    def means(self) -> np.ndarray:
        """Mean of each channel, [channels]."""
        edges = np.clip(_EDGES, self.low, self.high)
        return self.counts @ ((edges[:-1] + edges[1:]) / 2) / np.maximum(self.counts.sum(1, dtype=np.float64), 1)

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """(edges, counts) over all channels, cut at the values that occur."""
        return np.clip(_EDGES, self.low, self.high), self.counts.sum(0, dtype=np.float64)

    def magnitudes(self) -> tuple[np.ndarray, np.ndarray]:
        """(edges, counts) of absolute values over all channels."""
        counts = self.counts.sum(0, dtype=np.float64)
        return np.clip(_EDGES[_BINS:], 0, self.max), counts[_BINS:] + counts[_BINS - 1 :: -1]

    def errors(
        self, steps: Sequence[float] | np.ndarray, offsets: Sequence[float] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and mean square of `quantised(x + offset) - offset - x`, both [choices, channels], for each step and
        offset; exact for values that are spread evenly within their bin."""
        step, offset = (np.asarray(v, np.float64)[:, None] for v in (steps, offsets))
        edges = np.clip(_EDGES, self.low, self.high)
        at = (edges + offset) / step
        width = np.diff(edges)
        empty = width < 1e-12  # bins where nothing occurs, or a single value
        middle = (edges[:-1] + edges[1:]) / 2
        rest = np.clip(np.round((middle + offset) / step), -LEVELS, LEVELS) * step - offset - middle
        width = np.where(empty, 1, width)
        mean = np.where(empty, rest, np.diff(_first_integral(at)) * step**2 / width)
        square = np.where(empty, rest**2, np.diff(_second_integral(at)) * step**3 / width)
        total = np.maximum(self.counts.sum(1, dtype=np.float64), 1)[:, None]
        shares = self.counts / total
        return (shares @ mean.T).T, (shares @ square.T).T


def _first_integral(x: np.ndarray) -> np.ndarray:
    """Antiderivative of `clip(round(x)) - x`."""
    inner = np.clip(x, -LEVELS - 0.5, LEVELS + 0.5)
    outer = x - inner
    return -np.square(inner - np.round(inner)) / 2 - 0.5 * np.abs(outer) - np.square(outer) / 2


def _second_integral(x: np.ndarray) -> np.ndarray:
    """Antiderivative of `(clip(round(x)) - x)**2`."""
    inner = np.clip(x, -LEVELS - 0.5, LEVELS + 0.5)
    whole = np.clip(np.round(inner), -LEVELS, LEVELS)
    outer = x - inner
    return whole / 12 + (inner - whole) ** 3 / 3 + np.sign(outer) * ((0.5 + np.abs(outer)) ** 3 - 0.125) / 3


def percentile(histogram: Histogram, share: float) -> float:
    """Magnitude below which `share` of the values lie."""
    edges, counts = histogram.magnitudes()
    return float(np.interp(share * counts.sum(), np.concatenate([[0], counts.cumsum()]), edges))


def entropy(histogram: Histogram, bins: int = 2048) -> float:
    """Limit whose quantised distribution diverges least (Kullback-Leibler) from the one cut there; Migacz, "8-bit
    inference with TensorRT", GTC 2017."""
    edges, counts = histogram.magnitudes()
    grid = np.linspace(0, histogram.max, bins + 1)
    even = np.diff(np.interp(grid, edges, np.concatenate([[0], counts.cumsum()])))
    best, limit = np.inf, histogram.max
    for cut in range(LEVELS + 1, bins + 1, 16):
        reference = even[:cut].copy()
        reference[-1] += even[cut:].sum()
        group = np.arange(cut) * (LEVELS + 1) // cut
        used = even[:cut] > 0
        filled, sums = np.bincount(group, used), np.bincount(group, even[:cut])
        spread = np.where(used, (sums / np.maximum(filled, 1))[group], 0)
        p, q = reference / reference.sum(), spread / max(spread.sum(), 1e-30)
        both = p > 0
        divergence = float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())
        if divergence < best:
            best, limit = divergence, float(grid[cut])
    return limit


def least_square(histogram: Histogram) -> float:
    """Limit with the least mean square error of the values themselves."""
    limits = histogram.max * _FRACTIONS
    _, square = histogram.errors(limits / LEVELS, np.zeros(len(limits)))
    return float(limits[square.sum(1).argmin()])


METHODS: dict[str, Callable[[Histogram], float]] = {
    "max": lambda histogram: histogram.max,
    "99.9": lambda histogram: percentile(histogram, 0.999),
    "99.99": lambda histogram: percentile(histogram, 0.9999),
    "99.999": lambda histogram: percentile(histogram, 0.99999),
    "entropy": entropy,
    "mse": least_square,
}
_FRACTIONS = np.geomspace(0.02, 1, 48)


@dataclass(frozen=True)
class Range:
    """What int8 covers: `offset` is added before rounding to multiples of `scale` and taken off again behind."""

    scale: float
    offset: float = 0.0

    @property
    def limit(self) -> float:
        """Largest value that is not cut off."""
        return self.scale * LEVELS - self.offset

    def stretched(self, factor: float, low: float) -> Range:
        """The range whose limit is `factor` times as far; one with an offset still begins at `low`."""
        if not self.offset:
            return _fitted(self.scale * factor, 0)
        high = max(self.limit * factor, low + self.scale)
        return _fitted((high - low) / (2 * LEVELS), -(high + low) / 2)


def choose(histogram: Histogram, gains: Sequence[np.ndarray], shifted: bool = False) -> Range:
    """The range with the least error where the tensor is used.

    `gains`: for each user, how much a channel's squared error weighs there ([channels]; for a convolution the sum of
    its squared weights). The mean error is not counted, as the bias takes it off. `shifted` allows an offset.
    A tensor that is always zero gets scale 1.
    """
    if not histogram.max > 0:
        return Range(1.0)
    limits = np.unique(np.concatenate([histogram.max * _FRACTIONS, [method(histogram) for method in METHODS.values()]]))
    limits = limits[limits > histogram.max * 1e-3]
    steps, offsets = limits / LEVELS, np.zeros(len(limits))
    if shifted:
        highs = limits[limits > histogram.low]
        steps, offsets = (highs - histogram.low) / (2 * LEVELS), -(highs + histogram.low) / 2
    mean, square = histogram.errors(steps, offsets)
    variance = np.maximum(square - mean**2, 0)
    total = np.zeros(len(steps))
    for gain in gains:
        error = variance @ gain
        total += error / max(error.min(), 1e-30)
    best = int(total.argmin())
    return _fitted(steps[best], offsets[best])


def _fitted(scale: float, offset: float) -> Range:
    """As FP16 holds both. The offset is a whole number of steps, so that zero stays zero: much of what stands behind a gate is
    zero, and its error would be the same everywhere."""
    scale = float(half_precision(np.float64(scale)))
    return Range(scale, float(half_precision(np.float64(round(offset / scale) * scale))) if offset else 0.0)


def half_precision(values: np.ndarray | np.floating) -> np.ndarray:
    """`values` as float32 that FP16 holds exactly, so that INT8 beside FP32 and beside FP16 are the same integers;
    never zero for what is not, since scales divide."""
    limits = np.finfo(np.float16)
    near = np.clip(values, -float(limits.max), float(limits.max)).astype(np.float16)
    tiny = np.copysign(limits.smallest_subnormal, values)
    return np.where((near == 0) & (np.asarray(values) != 0), tiny, near).astype(np.float32)


def collect(
    network: LayerGraph, tensors: Sequence[str], batches: Iterable[np.ndarray], threads: int = 0, seed: int = 0
) -> dict[str, Histogram]:
    """Histograms of `tensors` (4D or 2D) over images that come as batches [n, 3, H, W]; one forward pass.

    Of each map a grid of about POSITIONS pixels is counted. Extremes are those of all of it, but where the network
    bounds them: a Clip's output may reach its limits, and SiLU's lowest, -0.28, is as low as its sample's will be.
    """
    taps = Taps(network)
    found = {}
    for name in sorted(set(tensors)):
        found[name] = histogram = Histogram(network.shapes[name][1])
        taps.grid(name, POSITIONS)
        producer = network.producers.get(name)
        limits = network.clip_limits(name)
        if limits is not None:
            histogram.widen(*limits)
            continue
        taps.highest(name)
        if producer is None or producer.op_type != "Mul":  # a Mul is SiLU, or a gate between 0 and 1 times it
            taps.lowest(name)
    session = open_session(taps.model(), threads, in_order=True)
    random = np.random.default_rng(seed)
    for batch in batches:
        feeds = {network.input: batch, **taps.random_origins(random)}
        for output, value in zip(taps.outputs, session.run(taps.outputs, feeds)):
            histogram = found[output.rpartition("_")[0]]
            if output.endswith("_grid"):
                histogram.add(value.transpose(0, 2, 3, 1).reshape(-1, value.shape[1]) if value.ndim == 4 else value)
            else:
                histogram.widen(float(value), float(value))
    return found
