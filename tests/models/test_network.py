"""The network built from each row: its size, its cost, its padding, and what makes a random one worth measuring."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.blocks import Convolution, StochasticDepth
from models.dead_leaves import dead_leaves
from models.network import EfficientNet, fix_padding, macs_of, parameters, settle
from models.variants import VARIANTS

# Published: torchvision's `EfficientNet_*_Weights.meta` (num_params; _ops in 10^9 MACs, at so many px), and
# for Lite the table of TensorFlow's repository (millions of parameters, millions of MACs).
TORCHVISION = {
    "b0": (5_288_548, 0.386, 224),
    "b1": (7_794_184, 0.687, 240),
    "b2": (9_109_994, 1.088, 288),
    "b3": (12_233_232, 1.827, 300),
    "b4": (19_341_616, 4.394, 380),
    "b5": (30_389_784, 10.266, 456),
    "b6": (43_040_704, 19.068, 528),
    "b7": (66_347_960, 37.746, 600),
    "v2-s": (21_458_488, 8.366, 384),
    "v2-m": (54_139_356, 24.582, 480),
    "v2-l": (118_515_272, 56.08, 480),
}
LITE = {"lite0": (4.7, 407), "lite1": (5.4, 631), "lite2": (6.1, 899), "lite3": (8.2, 1440), "lite4": (13.0, 2640)}


def weightless(name: str, **options) -> EfficientNet:
    with torch.device("meta"):
        return EfficientNet(VARIANTS[name], **options)


@pytest.mark.parametrize("name", TORCHVISION)
def test_size_and_cost_are_as_published(name):
    count, cost, resolution = TORCHVISION[name]
    network = weightless(name)
    assert parameters(network) == count
    assert macs_of(network, resolution) / 1e9 == pytest.approx(cost, abs=0.0006)


@pytest.mark.parametrize("name", LITE)
def test_lites_size_and_cost_are_as_published(name):
    millions, cost = LITE[name]
    network = weightless(name)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.06)
    assert macs_of(network, VARIANTS[name].resolution) / 1e6 == pytest.approx(
        cost, rel=0.06
    )  # they count more than products


def test_the_familys_table_shows_each_row_as_it_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All rows take seconds."""
    import models.__main__ as family

    counted = mock.Mock(side_effect=[386e6, 687e6, KeyboardInterrupt])
    monkeypatch.setattr("models.network.macs_of", counted)
    with pytest.raises(KeyboardInterrupt):
        family.main([])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["parameters", "variant", "b0", "b1"]


def test_cost_follows_classes_and_leaves_the_network_alone():
    network = EfficientNet(VARIANTS["b0"], 1000, "same").train()
    thousand = macs_of(network, 224)
    assert thousand - macs_of(weightless("b0", classes=10, padding="same"), 224) == 990 * 1280
    assert network.training and not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("classes", [1, 2, 21_843])
def test_any_number_of_classes(classes):
    assert weightless("lite0", classes=classes)(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, classes)


@pytest.mark.parametrize(
    ("kernel", "stride", "height", "width", "pads"),
    [  # left, right, top, bottom, as TensorFlow's SAME puts them
        (3, 2, 224, 224, (0, 1, 0, 1)),
        (3, 2, 225, 225, (1, 1, 1, 1)),
        (5, 2, 56, 56, (1, 2, 1, 2)),
        (5, 2, 15, 14, (1, 2, 2, 2)),
        (3, 2, 1, 1, (1, 1, 1, 1)),
    ],
)
def test_same_padding(kernel, stride, height, width, pads):
    convolution = Convolution(2, 3, kernel, stride, padding="same")
    assert convolution.same_pads(height, width) == pads
    x = torch.randn(1, 2, height, width)
    got = convolution(x)
    assert got.shape[-2:] == (-(-height // stride), -(-width // stride))
    assert torch.equal(got, functional.conv2d(functional.pad(x, pads), convolution.weight, stride=stride))


def test_paddings_agree_at_stride_1():
    x = torch.randn(1, 4, 9, 12)
    symmetric, same = (Convolution(4, 4, 5, 1, 4, padding=padding) for padding in ("symmetric", "same"))
    same.load_state_dict(symmetric.state_dict())
    assert symmetric(x).shape == x.shape
    assert torch.equal(symmetric(x), same(x))


def test_fix_padding_settles_it_for_one_resolution():
    """Traced at a small size for speed, the network must still pad as at its own."""
    network = EfficientNet(VARIANTS["b0"], 10, "same").eval()
    x = torch.randn(1, 3, 75, 75)
    with torch.no_grad():
        computed = network(x)
        fix_padding(network, 75)
        assert torch.equal(network(x), computed)
    strided = [module for module in network.modules() if isinstance(module, Convolution) and module.asymmetric]
    assert [module.pads for module in strided] == [
        (1, 1, 1, 1),
        (0, 1, 0, 1),
        (2, 2, 2, 2),
        (0, 1, 0, 1),
        (2, 2, 2, 2),  # of 75, 38, 19, 10, 5 px
    ]
    again = strided[0](torch.randn(1, 3, 32, 32))
    assert again.shape[-1] == 16  # (32 + 1 + 1 - 3) // 2 + 1: the noted pads, not those of 32 px


def test_stochastic_depth_drops_whole_samples_and_rescales_the_rest():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3, 3)
    layer = StochasticDepth(0.2)
    y = layer.train()(x)
    per_sample = y.flatten(1)
    assert torch.equal(per_sample.min(1).values, per_sample.max(1).values)
    assert set(per_sample[:, 0].unique().tolist()) == {0.0, 1.25}
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert layer.eval()(x) is x


def test_a_training_step_moves_every_parameter():
    torch.manual_seed(0)
    network = EfficientNet(VARIANTS["v2-b0"], 5).train()
    functional.cross_entropy(network(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3])).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_settled_network_answers_to_its_input():
    """Freshly initialised it hardly does, and any comparison of precisions on it would pass for nothing."""
    torch.manual_seed(0)
    network = EfficientNet(VARIANTS["b0"]).eval()
    seen, unseen = (torch.from_numpy(dead_leaves(6, 96, seed) - np.float32(0.5)) * 4 for seed in (0, 1))
    with torch.no_grad():
        fresh = network(unseen).std(dim=0).mean()
        settle(network, seen)
        assert network(seen).std(dim=0).mean().item() == pytest.approx(1, abs=0.01)
        settled = network(unseen).std(dim=0).mean()
    assert not network.training and not any(module.training for module in network.modules())
    assert settled > 0.3 and fresh < 0.01 * settled
    assert all(module.momentum == 0.1 for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_dead_leaves_have_a_photographs_spectrum():
    images = dead_leaves(4, 128)
    assert images.shape == (4, 3, 128, 128) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert np.array_equal(images, dead_leaves(4, 128)) and not np.array_equal(images, dead_leaves(4, 128, seed=1))
    grey = images.mean(1)
    power = (np.abs(np.fft.rfft2(grey - grey.mean((1, 2), keepdims=True))) ** 2).mean(0)
    assert power[1:5, 1:5].mean() > 30 * power[20:40, 20:40].mean()  # noise: 1
