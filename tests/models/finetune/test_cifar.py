"""CIFAR-10 in its authors' two formats, written by the test, and pickles that would do more."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from models.finetune.cifar import find_cifar10
from runtime.errors import UserError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def contents(seed: int, count: int = 6) -> tuple[list[int], np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 10, count).tolist(), random.integers(0, 256, (count, 3072)).astype(np.uint8)


def written(folder: Path, form: str, protocol: int = 2) -> Path:
    folder.mkdir()
    for seed, name in enumerate(BATCHES):
        labels, pixels = contents(seed)
        if form == "binary":
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            held = {
                b"batch_label": b"a batch",
                b"labels": labels,
                b"data": pixels,
                b"filenames": [b"a.png"] * len(labels),
            }
            (folder / name).write_bytes(pickle.dumps(held, protocol))
    return folder


def python_2(labels: list[int], pixels: np.ndarray) -> bytes:
    """The opcodes that Python 2 with numpy 1 wrote, as in the published archive: byte strings are SHORT_BINSTRING and
    BINSTRING, and the names are numpy.core's."""

    def text(value: bytes) -> bytes:
        return (
            b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + len(value).to_bytes(4, "little") + value
        )

    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        + b"(K\x00t"
        + text(b"b")
        + b"tR(K\x01(K"
        + bytes([len(labels)])
        + b"M\x00\x0ct"
        + b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89"
        + text(pixels.tobytes())
        + b"tb"
    )
    return b"\x80\x02}(" + text(b"labels") + numbers + text(b"data") + array + b"u."


@pytest.mark.parametrize(("form", "place"), [("pickle", "cifar-10-batches-py"), ("binary", "cifar-10-batches-bin")])
def test_both_formats_give_the_same_pictures(tmp_path, form, place):
    written(tmp_path / place, form)
    found = find_cifar10(tmp_path)
    assert len(found.train) == 30 and found.val is not None and len(found.val) == 6 and found.classes[3] == "cat"
    labels, pixels = contents(1)
    second = found.train[6 + 2]
    assert second.label == labels[2] and (second.source == pixels[2].reshape(3, 32, 32).transpose(1, 2, 0)).all()


@pytest.mark.parametrize(
    "write", [python_2, lambda labels, pixels: pickle.dumps({b"labels": labels, b"data": pixels}, 4)]
)
def test_pickles_of_other_pythons(tmp_path, write):
    folder = written(tmp_path / "cifar", "pickle")
    labels, pixels = contents(0)
    (folder / "data_batch_1").write_bytes(write(labels, pixels))
    first = find_cifar10(folder).train[0]
    assert first.label == labels[0] and (first.source.transpose(2, 0, 1).ravel() == pixels[0]).all()


class Runs:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("held", [Runs(), {b"labels": [1], b"data": Runs()}])
def test_a_pickle_that_would_run_something_is_refused_unrun(tmp_path, monkeypatch, held):
    monkeypatch.chdir(tmp_path)
    folder = written(tmp_path / "cifar", "pickle")
    (folder / "data_batch_3").write_bytes(pickle.dumps(held))
    with pytest.raises(UserError, match="data_batch_3 is no batch of CIFAR-10: it would run posix.mkdir"):
        find_cifar10(folder)
    assert not (tmp_path / "pwned").exists()


def test_damage_and_absence_are_told(tmp_path):
    with pytest.raises(UserError, match="There is no CIFAR-10 in"):
        find_cifar10(tmp_path)
    folder = written(tmp_path / "cifar", "binary")
    (folder / "data_batch_2.bin").write_bytes(bytes(3072))
    with pytest.raises(UserError, match="no whole batch"):
        find_cifar10(folder)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(UserError, match="lacks data_batch_2"):
        find_cifar10(folder)
    pickled = written(tmp_path / "pickled", "pickle")
    content = (pickled / "test_batch").read_bytes()
    (pickled / "test_batch").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged, or no batch"):
        find_cifar10(pickled)
    labels, pixels = contents(0)
    (pickled / "test_batch").write_bytes(pickle.dumps({b"labels": [12] * len(labels), b"data": pixels}))
    with pytest.raises(UserError, match="is no batch of CIFAR-10"):
        find_cifar10(pickled)
