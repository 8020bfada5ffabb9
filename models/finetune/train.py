"""The training itself: every step a function of the state before it and of its number, so that it can be gone on with."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.blocks import StochasticDepth
from models.finetune.augment import batches, mixup, normaliser, policy, steps_per_epoch
from models.finetune.dataset import Data
from models.finetune.head import fit_head, forward_batches
from models.finetune.settings import Settings
from models.network import EfficientNet
from runtime.errors import UserError

_SAVE_EVERY = 60.0  # seconds, at least; and a twentieth of the time at most
Note = Callable[[str, int, int], None]  # step, done, of


@dataclass
class Answers:
    """What a network says of the validation images."""

    top: np.ndarray  # int64 [n]: likeliest class
    confidence: np.ndarray  # float32 [n]: its probability
    truth: np.ndarray  # float32 [n]: the right class's
    loss: float

    def top1(self, labels: np.ndarray) -> float:
        return 100 * float((self.top == labels).mean())

    def balanced(self, labels: np.ndarray) -> float:
        """Mean over classes of the share that is right, %."""
        return 100 * float(np.mean([(self.top[labels == label] == label).mean() for label in np.unique(labels)]))


@dataclass
class Progress:
    """Everything that changes in a training besides tensors."""

    epoch: int = 0
    step: int = 0  # within the epoch
    loss: float = 0.0  # sum over the epoch's steps so far
    best: list[float] = field(default_factory=list)  # score and minus the loss of the best checkpoint
    since: int = 0  # epochs without progress
    rows: list[dict[str, float]] = field(default_factory=list)  # one an epoch; epoch 0 is the classifier alone
    done: bool = False


def judge(network: nn.Module, data: Data, device: torch.device, batch: int, note: Note = lambda *_: None) -> Answers:
    """`network` (evaluation mode) on the validation images."""
    labels = torch.tensor([labelled.label for labelled in data.val])
    top, confidence, truth, loss, at = [], [], [], 0.0, 0
    for logits in forward_batches(network, lambda row: data.squares[row], len(data.val), data, device, batch):
        shares = logits.softmax(1)
        here = labels[at : at + len(logits)]
        best = shares.max(1)
        top.append(best.indices)
        confidence.append(best.values)
        truth.append(shares.gather(1, here[:, None])[:, 0])
        loss += float(functional.cross_entropy(logits, here, reduction="sum"))
        at += len(logits)
        note("judging", at, len(data.val))
    return Answers(torch.cat(top).numpy(), torch.cat(confidence).numpy(), torch.cat(truth).numpy(), loss / max(at, 1))


def class_weights(data: Data, settings: Settings) -> Tensor | None:
    """What each class counts in the loss, 1 on average over the images; None: all the same."""
    if settings.class_weights == "none":
        return None
    counts = torch.tensor(data.counts(), dtype=torch.float64)
    weights = counts ** (-0.5 if settings.class_weights == "sqrt" else -1.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest rate at `step` of `steps`: up in a line, down as half a cosine to a hundredth."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    fallen = (step - rising) / max(1, steps - rising)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * fallen)) / 2


def optimiser(network: EfficientNet, settings: Settings) -> torch.optim.Optimizer:
    """Four groups: classifier and the rest, each with and without decay; what is frozen is in none."""
    groups: list[dict[str, Any]] = []
    for head, scale in ((True, 1.0), (False, settings.backbone)):
        for decayed in (True, False):
            held = [
                parameter
                for name, parameter in network.named_parameters()
                if parameter.requires_grad
                and name.startswith("classifier.") == head
                and (parameter.ndim > 1) == decayed
            ]
            if held:
                groups.append({"params": held, "weight_decay": settings.weight_decay * decayed, "scale": scale})
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    # The reference adds epsilon under the root, torch beside it.
    return torch.optim.RMSprop(groups, lr=settings.lr, alpha=0.9, momentum=0.9, eps=1e-3)


def freeze(network: EfficientNet, settings: Settings) -> list[nn.Module]:
    """Stops the leading parts from learning; returns what stays in evaluation mode: those, and BatchNorm where it is kept."""
    frozen: list[nn.Module] = [network.stem, *network.stages][: settings.frozen]
    for part in frozen:
        part.requires_grad_(False)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return [*frozen, *(norms if settings.norm == "keep" else [])]


def set_regularisation(network: EfficientNet, settings: Settings) -> None:
    """Dropout and stochastic depth, which the variant's row sets for training on ImageNet."""
    network.dropout.p = settings.dropout
    usual = network.variant.stochastic_depth
    for module in network.modules():
        if isinstance(module, StochasticDepth) and usual:
            module.drop *= settings.drop_path / usual


def mixed_precision(settings: Settings, device: torch.device) -> torch.dtype | None:
    """Type for autocast; None: FP32 throughout."""
    if settings.precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if settings.precision == "fp16" and device.type != "cuda":
        raise UserError("--precision fp16 needs a GPU: on a CPU choose fp32 or bf16.")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]


