"""CIFAR-10 and -100 as their authors publish them: `*_batch*.bin`, or the pickles of the "python version".

A pickle is a program. These are read by an unpickler that knows four names and runs none of them.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from models.finetune.dataset import Found, LabelledImage
from runtime.errors import UserError

PLACES = ("cifar-10-batches-py", "cifar-10-batches-bin", "")  # of the unpacked archives
_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
_SIDE, _BYTES = 32, 3 * 32 * 32
_LARGEST = 256 << 20  # bytes; a batch has 31 MB
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find_cifar10(folder: Path) -> Found:
    """The 50,000 + 10,000 images of CIFAR-10 in `folder`: the test batch is what is judged by. Raises UserError."""
    for place in PLACES:
        here = folder / place
        for suffix, read in (("", _pickled), (".bin", _binary)):
            if (here / f"test_batch{suffix}").is_file():
                missing = [name for name in _TRAIN if not (here / f"{name}{suffix}").is_file()]
                if missing:
                    raise UserError(f"{here} lacks {', '.join(missing)}: unpack the whole archive.")
                train = [p for name in _TRAIN for p in _images(name, *read(here / f"{name}{suffix}"))]
                val = _images("test_batch", *read(here / f"test_batch{suffix}"))
                return Found(list(_NAMES), train, val, f"CIFAR-10 in {here}")
    raise UserError(
        f"There is no CIFAR-10 in {folder}: unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz of its authors "
        "(University of Toronto) there."
    )


def _images(batch: str, labels: np.ndarray, pixels: np.ndarray) -> list[LabelledImage]:
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    rows = enumerate(zip(labels, images))
    return [LabelledImage(f"{batch} {i}", np.ascontiguousarray(image), int(label)) for i, (label, image) in rows]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is no batch of CIFAR-10: it has more than {_LARGEST >> 20} MB.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None


def _checked(path: Path, labels: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(labels) or pixels.shape != (len(labels), _BYTES) or labels.min() < 0 or labels.max() >= len(_NAMES):
        raise UserError(f"{path} is no batch of CIFAR-10: {len(labels)} labels, pixels {list(pixels.shape)}.")
    return labels, pixels


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a label and 3072 pixels: red, green, blue, each row by row."""
    content = _read(path)
    if len(content) % (1 + _BYTES):
        raise UserError(f"{path} is no whole batch of CIFAR-10: {len(content)} bytes are not rows of {1 + _BYTES}.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _BYTES)
    return _checked(path, rows[:, 0].astype(np.int64), rows[:, 1:])


class _Dtype:
    """Stands for numpy.dtype: notes what it was called with."""

    def __init__(self, kind: Any = None, *_: Any) -> None:
        self.kind = kind

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands for numpy.ndarray: notes its state."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> np.ndarray:
        _, shape, dtype, fortran, content = self.state
        if not isinstance(dtype, _Dtype) or dtype.kind not in ("u1", b"u1") or fortran:
            raise ValueError("not an array of bytes")
        return np.frombuffer(content, np.uint8).reshape(shape)


def _encoded(text: Any, encoding: Any = None) -> bytes:
    """Stands for _codecs.encode, by which Python 3 writes bytes in Python 2's format."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"encoding {encoding!r}")
    return str(text).encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _encoded}
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        if (module, name) not in known:
            raise _Foreign(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, _: Any) -> NoReturn:
        raise _Foreign("a persistent object")


class _Foreign(Exception):
    """The pickle wants something that no batch needs."""


def _pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        held = _Unpickler(io.BytesIO(_read(path)), encoding="bytes").load()
        held = {key.decode() if isinstance(key, bytes) else key: value for key, value in held.items()}
        return _checked(path, np.array(held["labels"], np.int64), held["data"].pixels())
    except _Foreign as error:
        raise UserError(
            f"{path} is no batch of CIFAR-10: it would run {error}, and nothing of it was run. Delete it."
        ) from None
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises whatever that leads to
        raise UserError(
            f"{path} is damaged, or no batch of CIFAR-10 ({type(error).__name__}). Unpack it again."
        ) from None
