"""Artifacts: ONNX files that carry their own facts in their metadata, and where they lie."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from ..errors import UserError
from ..images.preprocess import INPUTS, Preprocessing
from ..whole_file import write_whole
from .onnx_metadata import read_metadata, with_metadata
from .variant_names import canonical

PROJECT = "efficientnet-edge"
# Of the metadata; grows when a reader of today would misunderstand the file. 2: has "input", the network takes uint8. 3: has
# "head" and "outputs" instead of classes.
SCHEMAS = ("1", "2", "3")
CLASSIFIER, EMBEDDING, FEATURES = HEADS = ("classifier", "embedding", "features")
PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
NAME = re.compile(r"\w[\w.+-]{0,99}")  # of a variant: part of paths, so nothing that leads elsewhere
RANDOM_WEIGHTS = "random weights: good for measuring latency, the classes mean nothing"


class Output(NamedTuple):
    """What a network gives, float32: a vector [N, channels], or a map [N, channels, H, W]."""

    name: str
    channels: int
    stride: int = 0  # of a map: px of the image that a cell stands for, either way


class Artifact(NamedTuple):
    """What an artifact says of itself."""

    path: Path
    variant: str
    precision: str  # one of PRECISIONS
    preprocessing: Preprocessing
    classes: int  # 0 with another head than a classifier's
    labels: List[str]  # one name a class; invented ones ("class 3") where nobody gave any
    weights: str  # where they came from, in words
    weights_sha256: Optional[str]  # of the checkpoint file; None: random weights
    metadata: Dict[str, str]  # everything, as it stands in the file
    head: str = CLASSIFIER  # one of HEADS
    declared: Tuple[Output, ...] = ()  # what another head gives

    @property
    def outputs(self) -> Tuple[Output, ...]:
        """What the network gives, in its order."""
        return self.declared or (Output("logits", self.classes),)

    @property
    def random(self) -> bool:
        return self.weights_sha256 is None


def read_artifact(path: Union[str, Path]) -> Artifact:
    """The facts in the ONNX file `path`; reads a few kilobytes of it, whatever its size.

    Raises UserError if there is no such file, it is damaged, or this project did not write it.
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
        preprocessing = Preprocessing(
            resolution=int(metadata["resolution"]),
            crop=float(metadata["crop"]),
            interpolation=metadata["interpolation"],
            mean=_triple(metadata["mean"]),
            std=_triple(metadata["std"]),
            input=metadata["input"] if metadata["schema"] == "2" else metadata.get("input", "float32"),
        )
        head, declared = _head(metadata) if metadata["schema"] == "3" else (CLASSIFIER, ())
        if preprocessing.input not in INPUTS:
            raise ValueError(f"input {preprocessing.input!r}")
        # A crop near 0 would enlarge an image to terabytes.
        if (
            not 1 <= preprocessing.resolution <= 10_000
            or not 0.05 <= preprocessing.crop <= 20
            or min(preprocessing.std) <= 0
        ):
            raise ValueError(f"impossible {preprocessing}")
        if (
            not NAME.fullmatch(metadata["variant"]) or metadata["precision"] not in PRECISIONS
        ):  # files are called by them
            raise ValueError(f"no name of a file: {metadata['variant']}.{metadata['precision']}")
        return Artifact(
            path=path,
            variant=metadata["variant"],
            precision=metadata["precision"],
            preprocessing=preprocessing,
            classes=int(metadata["classes"]) if head == CLASSIFIER else 0,
            labels=[str(label) for label in json.loads(metadata["labels"])] if head == CLASSIFIER else [],
            weights=metadata["weights"],
            weights_sha256=metadata["weights_sha256"] or None,
            metadata=metadata,
            head=head,
            declared=declared,
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from None


def _triple(text: str) -> Tuple[float, float, float]:
    red, green, blue = (float(value) for value in json.loads(text))
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"not finite: {text}")
    return red, green, blue


def _head(metadata: Mapping[str, str]) -> Tuple[str, Tuple[Output, ...]]:
    """The head, and what it gives."""
    head, maps = metadata["head"], []
    for each in json.loads(metadata["outputs"]):
        maps.append(Output(str(each["name"]), int(each["channels"]), int(each["stride"])))
    vectors = all(each.stride == 0 for each in maps)
    if head not in HEADS[1:] or not maps or min(each.channels for each in maps) < 1 or vectors != (head == EMBEDDING):
        raise ValueError(f"head {head!r} giving {maps}")
    return head, tuple(maps)


def require_classes(artifact: Artifact) -> None:
    """Raises UserError for an artifact with another head than a classifier's."""
    if artifact.head == CLASSIFIER:
        return
    base, gives = head_named(artifact.variant)[0], ", ".join(output.name for output in artifact.outputs)
    reader = (
        "python -m runtime.embed takes it" if artifact.head == EMBEDDING else "runtime.Features takes it, in Python"
    )
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
    schema = "3" if "head" in metadata else "1" if metadata.get("input", "float32") == "float32" else "2"
    own = {"project": PROJECT, "schema": schema, "precision": precision}
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


def find_artifact(
    variant: Optional[str] = None, precision: Optional[str] = None, folder: Optional[Path] = None
) -> Path:
    """Path of an artifact of `variant` (None: the one exported last) in `precision` (None: the one that artifacts/latest
    names for that variant, else fp32).

    Raises UserError that says what to run if there is none.
    """
    folder = folder or artifacts_folder()
    latest: List[str] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        latest = (folder / "latest").read_text(encoding="utf-8").split()
    if variant is None:
        if not latest:
            raise UserError(
                f"There is no model in {folder}/ yet: run 'make export VARIANT=b0', or name a file with --model."
            )
        variant = latest[0]
    name = canonical(variant)
    if precision is None:
        precision = latest[1] if latest[:1] == [name] and len(latest) > 1 else "fp32"
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
