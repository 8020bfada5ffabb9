"""CIFAR-10 in its authors' binary version, written by the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.finetune.cifar import find_cifar10
from runtime.errors import UserError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def contents(seed: int, count: int = 6) -> tuple[list[int], np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 10, count).tolist(), random.integers(0, 256, (count, 3072)).astype(np.uint8)


def written(folder: Path) -> Path:
    folder.mkdir()
    for seed, name in enumerate(BATCHES):
        labels, pixels = contents(seed)
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin"])
def test_the_batches_give_their_pictures_and_labels(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "cifar"
    if place:
        folder.mkdir()
    written(folder / place)
    found = find_cifar10(folder)
    assert len(found.train) == 30 and found.val is not None and len(found.val) == 6 and found.classes[3] == "cat"
    labels, pixels = contents(1)
    second = found.train[6 + 2]
    assert second.label == labels[2] and (second.source == pixels[2].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cposix\nmkdir\n(S'pwned'\ntR.")
    with pytest.raises(
        UserError, match="Python version of CIFAR-10, whose pickles are not read here: unpack cifar-10-bin"
    ):
        find_cifar10(tmp_path)


def test_damage_and_absence_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no CIFAR-10 in"):
        find_cifar10(tmp_path)
    folder = written(tmp_path / "cifar")
    (folder / "data_batch_3.bin").write_bytes(bytes([12]) + bytes(3072))
    with pytest.raises(UserError, match="data_batch_3.bin is no batch of CIFAR-10: it has a label 12"):
        find_cifar10(folder)
    (folder / "data_batch_2.bin").write_bytes(bytes(3072))
    with pytest.raises(UserError, match="no whole batch"):
        find_cifar10(folder)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(UserError, match="lacks data_batch_2"):
        find_cifar10(folder)
