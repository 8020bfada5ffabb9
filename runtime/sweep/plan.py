"""What a sweep is to measure."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..artifacts.artifact import PRECISIONS
from ..artifacts.facts import NAME
from ..artifacts.third_party import name_of
from ..artifacts.variant_names import TIMM, canonical, is_variant
from ..backends.backend import BACKENDS
from ..errors import UserError

LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "numpy", "Pillow")


class Foreign(NamedTuple):
    """An ONNX classifier of somebody else."""

    path: Path
    name: str


class Plan(NamedTuple):
    """All that a sweep's figures depend on, besides the artifacts and the machine."""

    variants: List[str]
    precisions: List[str]
    backends: List[str]  # ["auto"], or names
    batches: List[int]
    foreign: List[Foreign]
    data: Optional[Path]  # labelled images; None: accuracy is not measured
    limit: Optional[int]  # images of `data`, about
    calib: Optional[Path]  # images for artifacts in INT8 that are missing
    images: Optional[Path]  # that latency is measured on
    random: bool  # random weights
    seconds: Optional[float]  # of measuring latency
    threads: Optional[int]

    def latency_key(self, sha256: str, backend: str, batch: int, images: str) -> str:
        """What a measured latency depends on; equal keys mean that it need not be measured again."""
        return _digest([sha256, backend, batch, self.seconds, self.threads, images, site()])

    def accuracy_key(self, sha256: str, backend: str, reference: str, data: str) -> str:
        """What a measured accuracy depends on; `data` is the data set's `fingerprint`."""
        return _digest([sha256, backend, reference, self.limit, self.threads, data, site()])


def variants_of(text: str) -> List[str]:
    """`b0..b3,Lite0` -> b0 b1 b2 b3 lite0. Raises UserError for a range that can't be meant."""
    names: List[str] = []
    for word in _words(text):
        found = re.fullmatch(r"(.*?)(\d+)\.\.(.*?)(\d+)", word)
        if ".." in word and not found:
            raise UserError(f"'{word}' is no range of variants: write b0..b7.")
        if found:
            stem, first, other, last = found.groups()
            if other not in ("", stem) or int(first) > int(last):
                raise UserError(f"'{word}' is no range of variants: write {stem}{first}..{stem}{int(first) + 1}.")
            names += [f"{stem}{number}" for number in range(int(first), int(last) + 1)]
        else:
            names.append(word)
    return list(dict.fromkeys(name if name.startswith(TIMM) else canonical(name) for name in names))


def require_variants(names: Sequence[str], folder: Path) -> None:
    """Raises UserError unless each of `names` is of the family, one of timm's models, or a network that lies in `folder`."""
    for name in names:
        if not (is_variant(name) or name.startswith(TIMM) or (folder / name).is_dir()):
            there = sorted(each.parent.name for each in folder.glob("*/*.fp32.onnx"))
            hint = difflib.get_close_matches(name, [*_FAMILY, *there], n=1)
            raise UserError(
                f"There is no variant '{name}'.{f' Did you mean {hint[0]}?' if hint else ''} The family is {', '.join(_FAMILY)}"
                f"{f'; exported besides: {own}' if (own := ', '.join(set(there) - set(_FAMILY))) else ''}."
            )


_FAMILY = (
    *(f"b{i}" for i in range(8)),
    *(f"v2-b{i}" for i in range(4)),
    "v2-s",
    "v2-m",
    "v2-l",
    *(f"lite{i}" for i in range(5)),
)


def precisions_of(text: str) -> List[str]:
    return _known(text, PRECISIONS, "precision")


def backends_of(text: str) -> List[str]:
    names = _known(text, ("auto", *BACKENDS), "backend")
    if "auto" in names and len(names) > 1:
        raise UserError("auto is one of the backends already: name those to measure, or auto alone.")
    return names


def batches_of(text: str) -> List[int]:
    try:
        batches = sorted({int(word) for word in _words(text)})
    except ValueError:
        batches = []
    if not batches or batches[0] < 1:
        raise UserError(f"'{text}' are no batch sizes: write 1,8.")
    return batches


def foreign_of(text: str) -> List[Foreign]:
    """`resnet50.onnx,nets/m3.onnx:MobileNetV3` -> files and what they are called. Raises UserError if there is no such file."""
    found = []
    for word in _words(text):
        path, _, name = word.partition(":")
        if not Path(path).is_file():
            raise UserError(f"There is no file {path}.")
        name = name or name_of(Path(path))
        if not NAME.fullmatch(name):
            raise UserError(f"'{name}' can't be a network's name: use letters, digits, dots and dashes (FILE:NAME).")
        found.append(Foreign(Path(path), name))
    return found


def fingerprint(folder: Optional[Path]) -> str:
    """Sha256 of the names and sizes of all files in `folder`; that of nothing is ''."""
    if folder is None:
        return ""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    digest = hashlib.sha256()
    for where, folders, files in os.walk(str(folder)):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(where, name)
            size = os.stat(path).st_size if os.path.exists(path) else -1
            digest.update(f"{os.path.relpath(path, str(folder))} {size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def site() -> Dict[str, str]:
    """The machine and its libraries, as far as another one would mean other figures."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"node": platform.node(), "machine": platform.machine(), "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _words(text: str) -> List[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _known(text: str, names: Tuple[str, ...], what: str) -> List[str]:
    words = list(dict.fromkeys(_words(text)))
    unknown = [word for word in words if word not in names]
    if unknown or not words:
        raise UserError(f"There is no {what} '{', '.join(unknown)}': choose of {', '.join(names)}.")
    return words


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
