"""The user's images: found, decoded once, freed of what can't be used, and split so that no image is on both sides."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from models.finetune.duplicates import Look, groups, look
from models.labels import is_name
from models.reader import MOST_CLASSES
from runtime.errors import UserError
from runtime.images.decode import DECODING, ImageError, open_image
from runtime.images.find import below
from runtime.images.preprocess import Preprocessing, preprocess, resize_crop
from runtime.pool import OrderedPool

VALIDATION = ("val", "valid", "validation", "test")  # what the other side of train/ is called, best first
_SHOWN = 3  # examples in a sentence


@dataclass(frozen=True)
class LabelledImage:
    """An image that has not been looked at yet."""

    name: str  # relative to the folder
    source: str | np.ndarray  # path, or uint8 [H, W, 3]
    label: int


@dataclass(frozen=True)
class Found:
    """What a folder holds. `val` is None where the folder has no split of its own."""

    classes: list[str]
    train: list[LabelledImage]
    val: list[LabelledImage] | None
    origin: str
    notes: list[str] = field(default_factory=list)  # sentences for the user

    @property
    def images(self) -> list[LabelledImage]:
        return [*self.train, *(self.val or [])]


def find(folder: Path) -> Found:
    """The images of `folder`: a folder for each class, or train/ and val/ (valid, validation, test) with those in them.

    Classes are in the order of their names; of their numbers, if all are numbers. Raises UserError for one class, an
    empty one, names that can't be told apart, images beside the classes, a class that only val/ has.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}: DATA= names a folder that holds a folder of images for each class."
        )
    inside = _folders(folder)
    notes = []
    if "train" in inside and set(inside) <= {"train", *VALIDATION}:
        side = next((name for name in VALIDATION if name in inside), None)
        unused = sorted(set(inside) - {"train", side})
        if unused:
            notes.append(f"{', '.join(unused)} in {folder} is left alone: train and {side} are used.")
        names = _class_names(folder / "train")
        train = list(_images(folder, "train", names))
        if side is None:
            return Found(list(names.values()), train, None, str(folder), notes)
        others = _class_names(folder / side)
        unknown = sorted(set(others.values()) - set(names.values()))
        if unknown:
            raise UserError(f"{folder / side} has classes that train/ lacks: {_some(unknown)}.")
        labels = {name: list(names.values()).index(called) for name, called in others.items()}
        val = list(_images(folder, side, labels))
        return Found(list(names.values()), train, val, str(folder), notes)
    names = _class_names(folder)
    return Found(list(names.values()), list(_images(folder, "", names)), None, str(folder), notes)


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"The folder {folder} can't be read: {error.strerror}.") from None


def _class_names(folder: Path) -> dict[str, str]:
    """Name of each class by its folder's name, in the classes' order."""
    stray = next(
        (entry for entry in sorted(os.listdir(folder)) if (folder / entry).is_file() and _is_image(entry)), None
    )
    if stray:
        raise UserError(f"{folder / stray} lies beside the folders of classes: which class is it of? Move it into one.")
    inside = _folders(folder)
    names = {name: unicodedata.normalize("NFC", name) for name in inside}
    for name in inside:
        if not is_name(name):
            raise UserError(f"The folder {name!r} in {folder} is no name for a class: it should be plain text.")
    plain = defaultdict(list)  # as runtime.measure.dataset tells labels apart
    for name in names.values():
        plain[name.casefold().replace("_", " ").replace("-", " ").strip()].append(name)
    same = next((several for several in plain.values() if len(several) > 1), None)
    if same:
        raise UserError(f"{folder}: the classes '{same[0]}' and '{same[1]}' are spelt too alike: rename or join them.")
    if len(names) < 2:
        there = f"only one, '{next(iter(names))}'" if names else "none"
        raise UserError(f"{folder} should hold a folder of images for each class, two at least: there is {there}.")
    if len(names) > MOST_CLASSES:
        raise UserError(f"{folder} holds {len(names)} folders: {MOST_CLASSES} classes at most are supported.")
    if all(name.isascii() and name.isdigit() for name in inside):
        return dict(sorted(names.items(), key=lambda pair: (int(pair[0]), pair[0])))
    return names


