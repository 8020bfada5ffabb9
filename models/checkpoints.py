"""What belongs to weights and not to a variant: padding, BatchNorm epsilon and preprocessing, one row per checkpoint.

A checkpoint with the wrong padding or normalisation still runs, a little wrong, and nobody notices. So a known file is
found here by its name, an unknown one is taken to follow the convention of its format, and either is said aloud.
Sources: torchvision's `EfficientNet_*_Weights`, timm's `default_cfgs` (1.0.31), efficientnet_pytorch's `url_map`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePath

from models.stated import Stated
from models.variants import Variant
from runtime.images.preprocess import Preprocessing

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and std of channels in 0..1
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
GREY: Statistics = ((0.449,) * 3, (0.226,) * 3)  # IMAGENET's over the colours


@dataclass(frozen=True)
class Recipe:
    """How weights want to be run."""

    padding: str  # "symmetric" or "same", see models.blocks.Convolution
    eps: float  # of every BatchNorm
    preprocessing: Preprocessing
    because: str  # one clause for the user: where all this is known from


@dataclass(frozen=True)
class Checkpoint:
    """One published file. What is None follows the convention of its format."""

    name: str
    variant: str
    format: str  # a key of CONVENTIONS
    file: str  # official name, with the first 8 digits of its sha256 (torch hub's custom)
    url: str  # of the folder that holds it; "": published on Hugging Face alone, so recognised but not downloaded
    top1: float | None = None  # published for just this file, %
    resolution: int | None = None
    crop: float | None = None
    interpolation: str | None = None
    statistics: Statistics | None = None
    eps: float | None = None

    @property
    def sha256(self) -> str:
        """The digits of the sha256 that the file's name holds."""
        return PurePath(self.file).stem.rsplit("-", 1)[-1]

    @property
    def hub_folder(self) -> str | None:
        """Folder in Hugging Face's cache that holds the same weights as safetensors, for timm's."""
        return f"models--{self.name.replace('/', '--')}" if self.name.startswith("timm/") else None


# Padding, epsilon and normalisation by format; resolution and crop are then the variant's, interpolation is bicubic.
CONVENTIONS = {
    "torchvision": ("symmetric", 1e-5, IMAGENET),
    "timm": ("symmetric", 1e-5, IMAGENET),
    "timm tf_": ("same", 1e-3, IMAGENET),
    "lukemelas": ("same", 1e-3, IMAGENET),
    "ours": ("symmetric", 1e-5, IMAGENET),
}

# Of the repositories that published the weights; they state none for the weights by themselves.
LICENCES = {"torchvision": "bsd-3-clause", "timm": "apache-2.0", "lukemelas": "apache-2.0"}

_TORCHVISION = "https://download.pytorch.org/models"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights"
_TIMM_V2 = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-effv2-weights"
_LUKEMELAS = "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0"


def _torchvision(
    variant: str,
    suffix: str,
    top1: float,
    resolution: int,
    resize: int,
    interpolation: str = "bicubic",
    weights: str = "IMAGENET1K_V1",
    statistics: Statistics = IMAGENET,
) -> Checkpoint:
    # torchvision builds b5-b7 and V2 with epsilon 1e-3.
    eps = 1e-3 if variant in ("b5", "b6", "b7") or variant.startswith("v2") else 1e-5
    file = f"efficientnet_{variant.replace('-', '_')}{suffix}.pth"
    return Checkpoint(
        f"torchvision/{variant}.{weights}",
        variant,
        "torchvision",
        file,
        _TORCHVISION,
        top1,
        resolution,
        resolution / resize,
        interpolation,
        statistics,
        eps,
    )


def _timm(
    name: str,
    variant: str,
    file: str,
    resolution: int | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
    half: bool = False,
) -> Checkpoint:
    form = "timm tf_" if name.startswith("tf_") else "timm"
    url = "" if file.endswith(".safetensors") else _TIMM_V2 if "v2_" in name else _TIMM
    return Checkpoint(
        f"timm/{name}", variant, form, file, url, None, resolution, crop, interpolation, HALF if half else None
    )


