"""One name, one network: whether a file belongs to the FP32 network that lies under its name, and where what no longer does
is put."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Collection, List, Mapping, NamedTuple, Optional

from ..errors import UserError
from .onnx_metadata import read_metadata

REMEDIES = {"fp16": "make export VARIANT={} FORCE=1", "int8": "make calibrate VARIANT={}"}


def why_stale(path: Path, metadata: Mapping[str, str]) -> Optional[str]:
    """Why the artifact `path` with `metadata` is not of the network that lies beside it in FP32, and which command remakes
    it; None if it is, or if there is no FP32 file to ask."""
    made_from, name = metadata.get("fp32_sha256"), metadata.get("variant", "")
    head = metadata.get("head")
    if head and name.endswith(f"-{head}"):
        base = name[: -len(head) - 1]
        with contextlib.suppress(UserError):  # no classifier under that name
            whole = path.parent.parent / base / f"{base}.fp32.onnx"
            if not same_weights(metadata, read_metadata(whole)):
                return (
                    f"{path} is stale: {whole} beside it has other weights. "
                    f"Run 'make export VARIANT={base} HEAD={head} FORCE=1' with the weights that are meant."
                )
    fp32 = path.with_name(f"{name}.fp32.onnx")
    if not made_from or fp32 == path:
        return None
    try:
        found = read_metadata(fp32).get("sha256")
    except UserError:  # not there, as in a bundle, or damaged: whoever reads it is told
        return None
    if found == made_from:
        return None
    remedy = REMEDIES[metadata["precision"].split("-")[0]].format(name)
    return f"{path} is stale: it was made from another network than {fp32.name} beside it. Run '{remedy}'."


def same_weights(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two artifacts, by their metadata, have the same weights: from one file, or the same numbers in two."""
    return any(
        name in one and one[name] == other.get(name) for name in ("weights_sha256", "tensors_sha256")
    )  # random ones have the weights_sha256 ""


class Replaced(NamedTuple):
    """What was put out of the way of a new network, and where."""

    folder: Path
    files: List[str]

    def __str__(self) -> str:
        return f"{', '.join(self.files)} to {self.folder}: made from the network that was there before"


def put_aside(folder: Path, name: str, old_sha256: str, written: Collection[Path]) -> Optional[Replaced]:
    """Moves what lies in `folder` under `name` but is not among `written` (INT8 files, engines, reports, bundles) into a folder
    of the FP32 network `old_sha256` that it was made from. None if there is nothing."""
    files = sorted(path for path in folder.glob(f"{name}.*") if path.is_file() and path not in written)
    if not files:
        return None
    aside = folder / f"replaced-{old_sha256[:8]}"
    aside.mkdir(exist_ok=True)
    for path in files:
        path.replace(aside / path.name)
    return Replaced(aside, [path.name for path in files])
