"""Which class a data set's word means, with class names that are the user's own."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from runtime.artifacts.artifact import Artifact
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing
from runtime.measure.dataset import ClassNames, read_labels

RECIPE = Preprocessing(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def classes(*labels: str) -> ClassNames:
    return ClassNames(Artifact("b0", RECIPE, "", "0" * 64, len(labels), list(labels), path=Path("b0.onnx")))


def test_classes_called_by_numbers_are_meant_by_them_and_not_by_their_index():
    names = classes("1", "2", "10")
    assert [names.index(word) for word in ("1", "2", "10", "0", "3")] == [0, 1, 2, 0, None]


def test_an_index_still_means_a_class_that_has_a_name():
    names = classes("tench", "goldfish")
    assert [names.index(word) for word in ("0", "1", "2", "Goldfish")] == [0, 1, None, 1]


def test_accents_however_they_are_written():
    assert classes("thé", "café").index(unicodedata.normalize("NFD", "café")) == 1


LISTS = {
    "quoted": '"file","label"\n"a, b/1.jpg","great white shark, white shark"\n',
    "semicolons": "\ufefffile;label\r\na, b/1.jpg;great white shark, white shark\r\n",
    "tabs": "id\tlabel\tfile_name\n7\tgreat white shark, white shark\ta, b/1.jpg\n",
    "spaces": 'Path , Class\n"a, b/1.jpg" , "great white shark, white shark" \n',
}


@pytest.mark.parametrize("how", LISTS)
def test_lists_as_spreadsheets_write_them(how: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(LISTS[how].encode())
    assert read_labels(path) == [("a, b/1.jpg", "great white shark, white shark")]


def test_lists_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    for text in ("a.jpg,1\nb\u2028c.jpg,2\n", "a.jpg, 1\nb\u2028c.jpg, 2\n", "a.jpg\t1\nb\u2028c.jpg\t2\n"):
        path.write_text(text, encoding="utf-8")
        assert read_labels(path) == [("a.jpg", "1"), ("b\u2028c.jpg", "2")]
    for text, words in (("file,label\n", "lists no images"), ("file,cat,dog\na.jpg,1,0\n", "is no list of labels")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            read_labels(path)