def _is_image(name: str) -> bool:
    from runtime.images.find import SUFFIXES

    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _images(root: Path, side: str, names: Iterable[str] | dict[str, int]) -> Iterable[LabelledImage]:
    """Those of each class's folder in `root`/`side`. Raises UserError if there is none in one."""
    for label, name in enumerate(names):
        paths = list(below(str(root / side / name)))
        if not paths:
            raise UserError(f"The folder {root / side / name} of a class has no images: fill it or remove it.")
        index = names[name] if isinstance(names, dict) and isinstance(names[name], int) else label
        for path in paths:
            yield LabelledImage(os.path.relpath(path, str(root)), path, index)


@dataclass
class Data:
    """Images in memory, ready for training and judging."""

    classes: list[str]
    train: list[LabelledImage]
    val: list[LabelledImage]
    kept: list[
        np.ndarray | None
    ]  # of train: uint8 [H, W, 3], the shorter side at most `resize_to`; None: decode it again
    squares: np.ndarray  # of val: uint8 [n, side, side, 3], as runtime.images.preprocess gives them
    preprocessing: Preprocessing
    origin: str
    given: bool  # whether the split is the user's
    notes: list[str]  # sentences for the user
    skipped: list[str]  # one sentence for each image that can't be read

    def counts(self) -> list[int]:
        """Training images of each class."""
        count = Counter(labelled.label for labelled in self.train)
        return [count[label] for label in range(len(self.classes))]

    def pixels(self, row: int) -> np.ndarray:
        """Training image `row`, uint8 [H, W, 3]."""
        held = self.kept[row]
        return _shrunk(self.train[row], self.preprocessing) if held is None else held

    def square(self, row: int) -> np.ndarray:
        """Training image `row` as validation would see it, uint8 [side, side, 3]."""
        return np.asarray(resize_crop(Image.fromarray(self.pixels(row)), self.preprocessing))


def load(
    found: Found,
    preprocessing: Preprocessing,
    share: float,
    seed: int,
    memory: int,
    note: Callable[[int, int], None] = lambda *_: None,
) -> Data:
    """Decodes every image of `found` once, on all cores, and splits off `share` of each class where no split is given.

    At most `memory` bytes of pixels are kept; the rest is decoded whenever it is wanted. Images that can't be read are
    skipped and counted, those that lie in two classes are left out. Raises UserError if a class is left without images.
    """
    images = found.images
    looks: list[Look | None] = []
    kept: list[np.ndarray | None] = []
    skipped, held = [], 0
    cores = os.cpu_count() or 1
    with OrderedPool(lambda labelled: _look(labelled, preprocessing), images, cores, 4 * cores) as looked:
        for row in range(len(images)):
            note(row, len(images))
            try:
                seen, pixels = next(looked)
                held += pixels.nbytes
                looks.append(seen)
                kept.append(pixels if held <= memory else None)
            except ImageError as error:
                skipped.append(str(error))
                looks.append(None)
                kept.append(None)
    note(len(images), len(images))
    notes = list(found.notes)
    usable = [row for row, seen in enumerate(looks) if seen is not None]
    rows, same = _without_contradictions(images, usable, [looks[row] for row in usable], notes)
    if found.val is None:
        train, val = _split(images, rows, same, share, seed, notes)
    else:
        train, val = [r for r in rows if r < len(found.train)], [r for r in rows if r >= len(found.train)]
        sides = {same[row]: row for row in train}
        leaked = [f"{images[row].name} = {images[sides[same[row]]].name}" for row in val if same[row] in sides]
        if leaked:
            notes.append(
                f"{len(leaked)} images of the validation are in train too, so it is judged too well: {_some(leaked)}."
            )
    _check(found, [images[row] for row in train], [images[row] for row in val], skipped, notes)
    recipe = preprocessing._replace(input="uint8")
    squares = recipe.empty(len(val))
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda at: preprocess(images[val[at]].source, recipe, out=squares[at]), range(len(val))))
    return Data(
        found.classes,
        [images[row] for row in train],
        [images[row] for row in val],
        [kept[row] for row in train],
        squares,
        preprocessing,
        found.origin,
        found.val is not None,
        notes,
        skipped,
    )


