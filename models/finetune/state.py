"""What an interrupted training goes on from, and the checkpoint it is after. Both are written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from models.checkpoints import Recipe
from models.finetune.dataset import Found
from models.finetune.settings import Settings
from runtime.errors import UserError
from runtime.whole_file import write_whole


def key_of(found: Found, settings: Settings, start: str, recipe: Recipe) -> str:
    """Digest of what a training depends on: images (names, sizes, times), settings, what it starts from, how it is run."""
    digest = hashlib.sha256(
        json.dumps([settings.facts(), start, repr(recipe), found.classes, torch.__version__]).encode()
    )
    for labelled in found.images:
        digest.update(f"{labelled.name}\0{labelled.label}\0".encode("utf-8", "surrogateescape"))
        if isinstance(labelled.source, str):
            try:
                facts = os.stat(labelled.source)
                digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
            except OSError:
                pass  # it will be reported where it is decoded
        else:
            digest.update(labelled.source.tobytes())
    return digest.hexdigest()


def write_state(path: Path, key: str, held: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    torch.save({"key": key, **held}, content)
    write_whole(path, content.getvalue())


def read_state(path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """(what was held, "") or (None, why it can't be gone on from: "" if there is nothing)."""
    if not path.is_file():
        return None, ""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        if held["key"] != key:
            return None, f"{path} is of another training (other images, settings or weights): starting anew"
        return held, ""
    except Exception as error:  # on damage torch raises whatever that leads to
        return None, f"{path} is damaged ({type(error).__name__}): starting anew"


def write_checkpoint(
    path: Path, network: nn.Module, recipe: Recipe, classes: list[str], training: Mapping[str, Any]
) -> None:
    """The network's weights in our own format, with how to run it, the names of its classes, and how it was trained.

    The same weights give the same bytes. Raises UserError if there is no room.
    """
    pre = recipe.preprocessing
    how = {
        "padding": recipe.padding,
        "eps": recipe.eps,
        "resolution": pre.resolution,
        "crop": pre.crop,
        "interpolation": pre.interpolation,
        "mean": list(pre.mean),
        "std": list(pre.std),
        "labels": classes,
    }
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {"recipe": json.dumps(how, ensure_ascii=False), "training": json.dumps(training, ensure_ascii=False)}
    # With more than one entry, safetensors orders the metadata by chance.
    write_whole(path, _sorted_metadata(safetensors.torch.save(tensors, metadata)))


def _sorted_metadata(content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def training_of(path: Path) -> dict[str, Any]:
    """How the checkpoint `path` was trained; {} if it does not say. Raises UserError if it can't be read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get("training", "{}")))
    except Exception as error:
        raise UserError(f"{path} is not a whole checkpoint ({type(error).__name__}).") from None
