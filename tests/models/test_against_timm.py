"""Forward equality with timm and torchvision: their weights in our network give their logits.

Each file is read as a user's would be, by its format and name alone, so the conventions of models.checkpoints are
held too. Nothing is downloaded: the weights are random, with statistics and gains that make every tensor matter.

One network of each kind of block and padding is computed, and all have the same layers, which needs no numbers;
`make test-long` computes them all.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.blocks import FusedMBConv, MBConv
from models.checkpoints import recipe_of
from models.network import EfficientNet, parameters
from models.pretrained import load_pretrained
from models.reader import tensor_names
from models.stated import Stated
from models.variants import VARIANTS
from models.weights import Weights
from tests.models.conftest import weightless

TOLERANCE = 1e-5  # of the largest logit
TIMM = {
    **{f"efficientnet_b{n}": f"b{n}" for n in range(8)},
    **{f"tf_efficientnet_lite{n}": f"lite{n}" for n in range(5)},
    **{f"tf_efficientnetv2_b{n}": f"v2-b{n}" for n in range(4)},
    **{f"tf_efficientnetv2_{size}": f"v2-{size}" for size in "sml"},
    # the other padding and epsilon, on other names
    "tf_efficientnet_b0": "b0",
    "tf_efficientnet_b3": "b3",
    "efficientnet_lite0": "lite0",
    "efficientnetv2_s": "v2-s",
}
TORCHVISION = {"efficientnet_b0": "b0", "efficientnet_b1": "b1", "efficientnet_b5": "b5", "efficientnet_v2_s": "v2-s"}
COMPUTED = (
    "efficientnet_b0",
    "efficientnet_v2_s",
    "tf_efficientnet_lite0",
    "tf_efficientnetv2_b0",
    "efficientnet_lite0",
)
ACTIVATIONS = (nn.SiLU, nn.ReLU6, nn.ReLU, nn.Hardswish, nn.GELU)


def long_but(names, computed=COMPUTED):
    return [name if name in computed else pytest.param(name, marks=pytest.mark.long) for name in names]


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    # Bites only where the logits depend on the input.
    assert (wanted.std(dim=0).mean() / wanted.abs().max()) > 0.02
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@torch.no_grad()
def error_of_ours(path, variant, images, logits, **overrides) -> float:
    network = load_pretrained(VARIANTS[variant], Weights(path, "a test"), overrides).network
    return relative_error(network(images), logits)


def test_all_variants_are_held():
    assert set(TIMM.values()) == set(VARIANTS)


def same_layers(theirs: nn.Module, variant: str, form: str, file: str) -> None:
    """Whether each tensor of `theirs` has its place in ours, in a layer that computes the same."""
    recipe = recipe_of(VARIANTS[variant], file, form)
    with torch.device("meta"):
        ours = EfficientNet(VARIANTS[variant], 1000, recipe.padding, recipe.eps)
    names, held = tensor_names(VARIANTS[variant], form), theirs.state_dict()
    shapes = {names[name]: tensor.shape for name, tensor in ours.state_dict().items() if name in names}
    assert shapes == {name: each.shape for name, each in held.items() if not name.endswith("num_batches_tracked")}
    modules = dict(ours.named_modules()), dict(theirs.named_modules())
    for name, their in names.items():
        one, other = (modules[i][each.rpartition(".")[0]] for i, each in enumerate((name, their)))
        if isinstance(one, nn.Conv2d):
            assert isinstance(other, nn.Conv2d)
            assert (one.stride, one.groups, one.padding) == (other.stride, other.groups, other.padding), their
            assert getattr(one, "asymmetric", False) == (type(other).__name__ == "Conv2dSame"), their
        elif isinstance(one, nn.BatchNorm2d):
            assert isinstance(other, nn.BatchNorm2d) and one.eps == other.eps, their
    blocks = [block for block in ours.modules() if isinstance(block, MBConv | FusedMBConv)]
    attribute = "has_skip" if form == "timm" else "use_res_connect"
    skips = [getattr(block, attribute) for block in theirs.modules() if hasattr(block, attribute)]
    assert [block.skip is not None for block in blocks] == skips
    kinds = [{type(each) for each in network.modules() if isinstance(each, ACTIVATIONS)} for network in (ours, theirs)]
    assert kinds[0] == kinds[1] and len(kinds[0]) == 1


@pytest.mark.parametrize("name", TIMM)
def test_timms_layers(name, timm):
    same_layers(weightless(timm.create_model, name), TIMM[name], "timm", f"{name}.safetensors")


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_layers(name, torchvision):
    same_layers(weightless(getattr(torchvision.models, name)), TORCHVISION[name], "torchvision", f"{name}_flowers.pth")


@pytest.mark.parametrize("name", long_but(TIMM))
def test_timm(name, timm, lifelike, images, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model(name)
    logits = lifelike(theirs)
    path = tmp_path / f"{name}.safetensors"
    save_file(theirs.state_dict(), path)
    try:
        ours = load_pretrained(VARIANTS[TIMM[name]], Weights(path, "a test")).network
    finally:
        path.unlink()  # pytest would keep half a gigabyte of them
    assert parameters(ours) == parameters(theirs)
    with torch.no_grad():
        assert relative_error(ours(images), logits) < TOLERANCE


@pytest.mark.parametrize("name", long_but(TORCHVISION))
def test_torchvision(name, torchvision, lifelike, images, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)()
    logits = lifelike(theirs)
    path = tmp_path / f"{name}_flowers.pth"
    torch.save(theirs.state_dict(), path)
    try:
        assert error_of_ours(path, TORCHVISION[name], images, logits) < TOLERANCE
    finally:
        path.unlink()


def test_a_wrong_recipe_would_be_noticed(timm, lifelike, images, tmp_path):
    """It runs, a little wrong: just what the tolerance has to tell from rounding."""
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_b0")
    logits = lifelike(theirs)
    path = tmp_path / "tf_efficientnet_b0.pth"
    torch.save(theirs.state_dict(), path)
    assert error_of_ours(path, "b0", images, logits) < TOLERANCE
    for wrong in ({"padding": "symmetric"}, {"eps": 1e-5}):
        assert error_of_ours(path, "b0", images, logits, **wrong) > 10 * TOLERANCE, wrong


def test_an_architecture_alone_means_what_timm_takes_for_it(timm):
    """train.py writes `arch` without the tag of the weights that it began from."""
    for name, variant in {**TIMM, **{f"tf_efficientnet_b{n}": f"b{n}" for n in range(8)}}.items():
        theirs = timm.get_pretrained_cfg(name)
        found = recipe_of(
            VARIANTS[variant], "model_best.pth.tar", "timm", stated=Stated((name,), {}, "the file")
        ).preprocessing
        assert (found.mean, found.std) == (theirs.mean, theirs.std), name
