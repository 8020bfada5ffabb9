"""Which class a data set's word means, with class names that are the user's own."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from runtime.artifacts.artifact import Artifact
from runtime.images.preprocess import Preprocessing
from runtime.measure.dataset import ClassNames

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
