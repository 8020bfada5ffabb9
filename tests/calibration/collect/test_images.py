"""A folder of images: what can be used is, the rest is counted, and what is left of nothing is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.collect.images import read_built_in, read_folder, split
from runtime.errors import UserError
from runtime.images.preprocess import preprocess
from tests.calibration.small_network import CLASSES, PREPROCESSING, SIDE, write_images


def test_batches_are_what_the_runtime_would_see(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 5)
    images = read_folder(folder, PREPROCESSING, CLASSES)
    batches = list(images.batches([4, 0, 2], size=2))
    assert [batch.shape for batch in batches] == [(2, 3, SIDE, SIDE), (1, 3, SIDE, SIDE)]
    np.testing.assert_array_equal(batches[0][0], preprocess(folder / "004.png", PREPROCESSING))


def test_unreadable_and_one_coloured_pictures_are_skipped_and_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 3)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    (folder / "empty.png").touch()
    Image.new("RGB", (40, 40), "teal").save(folder / "plain.png")
    (folder / "notes.txt").write_text("not an image, and not meant as one")
    images = read_folder(folder, PREPROCESSING, CLASSES)
    assert len(images) == 3 and len(images.skipped) == 3
    assert all(any(name in text for text in images.skipped) for name in ("broken.jpg", "empty.png", "plain.png"))


def test_folders_below_count(tmp_path: Path) -> None:
    write_images(tmp_path / "photos" / "cats", 2)
    write_images(tmp_path / "photos" / "dogs", 2)
    assert len(read_folder(tmp_path / "photos", PREPROCESSING, CLASSES)) == 4


@pytest.mark.parametrize("content", ["nothing", "text", "one colour"])
def test_nothing_to_use_is_an_error(tmp_path: Path, content: str) -> None:
    if content == "text":
        (tmp_path / "a.txt").write_text("words")
    if content == "one colour":
        Image.new("L", (40, 40), 7).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match="one colour" if content == "one colour" else "holds no images"):
        read_folder(tmp_path, PREPROCESSING, CLASSES)
    with pytest.raises(UserError, match="not a folder"):
        read_folder(tmp_path / "absent", PREPROCESSING, CLASSES)


def test_labels_follow_their_pictures(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 4)
    (folder / "002.png").write_bytes(b"")
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"00{i}.png,{9 - i}\n" for i in (3, 2, 0)))
    images = read_folder(folder, PREPROCESSING, CLASSES)
    assert images.names == ["003.png", "000.png"] and images.labels is not None
    assert images.labels.tolist() == [6, 9]


@pytest.mark.parametrize("table", ["name\n000.png\n", "file,label\n../000.png,1\n"])
def test_a_damaged_table_of_labels_is_an_error(tmp_path: Path, table: str) -> None:
    folder = write_images(tmp_path, 1)
    (folder / "labels.csv").write_text(table)
    with pytest.raises(UserError, match="labels.csv"):
        read_folder(folder, PREPROCESSING, CLASSES)


@pytest.mark.parametrize("label", ["ten", str(CLASSES)])
def test_labels_of_another_data_set_are_left_unread(tmp_path: Path, label: str) -> None:
    folder = write_images(tmp_path, 3)
    (folder / "labels.csv").write_text(f"file,label\n000.png,1\n001.png,{label}\n")
    images = read_folder(folder, PREPROCESSING, CLASSES)
    assert len(images) == 3 and images.labels is None
    (warning,) = images.warnings
    assert f"{label} for 001.png" in warning


def test_digest_knows_pictures_and_labels(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 3)
    first = read_folder(folder, PREPROCESSING, CLASSES).digest()
    assert read_folder(folder, PREPROCESSING, CLASSES).digest() == first
    (folder / "labels.csv").write_text("file,label\n000.png,1\n001.png,1\n002.png,1\n")
    assert read_folder(folder, PREPROCESSING, CLASSES).digest() != first


def test_held_out_pictures_are_not_fitted_on() -> None:
    fit, held_out = split(256)
    assert len(held_out) == 64 and not set(fit) & set(held_out) and len(fit) + len(held_out) == 256
    assert all(len(rows) == 1 for rows in split(1))


def test_built_in_pictures() -> None:
    pytest.importorskip("skimage", reason="scikit-image's sample images are not installed")
    images = read_built_in(PREPROCESSING)
    assert len(images) > 64 and not images.skipped
