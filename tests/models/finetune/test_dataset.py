"""Folders of images as users have them: split, copies, contradictions, damage, names."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.finetune.dataset import Data, find, load
from models.finetune.duplicates import groups, look
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing, preprocess
from tests.models.finetune.colours import fill, picture

PHOTOGRAPHS = Path(__file__).parents[2] / "data"
RECIPE = Preprocessing(32, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def loaded(folder: Path, seed: int = 0, memory: int = 1 << 30) -> Data:
    return load(find(folder), RECIPE, 0.2, seed, memory)


def names(pictures) -> list[str]:
    return [each.name for each in pictures]


def test_a_split_is_made_of_every_class_and_always_the_same(colours):
    data = loaded(colours)
    assert data.classes == ["blue", "green", "red"] and not data.given and data.notes == []
    assert Counter(each.label for each in data.val) == {0: 4, 1: 4, 2: 4} and data.counts() == [16, 16, 16]
    assert not set(names(data.train)) & set(names(data.val))
    assert names(loaded(colours).val) == names(data.val)
    assert names(loaded(colours, seed=1).val) != names(data.val)


def test_a_given_split_stays_as_it_is(tmp_path):
    fill(tmp_path / "train", 5)
    fill(tmp_path / "val", 2, start=10)
    data = loaded(tmp_path)
    assert data.given and len(data.train) == 15 and {each.name.split(os.sep)[0] for each in data.val} == {"val"}
    shutil.copy(tmp_path / "train/red/0.png", tmp_path / "val/red/again.png")
    (note,) = loaded(tmp_path).notes
    assert "1 images of the validation are in train" in note and "val/red/again.png = train/red/0.png" in note
    shutil.rmtree(tmp_path / "train/red")
    with pytest.raises(UserError, match="classes that train/ lacks: red"):
        find(tmp_path)


def test_validation_is_what_the_runtime_shows_the_network(colours):
    data = loaded(colours)
    for row in range(3):
        assert (data.squares[row] == preprocess(data.val[row].source, RECIPE._replace(input="uint8"))).all()


def test_pictures_beyond_the_memory_are_decoded_again_and_are_the_same(colours):
    whole, tight = loaded(colours), loaded(colours, memory=20_000)
    assert any(held is None for held in tight.kept) and any(held is not None for held in tight.kept)
    assert all((whole.pixels(row) == tight.pixels(row)).all() for row in range(len(whole.train)))


def test_copies_stay_on_one_side(tmp_path):
    for name in ("corgi", "lighthouse"):
        (tmp_path / name).mkdir()
        photograph = Image.open(PHOTOGRAPHS / f"{name}.jpg").convert("RGB")
        across, down = photograph.width // 4, photograph.height // 3
        for i in range(12):  # tiles, and of each a smaller and a recompressed copy
            left, top = i % 4 * across, i // 4 * down
            tile = photograph.crop((left, top, left + across, top + down))
            tile.save(tmp_path / name / f"{i}.png")
            tile.resize((across * 2 // 3, down * 2 // 3), Image.Resampling.LANCZOS).save(
                tmp_path / name / f"{i}.small.png"
            )
            tile.save(tmp_path / name / f"{i}.jpg", quality=75)
    for seed in range(3):
        data = loaded(tmp_path, seed)
        sides = {name.split(".")[0] for name in names(data.val)}
        assert not sides & {name.split(".")[0] for name in names(data.train)}
    assert "48 images are copies of others" in data.notes[-1]


def test_photographs_are_recognised_and_told_apart():
    corgi, lighthouse = (Image.open(PHOTOGRAPHS / f"{name}.jpg").convert("RGB") for name in ("corgi", "lighthouse"))
    brighter = corgi.point(lambda value: min(255, value + 3))
    looks = [look(each) for each in (corgi, lighthouse, corgi.resize([n // 2 for n in corgi.size]), brighter)]
    assert groups(looks) == [0, 1, 0, 0]
    assert groups([look(Image.new("RGB", (9, 9), colour)) for colour in ((255, 0, 0), (0, 76, 0), (255, 0, 0))]) == [
        0,
        1,
        0,
    ]


def test_the_same_picture_in_two_classes_is_left_out_and_named(tmp_path):
    fill(tmp_path, 6)
    shutil.copy(tmp_path / "red/0.png", tmp_path / "blue/was red.png")
    data = loaded(tmp_path)
    (note,) = data.notes
    assert "1 images lie in two classes" in note and "blue/was red.png = red/0.png" in note
    assert not {"red/0.png", "blue/was red.png"} & set(names([*data.train, *data.val]))


def test_damaged_pictures_are_skipped_and_counted(tmp_path):
    fill(tmp_path, 6)
    (tmp_path / "red/cut.jpg").write_bytes((PHOTOGRAPHS / "corgi.jpg").read_bytes()[:3000])
    (tmp_path / "red/empty.png").write_bytes(b"")
    data = loaded(tmp_path)
    assert len(data.skipped) == 2 and "empty.png" in data.skipped[1] and len(data.train) + len(data.val) == 18
    for file in (tmp_path / "blue").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="left to learn blue from. 8 can't be read"):
        loaded(tmp_path)


def test_one_picture_of_a_class_is_learnt_from_and_not_judged(tmp_path):
    fill(tmp_path, 5)
    fill(tmp_path, 1, ("rare",))
    data = loaded(tmp_path)
    assert data.counts()[data.classes.index("rare")] == 1
    assert "1 classes have no image to be judged by: rare" in data.notes[-1]


def faulty(tmp_path: Path, fault: str) -> Path:
    folder = fill(tmp_path / "data", 2)
    if fault == "one class":
        shutil.rmtree(folder / "red")
        shutil.rmtree(folder / "blue")
    elif fault == "an empty class":
        (folder / "orange").mkdir()
    elif fault == "nothing":
        shutil.rmtree(folder)
        folder.mkdir()
    elif fault == "beside":
        picture("red", 0).save(folder / "stray.png")
    elif fault == "alike":
        fill(folder, 1, ("Red",))
    elif fault == "control character":
        fill(folder, 1, ("a\x1b[31mb",))
    elif fault == "no folder":
        return folder / "missing"
    return folder


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("one class", "two at least: there is only one, 'green'"),
        ("an empty class", "orange of a class has no images"),
        ("nothing", "two at least: there is none"),
        ("beside", "stray.png lies beside the folders"),
        ("alike", "'Red' and 'red' are spelt too alike"),
        ("control character", "no name for a class"),
        ("no folder", "There is no folder"),
    ],
)
def test_what_can_not_be_learnt_from_is_refused(tmp_path, fault, says):
    with pytest.raises(UserError, match=says):
        find(faulty(tmp_path, fault))


def test_names_in_any_script(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café")  # as macOS writes it
    fill(tmp_path, 2, ("猫", "собака", "كلب", decomposed, "a b, c"))
    assert sorted(find(tmp_path).classes) == sorted(["猫", "собака", "كلب", "café", "a b, c"])


def test_numbers_are_ordered_as_numbers(tmp_path):
    fill(tmp_path, 1, ("10", "9", "0"))
    assert find(tmp_path).classes == ["0", "9", "10"]


def test_every_pair_of_many_is_compared():
    """More images than are compared at once, all of the same brightness: each finds its twin and nothing else."""
    random = np.random.default_rng(0)
    looks = []
    for _ in range(700):
        pixels = random.permutation(np.linspace(0, 255, 768).astype(np.uint8)).reshape(16, 16, 3)
        looks += [look(Image.fromarray(pixels)), look(Image.fromarray(np.minimum(pixels, 254) + 1))]
    looks = [*looks[::2], *looks[1::2]]
    assert groups(looks) == [*range(700), *range(700)]