@contextlib.contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Ctrl-C was pressed: the step is finished first. The second press ends at once."""
    pressed = False

    def note(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: somebody else's business
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


class Training:
    """A network, its average, optimiser and progress: what `held` gives, `restore` takes."""

    def __init__(self, network: EfficientNet, data: Data, settings: Settings, device: torch.device) -> None:
        self.data, self.settings, self.device = data, settings, device
        set_regularisation(network, settings)
        self.still = freeze(network, settings)
        self.network = network.to(device).eval()
        self.averaged = copy.deepcopy(self.network)
        self.optimiser = optimiser(self.network, settings)
        self.progress = Progress()
        self.type = mixed_precision(settings, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.type == torch.float16)
        self.labels = np.array([labelled.label for labelled in data.val])
        self.weights = class_weights(data, settings)
        self.normal, self.policy = normaliser(data.preprocessing, device), policy(settings)
        self.steps = steps_per_epoch(data, settings)

    def held(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "progress": vars(self.progress),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, held: dict[str, Any]) -> None:
        self.network.load_state_dict(held["network"])
        self.averaged.load_state_dict(held["averaged"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.scaler.load_state_dict(held["scaler"])
        self.progress = Progress(**held["progress"])

    def run(self, write_best: Callable[[nn.Module], None], save: Callable[[dict[str, Any]], None], note: Note) -> None:
        """Trains from where `progress` stands. `write_best` is given the network whenever it is the best so far, `save`
        what `held` gives, about each minute and after each epoch. KeyboardInterrupt comes after a whole step, saved."""
        p, settings = self.progress, self.settings
        with ctrl_c() as interrupted:
            if not p.rows:
                if settings.head:
                    fit_head(
                        self.network,
                        self.data,
                        settings,
                        self.weights,
                        self.device,
                        lambda done, of: self._listen(interrupted, note, "features", done, of),
                    )
                    self.averaged.load_state_dict(self.network.state_dict())
                self._close_epoch(write_best, save, note)
            while not p.done:
                saved, cost = time.monotonic(), 0.0
                for pixels, labels in batches(self.data, settings, p.epoch, p.step):
                    p.loss += self._learn(pixels, labels)
                    p.step += 1
                    score = p.rows[-1]["top1"]
                    note(
                        f"epoch {p.epoch}/{settings.epochs}, loss {p.loss / p.step:.3f}, val {score:.1f} %",
                        (p.epoch - 1) * self.steps + p.step,
                        settings.epochs * self.steps,
                    )
                    now = time.monotonic()
                    if interrupted() or now - saved > max(_SAVE_EVERY, 20 * cost):
                        save(self.held())
                        saved, cost = time.monotonic(), time.monotonic() - now
                    if interrupted():
                        raise KeyboardInterrupt
                self._close_epoch(write_best, save, note)

    def _listen(self, interrupted: Callable[[], bool], note: Note, step: str, done: int, of: int) -> None:
        if interrupted():
            raise KeyboardInterrupt
        note(step, done, of)

    def _learn(self, pixels: Tensor, labels: Tensor) -> float:
        """One step: the loss."""
        settings, p = self.settings, self.progress
        at = (p.epoch - 1) * self.steps + p.step
        torch.manual_seed((settings.seed << 32) + at)  # so nothing random has to be remembered
        share = rate(at, settings.epochs * self.steps, settings.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * group["scale"] * share
        self.network.train()
        for part in self.still:
            part.eval()
        x = self.policy(pixels.to(self.device, non_blocking=True).contiguous().float() / 255)
        targets = functional.one_hot(labels.to(self.device), len(self.data.classes)).float()
        if settings.mixup:
            x, targets = mixup(x, targets, settings.mixup)
        with torch.autocast(self.device.type, self.type or torch.bfloat16, enabled=self.type is not None):
            logits = self.network(self.normal(x))
        counted = None if self.weights is None else self.weights.to(self.device)
        loss = functional.cross_entropy(logits.float(), targets, counted, label_smoothing=settings.smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        value = float(loss.detach())
        if not math.isfinite(value) and not self.scaler.is_enabled():
            where = f"epoch {p.epoch}, step {p.step}"
            raise UserError(f"The loss is no longer a number at {where}: try a lower --lr than {settings.lr:g}.")
        self._average(at)
        return value

    @torch.no_grad()
    def _average(self, at: int) -> None:
        decay = min(self.settings.ema, (1 + at) / (10 + at))  # TensorFlow's: short at first
        ours, theirs = self.averaged.state_dict(), self.network.state_dict()
        for name, tensor in ours.items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name], 1 - decay)
            else:
                tensor.copy_(theirs[name])

    def _close_epoch(
        self, write_best: Callable[[nn.Module], None], save: Callable[[dict[str, Any]], None], note: Note
    ) -> None:
        p, settings = self.progress, self.settings
        answers = judge(self.averaged, self.data, self.device, settings.batch, note)
        row = {
            "epoch": p.epoch,
            "loss": p.loss / p.step if p.step else math.nan,
            "val_loss": answers.loss,
            "top1": answers.top1(self.labels),
            "balanced": answers.balanced(self.labels),
        }
        p.rows.append(row)
        score = [row["top1" if settings.class_weights == "none" else "balanced"], -row["val_loss"]]
        if not p.best or score > p.best:
            write_best(self.averaged)
            p.best, p.since = score, 0
        else:
            p.since += 1
        p.done = p.epoch >= settings.epochs or p.since >= settings.patience
        p.epoch, p.step, p.loss = p.epoch + 1, 0, 0.0
        save(self.held())
