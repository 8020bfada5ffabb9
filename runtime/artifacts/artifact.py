"""Artifacts: ONNX files that carry their own facts in their metadata, and where they lie."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Mapping, Optional, Tuple, Union

from ..errors import UserError
from ..invocation import typed
from ..whole_file import write_whole
from .facts import CLASSIFIER, EMBEDDING, HEADS, SCHEMAS, Facts, facts_of, schema_of
from .identity import why_stale
from .onnx_metadata import read_metadata, with_metadata
from .variant_names import canonical

PROJECT = "efficientnet-edge"
PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
RANDOM_WEIGHTS = "random weights: good for measuring latency, the classes mean nothing"


@dataclass(frozen=True)
class Artifact(Facts):
    """A network's facts, and the file that they were read from."""

    path: Path = Path()
    precision: str = "fp32"  # one of PRECISIONS
    metadata: Mapping[str, str] = field(default_factory=dict)  # everything, as it stands in the file

    @property
    def told(self) -> str:
        """Which network it is, for people: "birds int8 (lite0, birds.safetensors, given by path)"."""
        network = [self.more["network"]] if "network" in self.more else []
        return f"{self.variant} {self.precision} ({', '.join([*network, self.weights])})"

    @property
    def asked(self) -> str:
        """The precision as a user asks for it: "int8" for int8-fp16 too."""
        return self.precision.partition("-")[0]


class StaleError(UserError):
    """An artifact of another network than the one that lies under its name."""


def read_artifact(path: Union[str, Path]) -> Artifact:
    """The facts in the ONNX file `path`; reads a few kilobytes of it, whatever its size.

    Raises UserError if there is no such file, it is damaged, or this project did not write it; StaleError if it was made from
    another network than the FP32 artifact beside it.
    """
    path = Path(path)
    metadata = read_metadata(path)
    if metadata.get("project") != PROJECT:
        raise UserError(
            f"{path} is an ONNX file, but not one that this project exported: make one with 'make export VARIANT=b0'."
        )
    if metadata.get("schema") not in SCHEMAS:
        raise UserError(
            f"{path} was written by another version of this project (schema {metadata.get('schema')}): export it again."
        )
    try:
        if metadata["precision"] not in PRECISIONS:  # files are called by it
            raise ValueError(f"precision {metadata['precision']!r}")
        facts = facts_of(metadata)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from None
    stale = why_stale(path, metadata)
    if stale:
        raise StaleError(stale)
    return Artifact(**vars(facts), path=path, precision=metadata["precision"], metadata=metadata)


def require_classes(artifact: Artifact) -> None:
    """Raises UserError for an artifact with another head than a classifier's."""
    if artifact.head == CLASSIFIER:
        return
    base, gives = head_named(artifact.variant)[0], ", ".join(output.name for output in artifact.outputs)
    reader = f"{typed('embed')} takes it" if artifact.head == EMBEDDING else "runtime.Features takes it, in Python"
    raise UserError(
        f"{artifact.path} has no classes, it gives {gives}: {reader}. For classes take --variant {base} "
        f"('make export VARIANT={base}' makes it)."
    )


def with_head_name(variant: str, head: str) -> str:
    """What the artifacts of `variant` with `head` are called: "b1", "b1-embedding"."""
    return variant if head == CLASSIFIER else f"{variant}-{head}"


def head_named(name: str) -> Tuple[str, str]:
    """(variant, head) from what artifacts are called: "b1-embedding" -> ("b1", "embedding")."""
    base, _, head = name.rpartition("-")
    return (base, head) if base and head in HEADS[1:] else (name, CLASSIFIER)


def sealed(model: bytes, precision: str, metadata: Mapping[str, str]) -> Tuple[bytes, str]:
    """`model` (a serialised ModelProto without metadata) as an artifact with `metadata`; and its sha256 for `verify`.

    `metadata` may be that of the artifact it was made from: what belongs to one file alone is replaced.
    """
    own = {"project": PROJECT, "schema": schema_of(metadata), "precision": precision}
    passed_on = {key: value for key, value in metadata.items() if key not in own and key != "sha256"}
    return with_metadata(model, {**own, **passed_on})


# Where artifacts lie: artifacts/<variant>/<variant>.<precision>.onnx. artifacts/latest names the variant exported last and,
# where that is not fp32 (a bundle may hold none), the precision: "b1 int8".


def artifacts_folder() -> Path:
    """`EFFICIENTNET_ARTIFACTS`, else `artifacts` in the current folder."""
    return Path(os.environ.get("EFFICIENTNET_ARTIFACTS") or "artifacts")


def artifact_path(variant: str, precision: str, folder: Optional[Path] = None) -> Path:
    name = canonical(variant)
    return (folder or artifacts_folder()) / name / f"{name}.{precision}.onnx"


def set_latest(variant: str, folder: Optional[Path] = None, precision: Optional[str] = None) -> None:
    """Makes `variant`, in `precision` (None: fp32), what `python -m runtime.infer` takes when none is named."""
    words = [variant, precision] if precision else [variant]
    write_whole((folder or artifacts_folder()) / "latest", f"{' '.join(words)}\n".encode())


def latest(folder: Path) -> List[str]:
    """What artifacts/latest says: [] without one, else the name, and the precision where that is not fp32."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / "latest").read_text(encoding="utf-8").split()
    return []


def find_artifact(
    variant: Optional[str] = None, precision: Optional[str] = None, folder: Optional[Path] = None
) -> Path:
    """Path of an artifact of `variant` (None: the one exported last) in `precision` (None: the one that artifacts/latest
    names for that variant, else fp32).

    Raises UserError that says what to run if there is none.
    """
    folder = folder or artifacts_folder()
    last = latest(folder)
    if variant is None:
        if not last:
            raise UserError(
                f"There is no model in {folder}/ yet: run 'make export VARIANT=b0', or name a file with --model."
            )
        variant = last[0]
    name = canonical(variant)
    if precision is None:
        precision = last[1] if last[:1] == [name] and len(last) > 1 else "fp32"
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}': choose {', '.join(PRECISIONS)}.")
    path = artifact_path(variant, precision, folder)
    if not path.is_file():
        head = head_named(variant)[1]
        if head != CLASSIFIER and precision.startswith("int8"):
            raise UserError(
                f"There is no {path}: INT8 is for classifiers, whose classes calibration judges it by. Take fp16."
            )
        found = sorted(p.name for p in folder.glob("*/*.onnx"))
        there = f" There are: {', '.join(found)}." if found else ""
        make = "export" if precision in ("fp32", "fp16") else "calibrate"
        raise UserError(f"There is no {path}: run 'make {make} VARIANT={variant}'.{there}")
    return path
