"""CIFAR-10 in its authors' "binary version". Their "python version" holds pickles, which are programs, and is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.finetune.dataset import Found, LabelledImage
from runtime.errors import UserError

PLACES = ("cifar-10-batches-bin", "")  # of the unpacked archive
_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
_SIDE, _BYTES = 32, 3 * 32 * 32
_LARGEST = 256 << 20  # bytes; a batch has 31 MB
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find_cifar10(folder: Path) -> Found:
    """The 50,000 + 10,000 images of CIFAR-10 in `folder`: the test batch is what is judged by. Raises UserError."""
    for place in PLACES:
        here = folder / place
        if (here / "test_batch.bin").is_file():
            missing = [name for name in _TRAIN if not (here / f"{name}.bin").is_file()]
            if missing:
                raise UserError(f"{here} lacks {', '.join(missing)}: unpack the whole archive.")
            train = [p for name in _TRAIN for p in _images(name, *_read(here / f"{name}.bin"))]
            val = _images("test_batch", *_read(here / "test_batch.bin"))
            return Found(list(_NAMES), train, val, f"CIFAR-10 in {here}")
    if any((folder / place / "test_batch").is_file() for place in ("cifar-10-batches-py", "")):
        raise UserError(
            f"{folder} holds the Python version of CIFAR-10, whose pickles are not read here: unpack "
            "cifar-10-binary.tar.gz of its authors there."
        )
    raise UserError(
        f"There is no CIFAR-10 in {folder}: unpack cifar-10-binary.tar.gz of its authors (University of Toronto) there."
    )


def _images(batch: str, labels: np.ndarray, pixels: np.ndarray) -> list[LabelledImage]:
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    rows = enumerate(zip(labels, images))
    return [LabelledImage(f"{batch} {i}", np.ascontiguousarray(image), int(label)) for i, (label, image) in rows]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a label and 3072 pixels: red, green, blue, each row by row."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is no batch of CIFAR-10: it has more than {_LARGEST >> 20} MB.")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    if not content or len(content) % (1 + _BYTES):
        raise UserError(f"{path} is no whole batch of CIFAR-10: {len(content)} bytes are not rows of {1 + _BYTES}.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _BYTES)
    if rows[:, 0].max() >= len(_NAMES):
        raise UserError(f"{path} is no batch of CIFAR-10: it has a label {rows[:, 0].max()}.")
    return rows[:, 0].astype(np.int64), rows[:, 1:]
