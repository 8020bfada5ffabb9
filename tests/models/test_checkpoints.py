"""Every row of the table against its source, and the recipe that a file's name and format lead to."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath
from urllib.parse import urlsplit

import pytest
import torch

from models.blocks import Convolution
from models.checkpoints import CHECKPOINTS, CONVENTIONS, HALF, IMAGENET, default_recipe, known_checkpoints, recipe_of
from models.variants import VARIANTS
from runtime.artifacts.variant_names import mentioned
from runtime.images.preprocess import Preprocessing
from tests.models.conftest import weightless

TIMM = [row for row in CHECKPOINTS if row.name.startswith("timm/")]
TORCHVISION = [row for row in CHECKPOINTS if row.name.startswith("torchvision/")]


def recipe(row):
    return recipe_of(VARIANTS[row.variant], row.file, row.format.partition(" ")[0])


def by_name(row) -> str:
    return row.name


def test_the_table_is_sound():
    files = [row.file for row in CHECKPOINTS]
    assert len(set(files)) == len(files), "a file stands twice"
    for row in CHECKPOINTS:
        assert row.format in CONVENTIONS, row
        assert not row.url or (len(row.sha256) == 8 and int(row.sha256, 16)), row
    assert {row.variant for row in CHECKPOINTS} == set(VARIANTS)


@pytest.mark.parametrize("row", CHECKPOINTS, ids=by_name)
def test_files_mention_their_variant(row):
    """Else a folder in EFFICIENTNET_WEIGHTS with an official file would not be found to hold it."""
    assert mentioned(row.file) == row.variant


@pytest.mark.parametrize("row", CHECKPOINTS, ids=by_name)
def test_a_known_file_is_known_by_its_name(row):
    found = recipe(row)
    assert row.name in found.because
    assert found == recipe_of(VARIANTS[row.variant], "model.safetensors", "timm", row)


@cache
def traits_of(build, *arguments):
    """("same" or "symmetric", epsilon) of a network of theirs."""
    network = weightless(build, *arguments)
    (eps,) = {module.eps for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    strided = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d) and module.stride[0] > 1]
    (padding,) = {"same" if type(module).__name__ == "Conv2dSame" else "symmetric" for module in strided}
    assert not any(isinstance(module, Convolution) for module in strided)
    return padding, eps


@pytest.mark.parametrize("row", TIMM, ids=by_name)
def test_timms_rows_are_timms(row, timm):
    architecture, tag = row.name.removeprefix("timm/").split(".")
    theirs = timm.models.efficientnet.default_cfgs[architecture].cfgs[tag]
    ours = recipe(row)
    assert (ours.padding, ours.eps) == traits_of(timm.create_model, architecture)
    assert ours.preprocessing == Preprocessing(
        (theirs.test_input_size or theirs.input_size)[-1],
        theirs.test_crop_pct or theirs.crop_pct,
        theirs.interpolation,
        tuple(theirs.mean),
        tuple(theirs.std),
    )
    if row.url:  # the project has moved to another owner since; the rest of the address is as it was
        assert urlsplit(theirs.url).path.split("/")[2:] == urlsplit(f"{row.url}/{row.file}").path.split("/")[2:]
    else:
        assert not theirs.url and row.file == f"{architecture}.{tag}.safetensors"
    assert theirs.hf_hub_id in ("timm/", row.name) and row.hub_folder == f"models--timm--{architecture}.{tag}"


def test_no_checkpoint_of_timms_is_missing(timm):
    ours = re.compile(r"(tf_)?efficientnet(v2)?_(b\d|lite\d|s|m|l)")
    found = {
        f"timm/{architecture}.{tag}"
        for architecture, entry in timm.models.efficientnet.default_cfgs.items()
        for tag, cfg in entry.cfgs.items()
        if ours.fullmatch(architecture) and mentioned(f"{architecture}.pth") in VARIANTS and (cfg.url or cfg.hf_hub_id)
    }
    assert found == {row.name for row in TIMM}


@pytest.mark.parametrize("row", TORCHVISION, ids=by_name)
def test_torchvisions_rows_are_torchvisions(row, torchvision):
    variant, version = row.name.removeprefix("torchvision/").split(".")
    builder = getattr(torchvision.models, f"efficientnet_{variant.replace('-', '_')}")
    theirs = torchvision.models.get_model_weights(builder)[version]
    transform, ours = theirs.transforms(), recipe(row)
    assert (ours.padding, ours.eps) == traits_of(builder)
    assert f"{row.url}/{row.file}" == theirs.url
    assert row.top1 == theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert [ours.preprocessing.resolution] == transform.crop_size
    assert [ours.preprocessing.resize_to] == transform.resize_size
    assert ours.preprocessing.interpolation == transform.interpolation.value
    assert (list(ours.preprocessing.mean), list(ours.preprocessing.std)) == (transform.mean, transform.std)


def test_torchvision_is_whole(torchvision):
    builders = [name for name in torchvision.models.list_models() if name.startswith("efficientnet_")]
    published = {weights.url for name in builders for weights in torchvision.models.get_model_weights(name)}
    assert published == {f"{row.url}/{row.file}" for row in TORCHVISION}


@pytest.mark.parametrize(
    ("variant", "file", "form", "padding", "eps", "preprocessing"),
    [
        (
            "b1",
            "efficientnet_b1-c27df63c.pth",
            "torchvision",
            "symmetric",
            1e-5,
            (240, 240 / 255, "bilinear", *IMAGENET),
        ),
        (
            "b2",
            "efficientnet_b2_rwightman-c35c1473.pth",
            "torchvision",
            "symmetric",
            1e-5,
            (288, 1.0, "bicubic", *IMAGENET),
        ),
        (
            "b5",
            "efficientnet_b5_lukemelas-1a07897c.pth",
            "torchvision",
            "symmetric",
            1e-3,
            (456, 1.0, "bicubic", *IMAGENET),
        ),
        ("v2-l", "efficientnet_v2_l-59c71312.pth", "torchvision", "symmetric", 1e-3, (480, 1.0, "bicubic", *HALF)),
        ("b3", "tf_efficientnet_b3_ap-aad25bdd.pth", "timm", "same", 1e-3, (300, 0.904, "bicubic", *HALF)),
        ("b3", "tf_efficientnet_b3_ns-9d44bf68.pth", "timm", "same", 1e-3, (300, 0.904, "bicubic", *IMAGENET)),
        ("lite3", "tf_efficientnet_lite3-b733e338.pth", "timm", "same", 1e-3, (300, 0.904, "bilinear", *HALF)),
        ("v2-l", "tf_efficientnetv2_l-d664b728.pth", "timm", "same", 1e-3, (480, 1.0, "bicubic", *HALF)),
        ("b1", "efficientnet_b1-533bc792.pth", "timm", "symmetric", 1e-5, (256, 1.0, "bicubic", *IMAGENET)),
        ("b4", "efficientnet-b4-6ed6700e.pth", "lukemelas", "same", 1e-3, (380, 0.922, "bicubic", *IMAGENET)),
        # Hugging Face's names of the same weights
        ("b3", "tf_efficientnet_b3.ap_in1k.safetensors", "timm", "same", 1e-3, (300, 0.904, "bicubic", *HALF)),
        (
            "b1",
            "somewhere/efficientnet_b1.ft_in1k.safetensors",
            "timm",
            "symmetric",
            1e-5,
            (256, 1.0, "bicubic", *IMAGENET),
        ),
    ],
)
def test_known_files(variant, file, form, padding, eps, preprocessing):
    found = recipe_of(VARIANTS[variant], file, form)
    assert (found.padding, found.eps) == (padding, eps)
    assert found.preprocessing == Preprocessing(*preprocessing)
    assert "known checkpoint" in found.because


@pytest.mark.parametrize(
    ("variant", "file", "form", "padding", "eps", "preprocessing"),
    [
        ("b0", "flowers_b0.pth", "timm", "symmetric", 1e-5, (224, 0.875, "bicubic", *IMAGENET)),
        ("b0", "tf_efficientnet_b0_flowers.pth", "timm", "same", 1e-3, (224, 0.875, "bicubic", *IMAGENET)),
        ("v2-b0", "flowers.pth", "timm", "same", 1e-3, (224, 0.875, "bicubic", *IMAGENET)),  # timm has no other v2-b0
        ("v2-s", "efficientnetv2_s.pth", "timm", "symmetric", 1e-5, (384, 1.0, "bicubic", *IMAGENET)),
        ("v2-s", "tf_efficientnetv2_s.pth", "timm", "same", 1e-3, (384, 1.0, "bicubic", *HALF)),
        ("lite1", "tf_efficientnet_lite1.pth", "timm", "same", 1e-3, (240, 0.882, "bicubic", *HALF)),
        ("lite1", "efficientnet_lite1.pth", "timm", "symmetric", 1e-5, (240, 0.882, "bicubic", *IMAGENET)),
        ("lite0", "efficientnet-lite0-57934424.pth", "lukemelas", "same", 1e-3, (224, 0.875, "bicubic", *HALF)),
        ("lite2", "efficientnet-lite2.pth", "lukemelas", "same", 1e-3, (260, 0.89, "bicubic", *HALF)),
        ("b6", "flowers.pth", "lukemelas", "same", 1e-3, (528, 0.942, "bicubic", *IMAGENET)),
        ("b1", "flowers.pth", "torchvision", "symmetric", 1e-5, (240, 240 / 255, "bilinear", *IMAGENET)),
        ("b7", "flowers.pth", "torchvision", "symmetric", 1e-3, (600, 1.0, "bicubic", *IMAGENET)),
        ("v2-m", "flowers.pth", "torchvision", "symmetric", 1e-3, (480, 1.0, "bilinear", *IMAGENET)),
        ("b0", "flowers.safetensors", "ours", "symmetric", 1e-5, (224, 0.875, "bicubic", *IMAGENET)),
    ],
)
def test_unknown_files_follow_their_formats_convention(variant, file, form, padding, eps, preprocessing):
    found = recipe_of(VARIANTS[variant], file, form)
    assert (found.padding, found.eps) == (padding, eps)
    assert found.preprocessing == Preprocessing(*preprocessing)
    assert "convention" in found.because and "known checkpoint" not in found.because


def test_another_variants_file_is_not_known():
    assert "convention" in recipe_of(VARIANTS["b0"], "efficientnet_b1-c27df63c.pth", "torchvision").because


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_the_preferred_file_and_the_default_recipe(variant):
    first = known_checkpoints(variant)[0]
    assert first.name.startswith("torchvision/") == (variant.name[0] == "b" or variant.name in ("v2-s", "v2-m", "v2-l"))
    assert PurePath(first.file).stem.endswith(first.sha256) and len(first.sha256) == 8
    assert default_recipe(variant).preprocessing[:2] == (variant.resolution, variant.crop)
