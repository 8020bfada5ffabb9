"""Engines on disk: what each was built from, for and by, in a manifest beside it, and why one may no longer do.

An engine is executable code for one TensorRT version and one GPU. TensorRT itself notices some of the mismatches, and
crashes or answers wrongly on the others; so the manifest is checked before TensorRT sees a byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence

from ...artifacts.artifact import StaleError
from ...artifacts.onnx_metadata import read_metadata
from ...errors import UserError
from ...lock import locked
from ...whole_file import write_whole
from .generations import NAMES
from .layers import Cost
from .options import ANY, BuildOptions

SCHEMA = 1
BEFORE_AMPERE = ("sm_75",)  # that TensorRT-RTX builds for only when it is asked to
_MOST_BYTES = 16 << 20  # of a manifest: the names of layers that a DLA can't do are the longest thing in it


class Manifest(NamedTuple):
    """What stands in `b1.int8.<gpu>.engine.json`."""

    engine_sha256: str
    engine_bytes: int
    onnx: str  # name of the artifact in the same folder
    onnx_sha256: str  # of its model, as its metadata says it
    module: str  # "tensorrt" | "tensorrt_rtx"
    version: str  # of TensorRT
    capability: str  # "sm_89", or ANY
    gpu: str  # its name; "" for an engine built without it
    options: BuildOptions
    seconds: float  # the build took
    peak_memory: int  # bytes, of the process that built it
    fallbacks: Dict[str, str]  # with DLA: layers that run on the GPU
    put_back: Sequence[str] = ()  # layers in FP16 that the artifact has in INT8
    cost: Optional[Cost] = None  # what the builder made of it, where it told
    tuning: Optional[Dict[str, Any]] = None  # of PRECISION=best: which candidates were timed, see tune.Record

    def to_json(self) -> bytes:
        values = {"schema": SCHEMA, **self._asdict(), "options": self.options.as_dict()}
        values["cost"] = self.cost._asdict() if self.cost else None
        return (json.dumps(values, indent=1) + "\n").encode()


class Wanted(NamedTuple):
    """What an engine must be to run here."""

    onnx: Path
    onnx_sha256: str
    module: str
    version: str
    capability: str


def engine_path(onnx: Path, variant: str, precision: str, gpu: str) -> Path:
    """Where the engine of an artifact in `onnx`'s folder lies; `gpu` is a short name, as "orin-sm87"."""
    return onnx.with_name(f"{variant}.{precision}.{gpu}.engine")


def manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def write_engine(engine: Path, content: bytes, manifest: Manifest) -> None:
    """Both files, each whole or not at all. Cut off between the two, the old manifest no longer fits: not loaded."""
    # No two builds give the same bytes: the engine of one with the manifest of the other would be refused.
    with locked(engine.parent):
        write_whole(engine, content)
        write_whole(manifest_path(engine), manifest.to_json())


_KINDS: Dict[str, Any] = {
    **dict.fromkeys(("engine_sha256", "onnx", "onnx_sha256", "module", "version", "capability", "gpu"), str),
    **dict.fromkeys(("engine_bytes", "peak_memory"), int),
    "seconds": (int, float),
    "fallbacks": dict,
}


def read_manifest(engine: Path) -> Manifest:
    """Raises UserError if there is none, or it is damaged."""
    path = manifest_path(engine)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES >> 20} MB")
        values: Dict[str, Any] = json.loads(path.read_bytes().decode("utf-8"))
        if values.pop("schema") != SCHEMA:
            raise ValueError("another version of this project wrote it")
        values["options"] = BuildOptions.from_dict(values["options"])
        values["cost"] = Cost(**values["cost"]) if values.get("cost") else None
        if not isinstance(values.get("tuning"), (dict, type(None))) or not isinstance(values.get("put_back", []), list):
            raise ValueError("what was tuned is no record")
        for name, kind in _KINDS.items():
            if not isinstance(values[name], kind) or isinstance(values[name], bool):
                raise ValueError(f"{name} is {values[name]!r:.80}")
        return Manifest(**values)
    except FileNotFoundError:
        raise UserError(
            f"{engine} has no manifest ({path.name}), so nobody knows what code it holds: build it anew from its ONNX "
            "file, or load it with --trust-engine if you know where it comes from."
        ) from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): build the engine anew.") from None


def mismatch(manifest: Manifest, wanted: Wanted) -> Optional[str]:
    """Why the engine does not fit, in words; None if it does."""
    built, here = (f"{NAMES.get(m.module, m.module)} {m.version}" for m in (manifest, wanted))
    if built != here:
        return f"it was built by {built}, and this is {here}"
    if manifest.capability == ANY and wanted.capability in BEFORE_AMPERE:
        return f"it was built for GPUs from Ampere (sm_80) on, and this GPU is {wanted.capability}"
    if manifest.capability not in (wanted.capability, ANY):
        return f"it was built for {manifest.capability}, and this GPU is {wanted.capability}"
    if manifest.onnx_sha256 != wanted.onnx_sha256:
        return f"{wanted.onnx.name} has changed since it was built"
    return None


def read_engine(engine: Path, manifest: Optional[Manifest]) -> bytes:
    """The engine's bytes, checked against `manifest` unless that is None. Raises UserError if they differ."""
    try:
        content = engine.read_bytes()
    except OSError as error:
        raise UserError(f"{engine} can't be read: {error.strerror}.") from None
    if manifest is not None and hashlib.sha256(content).hexdigest() != manifest.engine_sha256:
        raise UserError(f"{engine} is not what its manifest says (sha256 differs): damaged, or replaced.")
    return content


def require_current(engine: Path, manifest: Manifest) -> None:
    """Raises StaleError if the artifact that `engine` was built from lies beside it no more, or is another one now."""
    onnx = engine.with_name(Path(manifest.onnx).name)
    sha256 = None
    with contextlib.suppress(UserError):  # not there, or damaged
        sha256 = read_metadata(onnx).get("sha256")
    if sha256 != manifest.onnx_sha256:
        raise StaleError(
            f"{engine} is stale: {onnx.name} is not the one that it was built from. "
            f"Run 'make engine VARIANT={engine.parent.name} PRECISION={manifest.options.precision}' for that GPU again."
        )


def checked_engine(path: Path, wanted: Wanted, trust: bool = False) -> bytes:
    """The bytes of the engine `path`. Raises UserError, before TensorRT sees them, if they don't fit `wanted`.

    `trust`: one without a manifest is taken as it is.
    """
    try:
        manifest: Optional[Manifest] = read_manifest(path)
    except UserError:
        if not trust:
            raise
        manifest = None
    if manifest is not None:
        why = mismatch(manifest, wanted)
        if why:
            raise UserError(f"{path.name} does not fit: {why}")
    return read_engine(path, manifest)