# The first row of a variant is what is downloaded when nothing else is found.
# fmt: off
CHECKPOINTS: tuple[Checkpoint, ...] = (
    #            variant suffix        top-1  px  resize
    _torchvision("b0", "_rwightman-7f5810bc", 77.692, 224, 256),
    _torchvision("b1", "-c27df63c", 79.838, 240, 255, "bilinear", "IMAGENET1K_V2"),
    _torchvision("b1", "_rwightman-bac287d4", 78.642, 240, 256),
    _torchvision("b2", "_rwightman-c35c1473", 80.608, 288, 288),
    _torchvision("b3", "_rwightman-b3899882", 82.008, 300, 320),
    _torchvision("b4", "_rwightman-23ab8bcd", 83.384, 380, 384),
    _torchvision("b5", "_lukemelas-1a07897c", 83.444, 456, 456),
    _torchvision("b6", "_lukemelas-24a108a5", 84.008, 528, 528),
    _torchvision("b7", "_lukemelas-c5b4e57e", 84.122, 600, 600),
    _torchvision("v2-s", "-dd5fe13b", 84.228, 384, 384, "bilinear"),
    _torchvision("v2-m", "-dc08266a", 85.112, 480, 480, "bilinear"),
    _torchvision("v2-l", "-59c71312", 85.808, 480, 480, statistics=HALF),
    _timm("tf_efficientnet_lite0.in1k", "lite0", "tf_efficientnet_lite0-0aa007d2.pth", half=True),
    _timm("tf_efficientnet_lite1.in1k", "lite1", "tf_efficientnet_lite1-bde8b488.pth", half=True),
    _timm("tf_efficientnet_lite2.in1k", "lite2", "tf_efficientnet_lite2-dcccb7df.pth", half=True),
    _timm("tf_efficientnet_lite3.in1k", "lite3", "tf_efficientnet_lite3-b733e338.pth", 300, 0.904, "bilinear", half=True),
    _timm("tf_efficientnet_lite4.in1k", "lite4", "tf_efficientnet_lite4-741542c3.pth", 380, 0.920, "bilinear", half=True),
    _timm("tf_efficientnetv2_b0.in1k", "v2-b0", "tf_efficientnetv2_b0-c7cc451f.pth"),
    _timm("tf_efficientnetv2_b1.in1k", "v2-b1", "tf_efficientnetv2_b1-be6e41b0.pth"),
    _timm("tf_efficientnetv2_b2.in1k", "v2-b2", "tf_efficientnetv2_b2-847de54e.pth"),
    _timm("tf_efficientnetv2_b3.in1k", "v2-b3", "tf_efficientnetv2_b3-57773f13.pth"),
    _timm("tf_efficientnetv2_s.in1k", "v2-s", "tf_efficientnetv2_s-eb54923e.pth", half=True),
    _timm("tf_efficientnetv2_m.in1k", "v2-m", "tf_efficientnetv2_m-cc09e0cd.pth", half=True),
    _timm("tf_efficientnetv2_l.in1k", "v2-l", "tf_efficientnetv2_l-d664b728.pth", half=True),
    _timm("tf_efficientnetv2_s.in21k_ft_in1k", "v2-s", "tf_efficientnetv2_s_21ft1k-d7dafa41.pth", half=True),
    _timm("tf_efficientnetv2_m.in21k_ft_in1k", "v2-m", "tf_efficientnetv2_m_21ft1k-bf41664a.pth", half=True),
    _timm("tf_efficientnetv2_l.in21k_ft_in1k", "v2-l", "tf_efficientnetv2_l_21ft1k-60127a9d.pth", half=True),
    _timm("efficientnet_b0.ra_in1k", "b0", "efficientnet_b0_ra-3dd342df.pth"),
    _timm("efficientnet_b1.ft_in1k", "b1", "efficientnet_b1-533bc792.pth", 256, 1.0),
    _timm("efficientnet_b2.ra_in1k", "b2", "efficientnet_b2_ra-bcdf34b7.pth", 288, 1.0),
    _timm("efficientnet_b3.ra2_in1k", "b3", "efficientnet_b3_ra2-cf984f9c.pth", 320, 1.0),
    _timm("efficientnet_b4.ra2_in1k", "b4", "efficientnet_b4_ra2_320-7eb33cd5.pth", 384, 1.0),
    _timm("efficientnet_lite0.ra_in1k", "lite0", "efficientnet_lite0_ra-37913777.pth"),
    _timm("tf_efficientnetv2_s.in21k", "v2-s", "tf_efficientnetv2_s_21k-6337ad01.pth", half=True),
    _timm("tf_efficientnetv2_m.in21k", "v2-m", "tf_efficientnetv2_m_21k-361418a2.pth", half=True),
    _timm("tf_efficientnetv2_l.in21k", "v2-l", "tf_efficientnetv2_l_21k-91a19ec9.pth", half=True),
    _timm("tf_efficientnet_b5.ra_in1k", "b5", "tf_efficientnet_b5_ra-9a3e5369.pth"),
    _timm("tf_efficientnet_b7.ra_in1k", "b7", "tf_efficientnet_b7_ra-6c08e654.pth"),
    _timm("efficientnet_b0.ra4_e3600_r224_in1k", "b0", "efficientnet_b0.ra4_e3600_r224_in1k.safetensors", 256, 1.0, half=True),
    _timm("efficientnet_b1.ra4_e3600_r240_in1k", "b1", "efficientnet_b1.ra4_e3600_r240_in1k.safetensors", 288, 1.0, half=True),
    _timm("efficientnet_b5.sw_in12k", "b5", "efficientnet_b5.sw_in12k.safetensors", 416, 0.95),
    _timm("efficientnet_b5.sw_in12k_ft_in1k", "b5", "efficientnet_b5.sw_in12k_ft_in1k.safetensors", 448, 1.0),
    _timm("tf_efficientnetv2_b3.in21k", "v2-b3", "tf_efficientnetv2_b3.in21k.safetensors", 300, 0.904, half=True),
    _timm("tf_efficientnetv2_b3.in21k_ft_in1k", "v2-b3", "tf_efficientnetv2_b3.in21k_ft_in1k.safetensors", 300, 0.9, half=True),
    *(_timm(f"tf_efficientnet_{b}.{tag}", b, f"tf_efficientnet_{b}{middle}-{digits}.pth", half=tag == "ap_in1k")
      for tag, middle, row in (
          ("ns_jft_in1k", "_ns", "c0e6a31c 99dd0c41 00306e48 9d44bf68 d6313a46 6f26d0cf 51548356 1dbc32de"),
          ("aa_in1k", "_aa", "827b6e33 ea7a6ee0 60c94f97 84b4657e 818f208c 99018a74 80ba17e4 076e3472"),
          ("ap_in1k", "_ap", "f262efe1 44ef0a3d 2f8e7636 aad25bdd dedb23e6 9e82fae8 4ffb161f ddb28fec"),
          ("in1k", "", "0af12548 5c1377c4 e393ef04 e3bd6955 74ee3bed c6949ce9"))
      for b, digits in zip(("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"), row.split())),
    *(Checkpoint(f"lukemelas/{b}", b, "lukemelas", f"efficientnet-{b}-{digits}.pth", _LUKEMELAS)
      for b, digits in zip(("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"),
                           ["355c32eb", "f1951068", "8bb594d6", "5fb5a3c3", "6ed6700e", "b6417697", "c76e70fd", "dcc49843"])),
    *(Checkpoint(f"lukemelas/{b}.advprop", b, "lukemelas", f"adv-efficientnet-{b}-{digits}.pth", _LUKEMELAS, statistics=HALF)
      for b, digits in zip(("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"),
                           ["b64d5a18", "0f3ce85a", "6e9d97e5", "cdd7c0f4", "44fb3a87", "86493f6b", "ac80338e", "4652b6dd"])),
)
# fmt: on