def _look(labelled: LabelledImage, preprocessing: Preprocessing) -> tuple[Look, np.ndarray]:
    pixels = _shrunk(labelled, preprocessing)
    return look(Image.fromarray(pixels)), pixels


def _shrunk(labelled: LabelledImage, preprocessing: Preprocessing) -> np.ndarray:
    """The image, uint8 [H, W, 3], its shorter side no longer than validation resizes it to."""
    image = open_image(labelled.source, labelled.name, DECODING, preprocessing.resize_to)
    scale = preprocessing.resize_to / min(image.size)
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _without_contradictions(
    images: list[LabelledImage], rows: list[int], looks: list[Look | None], notes: list[str]
) -> tuple[list[int], dict[int, int]]:
    """(rows less those whose very pixels lie in two classes, the group of copies of each)."""
    whole = [each for each in looks if each is not None]
    same = dict(zip(rows, groups(whole)))
    by_pixels: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, each in zip(rows, whole):
        by_pixels[each.pixels].append(row)
    out: set[int] = set()
    examples = []
    for several in by_pixels.values():
        if len({images[row].label for row in several}) > 1:
            out |= set(several)
            examples.append(" = ".join(images[row].name for row in several))
    if examples:
        notes.append(f"{len(examples)} images lie in two classes or more and are left out: {_some(examples)}.")
    near: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows:
        if row not in out:
            near[same[row]].append(row)
    alike = [
        f"{images[g[0]].name} ~ {images[g[-1]].name}" for g in near.values() if len({images[r].label for r in g}) > 1
    ]
    if alike:
        notes.append(f"{len(alike)} images look the same as one of another class: {_some(alike)}. Both stay.")
    return [row for row in rows if row not in out], same


def _split(
    images: list[LabelledImage], rows: list[int], same: dict[int, int], share: float, seed: int, notes: list[str]
) -> tuple[list[int], list[int]]:
    """(train, val): `share` of each class, whole groups of copies at a time, always the same for the same seed."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows:
        members[same[row]].append(row)
    by_class: defaultdict[int, list[list[int]]] = defaultdict(list)
    for group in members.values():
        by_class[images[group[0]].label].append(group)
    val: set[int] = set()
    for label in sorted(by_class):
        several = by_class[label]
        wanted = round(share * sum(map(len, several))) or (len(several) > 1)
        order = np.random.default_rng([seed, label]).permutation(len(several))
        taken = 0
        for at in order:
            if taken + len(several[at]) <= wanted:
                val |= set(several[at])
                taken += len(several[at])
    copies = sum(len(group) - 1 for group in members.values())
    if copies:
        notes.append(f"{copies} images are copies of others, or nearly; each stays on the side of its twin.")
    return [row for row in rows if row not in val], [row for row in rows if row in val]


def _check(
    found: Found, train: list[LabelledImage], val: list[LabelledImage], skipped: list[str], notes: list[str]
) -> None:
    learnt, judged = {p.label for p in train}, {p.label for p in val}
    empty = [name for label, name in enumerate(found.classes) if label not in learnt]
    if empty:
        why = f" {len(skipped)} can't be read: {skipped[0]}" if skipped else ""
        raise UserError(f"No image that can be used is left to learn {_some(empty)} from.{why}")
    if not val:
        raise UserError(f"{found.origin} has too few images to hold any out for judging: two of a class at least.")
    unjudged = [name for label, name in enumerate(found.classes) if label not in judged]
    if unjudged:
        notes.append(f"{len(unjudged)} classes have no image to be judged by: {_some(unjudged)}.")


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
