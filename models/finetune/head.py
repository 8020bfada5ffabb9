"""The classifier first, on features of the network as it is: seconds, and the other layers then start from something good
(Kumar et al. 2022, arXiv:2202.10054)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.finetune.augment import normaliser
from models.finetune.dataset import Data
from models.finetune.settings import Settings
from models.network import EfficientNet

_ROWS = 50_000  # images, at most, whose features are kept: 256 MB at 1280 channels
_LOGITS = 1 << 27  # values, at most, in one pass of the fit: 0.5 GB


def forward_batches(
    network: nn.Module, pixels: Callable[[int], np.ndarray], count: int, data: Data, device: torch.device, batch: int
) -> Iterator[Tensor]:
    """What `network` answers to uint8 squares [side, side, 3], a batch at a time, on the CPU."""
    normal = normaliser(data.preprocessing, device)
    with torch.inference_mode():
        for start in range(0, count, batch):
            squares = np.stack([pixels(row) for row in range(start, min(start + batch, count))])
            x = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
            yield network(normal(x)).float().cpu()


def fit_head(
    network: EfficientNet,
    data: Data,
    settings: Settings,
    weights: Tensor | None,
    device: torch.device,
    note: Callable[[int, int], None],
) -> None:
    """Sets the classifier of `network` (evaluation mode) by multinomial logistic regression with a unit Gaussian prior, on
    centre crops of the training images. `weights` [classes] count the classes in the loss."""
    classes = len(data.classes)
    most = max(classes, min(_ROWS, _LOGITS // classes))
    rows = np.arange(len(data.train))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(settings.seed).permutation(rows)[:most])
    classifier, network.classifier = network.classifier, nn.Identity()  # type: ignore[assignment]
    gathered: list[Tensor] = []
    try:
        for part in forward_batches(
            network, lambda at: data.square(int(rows[at])), len(rows), data, device, settings.batch
        ):
            gathered.append(part)
            note(sum(map(len, gathered)), len(rows))
    finally:
        network.classifier = classifier
    features = torch.cat(gathered).clone()
    labels = torch.tensor([data.train[row].label for row in rows])
    centre, scale = features.mean(0), features.std().clamp(min=1e-6)
    features = (features - centre) / scale
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    fit = torch.optim.LBFGS([weight, bias], max_iter=settings.head, history_size=10, line_search_fn="strong_wolfe")
    counted = None if weights is None else weights.cpu()

    def closure() -> Tensor:
        fit.zero_grad()
        logits = features @ weight.T + bias
        # No label smoothing: with as many channels as images it is met to the letter, by directions that hold little but
        # noise (ten classes of 80, lite0: 96.8 % against 97.8, and 7 dB less at the logits for the same noise in the features).
        loss = functional.cross_entropy(logits, labels, counted)
        loss = loss + weight.square().sum() / (2 * len(rows))
        loss.backward()
        return loss

    fit.step(closure)
    with torch.no_grad():
        classifier.weight.copy_(weight / scale)
        classifier.bias.copy_(bias - (weight / scale) @ centre)
