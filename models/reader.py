"""Reads a checkpoint file in whatever format people have it, and fits its tensors to the network, name by name.

Formats differ in how they name the same parts; each is a row of NAMES. Nothing of a file is ever run, see models.unpickle.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from models.adapted import in_colour, one_linear
from models.checkpoints import Recipe
from models.download import LARGEST_BYTES
from models.labels import is_name
from models.network import EfficientNet
from models.stated import Stated, stated
from models.unpickle import Refused, tensors_in, unpickled
from models.variants import Variant
from runtime.artifacts.no_network import HEAD, refuse_others
from runtime.digest import sha256_of
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing

# Where training scripts put the weights inside a .pth file; averaged weights before raw ones, as timm does.
NESTS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel and averaging, wrappers, torch.compile
# What FSDP, torch.compile and DeepSpeed put into names, in the middle too
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
EMA = {"ema", "averaged", "average", "swa", "shadow", "polyak", "teacher"}  # words in the names of averaged copies
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

MOST_CLASSES = 100_000  # as of random weights; ImageNet-21k has 21,843


@dataclass(frozen=True)
class Names:
    """How one format names the parts. A (conv, norm) pair is two names, squeeze is (reduce, expand)."""

    stem: tuple[str, str]
    head: tuple[str, str]
    classifier: str
    block: str  # formatted with stage and block (counted within the stage) and index (counted over all)
    parts: dict[str, dict[str, tuple[str, str]]]  # by kind of block, by our name of the part
    sign: str  # a key that only this format has

    @property
    def roots(self) -> set[str]:
        """First parts of the names of the network's tensors."""
        return {name.partition(".")[0] for name in (*self.stem, *self.head, self.classifier, self.block)}


_LUKEMELAS_PARTS = {
    "depthwise": ("_depthwise_conv", "_bn1"),
    "squeeze": ("_se_reduce", "_se_expand"),
    "project": ("_project_conv", "_bn2"),
}
NAMES = {
    "ours": Names(
        ("stem.conv", "stem.norm"),
        ("head.conv", "head.norm"),
        "classifier",
        "stages.{stage}.{block}",
        {
            kind: {
                "squeeze": ("squeeze.reduce", "squeeze.expand"),
                **{part: (f"{part}.conv", f"{part}.norm") for part in parts},
            }
            for kind, parts in {
                "mbconv": ("expand", "depthwise", "project"),
                "mbconv-1": ("depthwise", "project"),
                "fused": ("fused", "project"),
                "fused-1": ("fused",),
            }.items()
        },
        "stem.conv.weight",
    ),
    "timm": Names(
        ("conv_stem", "bn1"),
        ("conv_head", "bn2"),
        "classifier",
        "blocks.{stage}.{block}",
        {
            "mbconv": {
                "expand": ("conv_pw", "bn1"),
                "depthwise": ("conv_dw", "bn2"),
                "squeeze": ("se.conv_reduce", "se.conv_expand"),
                "project": ("conv_pwl", "bn3"),
            },
            "mbconv-1": {
                "depthwise": ("conv_dw", "bn1"),
                "squeeze": ("se.conv_reduce", "se.conv_expand"),
                "project": ("conv_pw", "bn2"),
            },
            "fused": {"fused": ("conv_exp", "bn1"), "project": ("conv_pwl", "bn2")},
            "fused-1": {"fused": ("conv", "bn1")},
        },
        "conv_stem.weight",
    ),
    "torchvision": Names(
        ("features.0.0", "features.0.1"),
        ("features.{last}.0", "features.{last}.1"),
        "classifier.1",
        "features.{stage_from_1}.{block}",
        {
            "mbconv": {
                "expand": ("block.0.0", "block.0.1"),
                "depthwise": ("block.1.0", "block.1.1"),
                "squeeze": ("block.2.fc1", "block.2.fc2"),
                "project": ("block.3.0", "block.3.1"),
            },
            "mbconv-1": {
                "depthwise": ("block.0.0", "block.0.1"),
                "squeeze": ("block.1.fc1", "block.1.fc2"),
                "project": ("block.2.0", "block.2.1"),
            },
            "fused": {"fused": ("block.0.0", "block.0.1"), "project": ("block.1.0", "block.1.1")},
            "fused-1": {"fused": ("block.0.0", "block.0.1")},
        },
        "features.0.0.weight",
    ),
    "lukemelas": Names(
        ("_conv_stem", "_bn0"),
        ("_conv_head", "_bn1"),
        "_fc",
        "_blocks.{index}",
        {
            "mbconv": {"expand": ("_expand_conv", "_bn0"), **_LUKEMELAS_PARTS},
            "mbconv-1": _LUKEMELAS_PARTS,
        },
        "_conv_stem.weight",
    ),
}