def known_checkpoints(variant: Variant) -> list[Checkpoint]:
    """The published files of `variant`, the preferred one first."""
    return [row for row in CHECKPOINTS if row.variant == variant.name]


def recipe_of(
    variant: Variant, file: str, form: str, checkpoint: Checkpoint | None = None, stated: Stated | None = None
) -> Recipe:
    """How to run the weights in a file called `file`, whose keys are in format `form` ("timm", "torchvision", ...).

    `checkpoint` is the row, where the file is known to be it from elsewhere than its name; `stated` what the file says of itself,
    which counts before conventions.
    """
    if checkpoint is None and stated is not None and stated.where:
        return _as_stated(variant, file, form, stated)
    name = PurePath(file).name
    # Its official name, or Hugging Face's: tf_efficientnet_b0.ap_in1k.safetensors.
    called = (name, f"timm/{_tagged(PurePath(name).stem)}")
    row = checkpoint or next(
        (row for row in known_checkpoints(variant) if row.file in called or row.name in called), None
    )
    if row is not None:
        return _follow(variant, row.format, row, f"{row.name} is a known checkpoint")
    if form == "timm" and (re.search(r"(?<![a-z])tf[-_. ]", name.lower()) or variant.name.startswith("v2-b")):
        return _follow(variant, "timm tf_", None, "convention of timm's tf_ checkpoints, as the file's name suggests")
    if form == "torchvision":  # its conventions differ by variant: those of the weights it publishes
        return _follow(
            variant, form, known_checkpoints(variant)[0], "convention of torchvision's checkpoint of this variant"
        )
    return _follow(variant, form, None, f"convention of {form} checkpoints")


