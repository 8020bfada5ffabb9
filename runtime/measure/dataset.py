"""Labelled images as people have them, and which of the model's classes their labels mean."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..artifacts.artifact import Artifact
from ..digest import sha256_of_facts
from ..errors import UserError
from ..images.find import below
from .label_files import match_files

_SPLITS = {"train", "val", "valid", "validation", "test"}
_MOST_BYTES = 256 << 20  # of a list of labels: ImageNet's for 1.3 million images has 40 MB
# What lists call their columns, in lower case: the file's name, and the class
_FILES = ("file", "filename", "file_name", "path", "filepath", "image", "imageid", "image_id")
_CLASSES = ("label", "predictionstring", "class", "class_id", "target")
LABEL_FILES = ("labels.csv", "LOC_val_solution.csv", "val.txt")  # looked for in the folder itself


class Sample(NamedTuple):
    """One image of a data set."""

    name: str  # relative to the data set's folder
    path: str
    label: Optional[int]  # index of the model's class; None: not known


class ClassNames:
    """Finds the model's class for what a data set calls it: an index, a wnid, a label or one of its synonyms."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.known: Dict[str, int] = {}
        ambiguous = set()
        for index, label in enumerate(artifact.labels):
            for synonym in {_plain(label), *(_plain(part) for part in label.split(","))}:
                if self.known.setdefault(synonym, index) != index:
                    ambiguous.add(synonym)
        for synonym in ambiguous:  # "crane" is a bird and a machine; a class called just so is meant by it
            whole = [index for index, label in enumerate(artifact.labels) if _plain(label) == synonym]
            if len(whole) == 1:
                self.known[synonym] = whole[0]
            else:
                del self.known[synonym]
        try:
            wnids = [str(wnid) for wnid in json.loads(artifact.metadata.get("wnids", "[]"))]
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{artifact.path} has damaged metadata (wnids: {error}): export it again.") from None
        self.known.update((_plain(wnid), index) for index, wnid in enumerate(wnids[: artifact.classes]))

    def index(self, word: str) -> Optional[int]:
        """The class that `word` means, or None. A class that is called by a number is meant by it, not its index."""
        found = self.known.get(_plain(word))
        if found is None and re.fullmatch(r"\d{1,9}", word) and int(word) < self.artifact.classes:
            return int(word)
        return found

    def require(self, words: Iterable[str], where: str) -> Dict[str, int]:
        """The class of each word. Raises UserError that names those that mean none, with a hint.

        Among numbers one more than the last index gets through, as a class that the model has not: such labels count from 1, and
        label_order says so once the images show it.
        """
        found = {word: self.index(word) for word in words}
        one_more = str(self.artifact.classes)
        numbers = all(re.fullmatch(r"\d{1,9}", word) for word in found)
        if found.get(one_more, 0) is None and numbers and ("0" not in found or len(found) > self.artifact.classes):
            found[one_more] = self.artifact.classes
        unknown = sorted(word for word, index in found.items() if index is None)
        if unknown:
            near = difflib.get_close_matches(_plain(unknown[0]), self.known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            shown = ", ".join(unknown[:4]) + (f" and {len(unknown) - 4} more" if len(unknown) > 4 else "")
            raise UserError(
                f"{where}: {len(unknown)} of {len(found)} labels are not classes of {self.artifact.path.name}: {shown}.{hint} "
                f"It knows {self.artifact.classes} classes by index, wnid or name, such as '{self.artifact.labels[0]}'."
            )
        return {word: index for word, index in found.items() if index is not None}


def read_dataset(folder: Path, artifact: Artifact, labels: Optional[Path] = None) -> List[Sample]:
    """The images of `folder` and what they show, as `artifact`'s classes, in a fixed order.

    Understood, in this order: the file `labels`; labels.csv, LOC_val_solution.csv or val.txt in the folder (see
    `read_labels`); a folder for each class, called by index, wnid or name; images without labels.
    Raises UserError if there is no image, or labels are of another label set than the model's.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    names = ClassNames(artifact)
    labels = labels or next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)
    if labels is not None:
        rows = read_labels(labels)
        classes = names.require({word for _, word in rows}, str(labels))
        return _listed(rows, classes, folder, labels)
    paths = [(os.path.relpath(path, str(folder)), path) for path in below(str(folder))]
    if not paths:
        raise UserError(f"The folder {folder} has no images.")
    tops = {name.split(os.sep)[0] for name, _ in paths if os.sep in name}
    if not tops:
        return [Sample(name, path, None) for name, path in paths]
    if len(tops) == 1 and names.index(next(iter(tops))) is None and all(name.count(os.sep) > 1 for name, _ in paths):
        return read_dataset(folder / next(iter(tops)), artifact)  # a folder around the folders of classes
    stray = next((name for name, _ in paths if os.sep not in name), None)
    if stray:
        raise UserError(
            f"{folder} holds folders of classes and images beside them, {stray} say: which class are those?"
        )
    if tops <= _SPLITS:
        raise UserError(f"{folder} holds {' and '.join(sorted(tops))}: give one of them, {folder / max(tops)} say.")
    classes = names.require(tops, str(folder))
    return [Sample(name, path, classes[name.split(os.sep)[0]]) for name, path in paths]


def _listed(rows: Sequence[Tuple[str, str]], classes: Dict[str, int], folder: Path, labels: Path) -> List[Sample]:
    """The samples that a list names; one whose file is missing is named, and counts as unreadable later."""
    files = {os.path.relpath(path, str(folder)): path for path in below(str(folder))}
    try:
        found = match_files([name for name, _ in rows], list(files), str(folder))
    except UserError as error:
        raise UserError(f"{labels} names images ambiguously: {error}") from None
    if rows and not any(found):
        raise UserError(f"None of the files that {labels} names is in {folder}: {rows[0][0]}, say.")
    words: Dict[str, str] = {}
    for file, (_, word) in zip(found, rows):
        if file is not None and classes[words.setdefault(file, word)] != classes[word]:
            raise UserError(f"{labels} lists {file} twice, as {words[file]} and as {word}: leave the right one.")
    return [
        Sample(file or name, files[file] if file else _nowhere(folder, name), classes[word])
        for file, (name, word) in zip(found, rows)
    ]


def _nowhere(folder: Path, name: str) -> str:
    """A path for a listed file that is not there. The name itself may lead out of the folder, or to another image of it."""
    return os.path.join(str(folder), ".missing", re.sub(r"[^\w.-]", "_", name))


def samples_digest(samples: Sequence[Sample]) -> str:
    """Tells one data set from another: of the files' paths and sizes, and their labels."""

    def size(path: str) -> int:
        try:
            return os.stat(path).st_size
        except OSError:
            return -1

    return sha256_of_facts([(os.fsencode(each.path).hex(), each.label, size(each.path)) for each in samples])


def read_labels(path: Path) -> List[Tuple[str, str]]:
    """(file, label as written) of each row of a list of labels.

    A CSV file with the columns file and label, or what else they are often called (_FILES, _CLASSES), between commas, semicolons
    or tabs; ImageNet's LOC_val_solution.csv (ImageId, PredictionString, of which the first wnid counts); or lines of a file name,
    white space or a comma, and a label, as in Caffe's val.txt. Raises UserError.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is no list of labels: it has more than {_MOST_BYTES >> 20} MB.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The labels {path} can't be read ({error}).") from None
    if "\0" in text:
        raise UserError(f"{path} is no list of labels: it is no text.")
    lines = re.split(r"\r\n|\r|\n", text)  # splitlines() would cut names too, at U+2028 say
    table = _table(lines, path)
    if table is not None:
        return table
    pairs = [line.rsplit(None, 1) for line in lines if line.strip()]
    if any(len(pair) != 2 for pair in pairs) and all(line.count(",") < 2 for line in lines):
        pairs = [line.strip().rsplit(",", 1) for line in lines if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        alone = bool(pairs) and all(len(pair) == 1 and pair[0].strip().isdigit() for pair in pairs)
        raise UserError(
            f"{path} is no list of labels: it should have the columns file,label, or lines such as 'picture.jpg 281'."
            + (
                " ILSVRC's ground truth has numbers of its own, not the usual indices: use LOC_val_solution.csv."
                if alone
                else ""
            )
        )
    return [(name.rstrip(" ,"), label) for name, label in pairs]


def _table(lines: Sequence[str], path: Path) -> Optional[List[Tuple[str, str]]]:
    """(file, label) of a list whose first line names its columns; None for another. Raises UserError for rows without them."""
    for between in ",;\t":
        try:
            rows = [row for row in csv.reader(lines, delimiter=between, skipinitialspace=True) if row]
        except csv.Error as error:  # a quote without an end, 128 KB later
            raise UserError(f"{path} is no list of labels ({error}).") from None
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        at = next((header.index(name) for name in _FILES if name in header), None)
        value = next((header.index(name) for name in _CLASSES if name in header), None)
        if at is None or value is None:
            continue
        short = next(
            (i for i, row in enumerate(rows[1:], 2) if len(row) <= max(at, value) or not row[value].strip()), None
        )
        if short is not None:
            raise UserError(f"{path}, line {short}: no file or no label.")
        first_word = header[value] == "predictionstring"
        found = [(row[at].strip(), row[value].split()[0] if first_word else row[value].strip()) for row in rows[1:]]
        if not found:
            raise UserError(f"{path} lists no images: there is nothing below its first line.")
        return found
    return None


def _plain(text: str) -> str:
    """Spelling that does not count: case, what joins words, and how macOS writes accents in file names."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFC", text)).strip().casefold()