@dataclass(frozen=True)
class CheckpointFile:
    """What a file holds, before it is fitted to a network."""

    path: Path
    sha256: str
    form: str  # a key of NAMES
    tensors: dict[str, Tensor]  # by the file's own names
    metadata: dict[str, str]  # of a .safetensors file
    greyscale: bool = False  # trained on images of one channel; `tensors` take three
    stated: Stated = Stated()  # what the file says of its network
    notes: tuple[str, ...] = ()  # for the user: what else it holds


def read_checkpoint(path: Path, variant: Variant | None = None) -> CheckpointFile:
    """Tensors and format of `path` (.safetensors, or anything torch.save wrote). `variant` tells which of several is meant.

    Raises UserError if the file is damaged, would need code to be run, or names its tensors in no way that is known.
    """
    path = Path(path)
    held, metadata, digest = _read(path)
    tensors = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors_in(held)}
    chosen = _network_in(tensors, variant)
    if chosen is None:
        found = ", ".join(list(tensors)[:3]) or "no tensors at all"
        raise UserError(
            f"{path} is not an EfficientNet checkpoint in a known format ({', '.join(NAMES)}): it holds {found}. "
            f"Looked for one of {', '.join(names.sign for names in NAMES.values())}."
        )
    form, own, notes = chosen
    greyscale = in_colour(path, own, NAMES[form].sign)
    one_linear(path, own, NAMES[form].classifier)
    if greyscale:
        notes += (
            "was trained on greyscale: it is made of the colours with the weights of BT.601, as Pillow's convert('L') does",
        )
    return CheckpointFile(path, digest, form, own, metadata, greyscale, stated(held, path), notes)


def _network_in(
    tensors: dict[str, Tensor], variant: Variant | None
) -> tuple[str, dict[str, Tensor], tuple[str, ...]] | None:
    """(format, tensors by that format's names, notes) of the network in a file: the one under the prefix where a whole one lies,
    an averaged copy first, as timm does; of networks of several sizes, as of a student and its teacher, `variant`'s. None if
    there is none."""
    found: list[tuple[str, str, dict[str, Tensor]]] = []  # prefix, format, tensors
    for form, names in NAMES.items():
        for key in tensors:
            prefix = key[: -len(names.sign)] if key.endswith(names.sign) else None
            if prefix is None or (prefix and not prefix.endswith(".")):
                continue
            under = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            own = {name: tensor for name, tensor in under.items() if name.partition(".")[0] in names.roots}
            found.append((prefix, form, own))
    if not found:
        return None
    if len(found) > 1 and variant is not None:
        found = [(prefix, form, own) for prefix, form, own in found if _has_blocks_of(variant, form, own)] or found
    most = max(len(own) for _, _, own in found)
    whole = [each for each in found if len(each[2]) >= 0.9 * most]  # else parts of one, as a momentum of some layers

    def rank(each: tuple[str, str, dict[str, Tensor]]) -> tuple[bool, int]:
        words = set(re.split(r"[._]", each[0].lower()))
        nest = each[0].split(".")[0]
        return not words & EMA, NESTS.index(nest) if nest in NESTS else len(NESTS)

    prefix, form, own = min(whole, key=rank)
    others = [f"'{name}'" for name, _, _ in whole if name != prefix]
    networks = {name for front, _, own in whole for name in (f"{front}{each}" for each in own)}
    training = ("optim", "scheduler", "n_averaged")
    rest = [name for name in tensors if name not in networks and not any(word in name for word in training)]
    notes = []
    if others:
        notes.append(f"the weights are those under '{prefix}'; there are others like them under {', '.join(others)}")
    if rest:
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        notes.append(f"not of the network, and left out: {', '.join(rest[:3])}{more}")
    return form, own, tuple(notes)


