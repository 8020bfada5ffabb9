"""Training with the roundings of int8 in place: wins back what calibration alone loses where every layer is in int8.

The float network is the teacher, so images need no labels: the logits of both on the same images, turned and cut
at random, are to agree (Hinton et al., "Distilling the knowledge in a neural network", 2015).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calibration.collect.images import CalibrationImages
from calibration.layer_graph import open_session
from calibration.quantise.prepare import Prepared
from calibration.quantise.torch_graph import TorchGraph
from runtime.progress import Report, silent


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. Rates are Adam's: about how far a parameter moves in one step."""

    epochs: int = 3
    batch: int = 16
    weights: float = (
        0.0  # levels of int8; 0 leaves the integers that calibration chose, which fit each other (docs/int8.md)
    )
    biases: float = 0.002  # of 127 levels of the input times one of the weight
    scales: float = 0.0003  # of the weights', in their logarithm
    warm_up: float = 0.1  # share of the steps
    least_crop: float = 0.35  # share of an image's area
    seed: int = 0


def train(
    prepared: Prepared,
    images: CalibrationImages,
    rows: Sequence[int] | np.ndarray,
    kept: Collection[str] = (),
    schedule: Schedule = Schedule(),
    threads: int = 0,
    progress: Report = silent,
) -> Prepared:
    """`prepared` with the layers that are not `kept` trained on the images `rows`."""
    if threads:
        torch.set_num_threads(threads)
    teacher = open_session(prepared.network.to_model(), threads, spinning=False)
    source = prepared.network.input
    graph = TorchGraph(prepared, kept)
    graph.weights.requires_grad_(schedule.weights > 0)
    optimiser = torch.optim.Adam(
        [
            {"params": list(graph.weights.values()), "lr": schedule.weights},
            {"params": list(graph.biases.values()), "lr": schedule.biases},
            {"params": list(graph.steps.values()), "lr": schedule.scales},
        ],
        betas=(0.9, 0.99),
    )
    random = np.random.default_rng(schedule.seed)
    generator = torch.Generator().manual_seed(schedule.seed)
    batches = math.ceil(len(rows) / schedule.batch)
    total = batches * schedule.epochs
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, total, schedule.warm_up))
    done = 0
    for _ in range(schedule.epochs):
        order = random.permutation(np.asarray(rows))
        for start in range(0, len(order), schedule.batch):
            progress(done, total, "training")
            batch = torch.from_numpy(
                next(images.batches(np.sort(order[start : start + schedule.batch]), schedule.batch))
            )
            batch = _varied(batch, generator, schedule.least_crop)
            expected = torch.from_numpy(teacher.run(None, {source: batch.numpy()})[0])
            optimiser.zero_grad(set_to_none=True)
            disagreement(graph(batch), expected).backward()
            optimiser.step()
            rates.step()
            done += 1
    progress(total, total, "training")
    return replace(prepared, layers={**prepared.layers, **graph.quantised(prepared)})


def disagreement(logits: Tensor, expected: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the teacher's classes, and the error of the logits as a share of their power."""
    divergence = functional.kl_div(
        functional.log_softmax(logits, 1), functional.log_softmax(expected, 1), reduction="batchmean", log_target=True
    )
    return divergence + (logits - expected).square().sum() / expected.square().sum()


def _rate(step: int, total: int, warm_up: float) -> float:
    """Linear warm-up, then half a cosine to nothing."""
    first = max(1, round(total * warm_up))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, total - first)))


def _varied(images: Tensor, generator: torch.Generator, least: float) -> Tensor:
    """Each of [n, 3, side, side] mirrored or not, and a square of at least `least` of its area scaled to the whole."""
    count, _, side, _ = images.shape
    result = torch.empty_like(images)
    for i in range(count):
        area, left, top, mirrored = torch.rand(4, generator=generator).tolist()
        part = max(1, round(side * math.sqrt(least + (1 - least) * area)))
        x, y = int(left * (side - part + 1)), int(top * (side - part + 1))
        cut = images[i : i + 1, :, y : y + part, x : x + part]
        cut = functional.interpolate(cut, (side, side), mode="bilinear", antialias=True)
        result[i] = cut[0].flip(2) if mirrored < 0.5 else cut[0]
    return result