_OLD_NAMES = {"_ap": ".ap_in1k", "_ns": ".ns_jft_in1k", "_in21ft1k": ".in21k_ft_in1k", "_in21k": ".in21k"}
# What timm takes today for an architecture alone, where that wants other statistics than the convention's. Both had other weights
# in earlier versions.
CHANGED = {"efficientnet_b1": HALF, "tf_efficientnetv2_b3": HALF}


def _tagged(name: str) -> str:
    """timm's name of today: tf_efficientnet_b0_ap -> tf_efficientnet_b0.ap_in1k, TF-EfficientNet-B0 -> tf_efficientnet_b0."""
    plain = name.lower().replace("-", "_")
    return next((plain[: -len(old)] + new for old, new in _OLD_NAMES.items() if plain.endswith(old)), plain)


def _as_stated(variant: Variant, file: str, form: str, stated: Stated) -> Recipe:
    """The recipe of the architecture that a file names, with the preprocessing that it states."""
    architecture = stated.architecture(variant.name)
    recipe = recipe_of(variant, f"{architecture}.pth" if architecture else file, form)
    if _tagged(architecture) in CHANGED and form == "timm":
        mean, std = CHANGED[_tagged(architecture)]
        recipe = replace(recipe, preprocessing=recipe.preprocessing._replace(mean=mean, std=std))
    if not architecture and not stated.settings:
        return recipe
    said = [f"{stated.where} names {architecture}"] if architecture else []
    said += [f"{', '.join(stated.settings)} as {stated.where} states"] if stated.settings else []
    return replace(recipe, preprocessing=recipe.preprocessing._replace(**stated.settings), because="; ".join(said))


def _follow(variant: Variant, form: str, row: Checkpoint | None, because: str) -> Recipe:
    padding, eps, (mean, std) = CONVENTIONS[form]
    half = (
        variant.name.startswith("lite")
        and form in ("lukemelas", "timm tf_")
        or variant.name in ("v2-s", "v2-m", "v2-l")
        and form == "timm tf_"
    )
    if half:
        mean, std = HALF
    recipe = Recipe(padding, eps, Preprocessing(variant.resolution, variant.crop, "bicubic", mean, std), because)
    if row is None:
        return recipe
    if row.statistics:
        mean, std = row.statistics
    preprocessing = Preprocessing(
        row.resolution or variant.resolution, row.crop or variant.crop, row.interpolation or "bicubic", mean, std
    )
    return replace(recipe, eps=row.eps or eps, preprocessing=preprocessing)


def default_recipe(variant: Variant) -> Recipe:
    """The recipe of weights that come from nowhere (random ones): symmetric padding, ImageNet statistics."""
    return _follow(
        variant, "ours", None, "random weights have no preprocessing of their own; the variant's resolution is used"
    )