def _has_blocks_of(variant: Variant, form: str, tensors: dict[str, Tensor]) -> bool:
    if not {block.kind for stage in variant.blocks() for block in stage} <= NAMES[form].parts.keys():
        return False
    root = NAMES[form].block.partition(".")[0]
    wanted = {name for name in tensor_names(variant, form).values() if name.startswith(f"{root}.")}
    return wanted == {
        name for name in tensors if name.startswith(f"{root}.") and not name.endswith("num_batches_tracked")
    }


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """(tensors by name, sha256) of any checkpoint, read as safely as ours are. Raises UserError."""
    held, _, digest = _read(path)
    for nest in NESTS:
        if isinstance(held, Mapping) and isinstance(held.get(nest), Mapping):
            held = held[nest]
    return _unwrapped({str(name): tensor for name, tensor in held.items() if isinstance(tensor, Tensor)}), digest


def _read(path: Path) -> tuple[Mapping[Any, Any], dict[str, str], str]:
    """(what the file holds, metadata of a .safetensors file, sha256). What it is, its first bytes say, whatever its name."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path} is no checkpoint: it has more than {LARGEST_BYTES >> 30} GB.")
        with path.open("rb") as file:
            start = file.read(HEAD)
    except OSError as error:
        raise UserError(f"The checkpoint {path} can't be read: {error.strerror}.") from None
    refuse_others(path, start)
    safe = path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80")) or start[8:9] == b"{"
    tensors, metadata = _safetensors(path) if safe else (_pickled(path), {})
    return tensors, metadata, sha256_of(path)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except Exception as error:  # SafetensorError, and what the tensors' types and shapes lead to in torch
        raise UserError(f"{path} is not a whole .safetensors file ({error}). Fetch it again.") from None


def _pickled(path: Path) -> Mapping[Any, Any]:
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
                whole = [member.filename for member in archive.infolist()]
                names = [name.partition("/")[2] for name in whole]
        except Exception as error:  # BadZipFile, and what damage of the directory leads to
            raise UserError(
                f"{path} is damaged, or no checkpoint that torch can read ({type(error).__name__}). Fetch it again."
            ) from None
        size = path.stat().st_size
        if unpacked > max(4 * size, 64 << 20):  # torch.save stores; what was packed afterwards shrinks by a tenth
            raise UserError(f"{path} would grow from {size / 1e6:.1f} MB to {unpacked / 1e6:.0f}: no weights do.")
        kind = "an archive of torch.export" if any("models/" in name for name in names) else ""
        kind = "an archive of numpy's arrays" if any(name.endswith(".npy") for name in whole) else kind
        if kind:
            raise UserError(
                f"{path} is {kind}, not a checkpoint: torch.save(model.state_dict(), 'weights.pth') makes one."
            )
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            raise UserError(
                f"{path} is a TorchScript archive, which holds code. Save its weights: torch.save(torch.jit.load(path)"
                ".state_dict(), 'weights.pth')."
            )
    try:
        held = unpickled(path)
    except Refused:
        raise UserError(
            f"{path} holds more than tensors, and loading it could run somebody's code. "
            "Save just the weights, torch.save(model.state_dict(), path), or fetch the file from where it was made."
        ) from None
    except Exception as error:  # on damage torch raises whatever that leads to: struct.error, AssertionError, KeyError
        # torch's advice on an UnpicklingError is to load the file unsafely, so that is not repeated.
        said = "" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise UserError(
            f"{path} is damaged, or no checkpoint that torch can read ({reason}). Fetch it again."
        ) from None
    if isinstance(held, list | tuple):
        held = dict(enumerate(held))
    if not isinstance(held, Mapping):
        raise UserError(f"{path} holds a {type(held).__name__}, not the tensors of a network by name.")
    return held


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without the wrappers' prefixes, where every name has them, and without AveragedModel's counter."""
    bare = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    while prefix := next((p for p in PREFIXES if bare and all(name.startswith(p) for name in bare)), None):
        bare = {name.removeprefix(prefix): tensor for name, tensor in bare.items()}
    return bare


def tensor_names(variant: Variant, form: str) -> dict[str, str]:
    """The name in format `form` of every tensor of our network. Raises KeyError if the format has no such blocks."""
    theirs = NAMES[form]
    modules = dict(zip(NAMES["ours"].stem, theirs.stem))
    index = 0
    for stage, blocks in enumerate(variant.blocks()):
        for i, block in enumerate(blocks):
            place = {"stage": stage, "block": i, "index": index, "stage_from_1": stage + 1}
            here, there = NAMES["ours"].block.format(**place), theirs.block.format(**place)
            for part, names in theirs.parts[block.kind].items():
                if part != "squeeze" or block.squeezed:
                    for mine, their in zip(NAMES["ours"].parts[block.kind][part], names):
                        modules[f"{here}.{mine}"] = f"{there}.{their}"
            index += 1
    for mine, their in zip(NAMES["ours"].head, theirs.head):
        modules[mine] = their.format(last=len(variant.stages) + 1)
    modules["classifier"] = theirs.classifier
    with torch.device("meta"):
        ours = EfficientNet(variant).state_dict()
    return {
        name: f"{modules[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"
        for name in ours
        if not name.endswith("num_batches_tracked")
    }


