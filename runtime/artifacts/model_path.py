"""What `--model` may name: an ONNX file, an engine, a folder that holds artifacts, or a bundle as it was packed."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Optional, Union

from ..digest import sha256_of
from ..errors import UserError
from .artifact import PRECISIONS, artifact_path, find_artifact, latest

_ARTIFACT = re.compile(rf"(?P<name>.+)\.(?P<precision>{'|'.join(map(re.escape, PRECISIONS))})\.onnx")
_PACKED = (".tar.gz", ".tgz", ".tar")
_INSIDE = re.compile(
    r"[\w.+-]+/(?P<path>artifacts/(?:[\w+-][\w.+-]*/)*[\w+-][\w.+-]*)", re.ASCII
)  # so nothing leads elsewhere
_MOST_BYTES = 8 << 30


def model_file(model: Union[str, Path], precision: Optional[str] = None) -> Path:
    """The ONNX file or engine that `model` means. A folder is artifacts/, one of its folders, a bundle that was unpacked, or one
    that `make card` wrote; where there is none, the network of that name. `precision` chooses in it. A packed bundle is unpacked
    into the user's cache, where engines that are built for it stay.

    Raises UserError for a folder without artifacts or with several networks, and for an archive that is no bundle.
    """
    path = Path(model)
    if path.is_dir():
        return _in_folder(path, precision)
    if path.name.endswith(_PACKED) and path.is_file():
        return _in_folder(_unpacked(path), precision)
    if not path.exists() and path.name == str(model) and artifact_path(path.name, "fp32").parent.is_dir():
        return find_artifact(path.name, precision)
    if precision:
        raise UserError(
            "--precision goes with a variant, a folder or a bundle: the file that --model names has its own."
        )
    return path


def _in_folder(folder: Path, precision: Optional[str]) -> Path:
    home = folder / "artifacts" if (folder / "artifacts").is_dir() else folder
    if latest(home):
        return find_artifact(None, precision, home)
    found = {}
    for path in sorted(home.glob("*.onnx")):
        match = _ARTIFACT.fullmatch(path.name)
        if match:
            found[match["name"], match["precision"]] = path
    names = sorted({name for name, _ in found})
    if not found:
        raise UserError(f"{folder} holds no artifacts (b1.fp32.onnx): name an .onnx file, or a folder that has some.")
    if len(names) > 1:
        raise UserError(f"{folder} holds several networks ({', '.join(names)}): name one of its files.")
    for choice in [precision] if precision else PRECISIONS:
        if (names[0], choice) in found:
            return found[names[0], choice]
    there = ", ".join(kind for _, kind in found)
    raise UserError(f"{folder} has no {precision} of {names[0]}. There are: {there}.")


def _unpacked(archive: Path) -> Path:
    """The folder in the user's cache that holds the artifacts of a packed bundle."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efficientnet-edge" / "bundles"
    target = cache / sha256_of(archive)[:32]
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=str(cache)) as folder:
            whole = Path(folder) / "whole"
            _unpack(archive, whole)
            try:
                whole.replace(target)
            except OSError:
                if not target.is_dir():  # else another process was first
                    raise
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} can't be unpacked ({error}): copy it here again.") from None
    except OSError as error:
        raise UserError(
            f"{archive} can't be unpacked into {cache} ({error.strerror or error}): unpack it with tar xzf, and name its folder."
        ) from None
    return target


def _unpack(archive: Path, target: Path) -> None:
    """Writes what `archive` has below artifacts/ to `target`."""
    size = 0
    with tarfile.open(archive) as packed:
        for member in packed:
            inside = _INSIDE.fullmatch(member.name)
            if not member.isfile() or inside is None:
                continue
            size += member.size
            if size > _MOST_BYTES:
                raise UserError(f"{archive} holds more than {_MOST_BYTES >> 30} GiB of artifacts: unpack it by hand.")
            path = target / inside["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            content = packed.extractfile(member)
            assert content is not None  # of a file
            with path.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
    if not (target / "artifacts").is_dir():
        raise UserError(f"{archive} is no bundle of this project: 'make bundle VARIANT=b1' makes one.")
