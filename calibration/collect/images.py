"""A folder of images as calibration needs it: preprocessed once, kept on disk, handed out in batches."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from calibration.layer_graph import batch_size
from runtime.errors import UserError
from runtime.images.decode import ImageError, open_image
from runtime.images.find import below
from runtime.images.preprocess import Preprocessing, normalize, resize_crop
from runtime.measure.dataset import read_labels
from runtime.progress import Report, silent

FEW = 64  # images; below, ranges and the search rest on too little (docs/int8.md)
# The images among scikit-image's sample images, and crops of each so that they are not too few.
_BUILT_IN = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
_CROPS = 8
BUILT_IN = "scikit-image's sample images"


@dataclass
class CalibrationImages:
    """Images as the network's squares, uint8 [n, side, side, 3] in a file that vanishes with the process."""

    pixels: np.ndarray
    preprocessing: Preprocessing
    labels: np.ndarray | None  # class indices [n]
    names: list[str]
    skipped: list[str]  # one sentence for each image that could not be used
    origin: str
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, rows: Sequence[int] | np.ndarray | None = None, size: int = 0) -> Iterator[np.ndarray]:
        """Normalised batches float32 [<=size, 3, side, side] of the images `rows`, or of all, whatever input the artifact
        takes; `size` 0: as many as suit memory."""
        recipe = self.preprocessing._replace(input="float32")
        rows = range(len(self)) if rows is None else rows
        size = size or batch_size(self.preprocessing.resolution)
        for start in range(0, len(rows), size):
            squares = (Image.fromarray(self.pixels[row]) for row in rows[start : start + size])
            yield np.stack([normalize(square, recipe) for square in squares])

    def digest(self) -> str:
        """Sha256 of what calibration gets to see."""
        digest = hashlib.sha256(repr((self.preprocessing, self.pixels.shape)).encode())
        for square in self.pixels:
            digest.update(square.tobytes())
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        return digest.hexdigest()


def read_folder(
    folder: Path, preprocessing: Preprocessing, classes: int, progress: Report = silent
) -> CalibrationImages:
    """The images in `folder` and below, in the order of their names; `progress` is told of each.

    A labels.csv there (columns `file` and `label`, a class index) gives labels; images that it does not name are then
    left out. One with other classes than the network's is left unread, with a warning: calibration needs no labels. Images
    that can't be read, or show one colour only, are skipped and counted.

    Raises UserError if there is no such folder, labels.csv is damaged, or no image is left.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of images.")
    warnings: list[str] = []
    labels = _read_labels(folder / "labels.csv", classes, warnings)
    if labels is None:
        files = [Path(path) for path in below(str(folder))]
    else:
        files = [folder / name for name in labels]
    if not files:
        raise UserError(f"{folder} holds no images: give a folder of images (JPEG, PNG, WebP, ...).")

    def squares() -> Iterator[tuple[str, Image.Image | Path]]:
        for path in files:
            yield str(path.relative_to(folder)), path

    found = _gather(squares(), len(files), preprocessing, str(folder), progress)
    found.warnings += warnings
    if labels is not None:
        found.labels = np.array([labels[name] for name in found.names], np.int64)
    return found


def read_built_in(preprocessing: Preprocessing, progress: Report = silent) -> CalibrationImages:
    """Crops of the sample images of scikit-image, where that is installed (nothing of it is imported).

    Raises UserError if it isn't.
    """
    spec = importlib.util.find_spec("skimage")
    folder = Path(next(iter(spec.submodule_search_locations or []), "")) / "data" if spec else None
    files = [folder / name for name in _BUILT_IN if (folder / name).is_file()] if folder else []
    if not files:
        raise UserError(
            "No images to calibrate with: name a folder with --calib (CALIB=), or install scikit-image for its "
            "sample images."
        )
    random = np.random.default_rng(0)

    def squares() -> Iterator[tuple[str, Image.Image | Path]]:
        for path in files:
            image = open_image(path)
            for i in range(_CROPS):
                side = [max(1, int(length * random.uniform(0.45, 1))) for length in image.size]
                left, top = (int(random.uniform(0, whole - part)) for whole, part in zip(image.size, side))
                crop = image.crop((left, top, left + side[0], top + side[1]))
                yield f"{path.name} {i}", crop

    return _gather(squares(), len(files) * _CROPS, preprocessing, BUILT_IN, progress)


def split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows that ranges and weights are fitted on, rows that choices are judged by): a quarter is held out, or with too
    few for that, all serve for both."""
    rows = np.arange(count)
    if count < 8:
        return rows, rows
    return rows[rows % 4 != 3], rows[rows % 4 == 3]


def _gather(
    squares: Iterable[tuple[str, Image.Image | Path]],
    count: int,
    preprocessing: Preprocessing,
    origin: str,
    progress: Report,
) -> CalibrationImages:
    side = preprocessing.resolution
    size = count * side * side * 3
    with tempfile.TemporaryFile() as file:  # the mapping outlives the name and the handle
        try:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a mapped page for which the disk has no room would end the process
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise UserError(
                f"The pixels of {count} images, {size / 1e6:.3g} MB, can't be kept in {tempfile.gettempdir()}: "
                f"{error.strerror}. Free some space, or set TMPDIR to another folder."
            ) from None
        pixels = np.memmap(file, np.uint8, "r+", shape=(count, side, side, 3))
    names: list[str] = []
    skipped = []
    for done, (name, source) in enumerate(squares):
        progress(done, count, "reading images")
        try:
            square = np.asarray(resize_crop(open_image(source, at_least=preprocessing.resize_to), preprocessing))
        except ImageError as error:
            skipped.append(str(error))
            continue
        if (square == square[0, 0]).all():
            skipped.append(f"{name}: of one colour only.")
            continue
        pixels[len(names)] = square
        names.append(name)
    progress(count, count, "reading images")
    if not names:
        raise UserError(f"None of the {count} images in {origin} can be used. The first: {skipped[0]}")
    return CalibrationImages(pixels[: len(names)], preprocessing, None, names, skipped, origin)


def _read_labels(path: Path, classes: int, warnings: list[str]) -> dict[str, int] | None:
    if not path.is_file():
        return None
    labels: dict[str, int] = {}
    for name, word in read_labels(path):
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise UserError(f"{path}: {name} does not lie in the folder.")
        if not re.fullmatch("[0-9]{1,9}", word) or int(word) >= classes:
            warnings.append(
                f"{path.name} of {path.parent.name} is not used, it has other labels than the network's {classes} classes: "
                f"{word} for {name}"
            )
            return None
        labels[name] = int(word)
    return labels