def load_into(network: EfficientNet, file: CheckpointFile) -> None:
    """Copies every tensor of `file` into `network`.

    Raises UserError that names what is missing, extra, misshapen, not of floats or not finite.
    """
    variant = network.variant
    if not {block.kind for stage in variant.blocks() for block in stage} <= NAMES[file.form].parts.keys():
        raise UserError(f"{file.path} is in {file.form}'s format, in which there is no {variant.name}.")
    names = tensor_names(variant, file.form)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name in names}
    missing = [their for their in names.values() if their not in file.tensors]
    known = set(names.values())
    extra = [name for name in file.tensors if name not in known and not name.endswith("num_batches_tracked")]
    misshapen = [
        f"{their} is {list(file.tensors[their].shape)}, not {list(shapes[mine])}"
        for mine, their in names.items()
        if their in file.tensors and tuple(file.tensors[their].shape) != shapes[mine]
    ]
    faults = [
        f"{label}: {', '.join(found[:3])}" + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        for label, found in (("missing", missing), ("extra", extra), ("wrong shape", misshapen))
        if found
    ]
    if faults:
        raise UserError(f"{file.path} does not fit {variant.name}. {'. '.join(faults)}. Is it another variant's?")
    for their in names.values():
        tensor = file.tensors[their]
        if tensor.dtype not in FLOATS or tensor.layout != torch.strided:  # integers without their scale would run too
            raise UserError(f"{file.path} holds other tensors than plain floats: {their}. Save the weights as float32.")
        if not tensor.isfinite().all():
            raise UserError(
                f"{file.path} holds values that are not finite in {their}. The training went wrong; use another file."
            )
    network.load_state_dict({mine: file.tensors[their] for mine, their in names.items()}, strict=False)


def classes_of(file: CheckpointFile) -> int:
    """Number of classes that the file's classifier tells apart. Raises UserError if it has no classifier."""
    weight = file.tensors.get(f"{NAMES[file.form].classifier}.weight")
    if weight is None or weight.ndim != 2:
        name = f"{NAMES[file.form].classifier}.weight"
        raise UserError(
            f"{file.path} has no classifier ({name}), so it can't name classes. Save the whole network under the usual names, or "
            "export it to ONNX and take that: make export ONNX=file."
        )
    if not 1 <= weight.shape[0] <= MOST_CLASSES:
        raise UserError(
            f"{file.path} tells {weight.shape[0]} classes apart: between 1 and {MOST_CLASSES} are supported."
        )
    return weight.shape[0]


_KNOWN = {"padding": ("symmetric", "same"), "interpolation": ("bilinear", "bicubic", "lanczos")}


def own_recipe(file: CheckpointFile) -> tuple[Recipe, list[str] | None] | None:
    """Recipe and labels that a checkpoint in our own format carries, or None."""
    if file.form != "ours" or "recipe" not in file.metadata:
        return None
    try:
        held = json.loads(file.metadata["recipe"])
        for name, known in _KNOWN.items():
            if held[name] not in known:
                raise ValueError(f"{name} {held[name]}")
        mean, std, eps = _triple(held["mean"]), _triple(held["std"]), float(held["eps"])
        preprocessing = Preprocessing(int(held["resolution"]), float(held["crop"]), held["interpolation"], mean, std)
        possible = 32 <= preprocessing.resolution <= 2048 and 0.1 <= preprocessing.crop <= 2
        if not possible or not 0 < eps < 1 or min(std) <= 0 or not all(map(math.isfinite, (*mean, *std))):
            raise ValueError(f"impossible {preprocessing}, epsilon {eps}")
        labels = held.get("labels")
        if labels is not None and not (isinstance(labels, list) and all(map(is_name, labels))):
            raise ValueError("labels that are no names")
        return Recipe(held["padding"], eps, preprocessing, "written in the checkpoint"), labels
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{file.path} carries a recipe that can't be read ({error!r}).") from None


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
