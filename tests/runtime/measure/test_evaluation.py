"""What an evaluation says of two models' answers, and that one which was interrupted goes on as it would have gone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UserError
from runtime.measure import evaluation
from runtime.measure.dataset import Sample
from runtime.measure.evaluation import LabelCheck, LabelError, Record, evaluate, read_samples, record_of, summary
from runtime.networks.pipeline import Answer
from tests.runtime.fake_classifier import FakeClassifier

NAMES = ["cat", "dog", "owl", "fox", "elk", "bee", "ant"]
CAT, DOG, OWL = range(3)


def artifact(name: str) -> Any:
    return SimpleNamespace(
        path=Path(name), labels=NAMES, classes=7, random=False, weights="w", variant="v", precision="int8", metadata={}
    )


def judged(*images: Any, random: bool = False) -> Any:
    """The figures of images given as (right class, reference's class, ours). `random`: ours has random weights."""
    samples = [Sample(f"{row}.jpg", f"{row}.jpg", right) for row, (right, _, _) in enumerate(images)]
    records = [Record(row, [ours], before, 1.0, 0.1) for row, (_, before, ours) in enumerate(images)]
    model = artifact("ours")
    model.random = random
    return summary(records, samples, model, "a backend", artifact("reference"))


def test_what_is_lost_is_a_negative_difference() -> None:
    """Ten images: three that only the reference got right, one that only ours did."""
    result = judged(*[(CAT, CAT, DOG)] * 3, (CAT, DOG, CAT), *[(DOG, DOG, DOG)] * 5, (OWL, CAT, DOG))
    assert result["difference"] == pytest.approx(-20)
    low, high = result["difference_interval"]
    assert low < -20 < high and -low > high
    assert result["mcnemar_p"] == pytest.approx(0.625)  # R: 2 * pbinom(1, 4, 0.5)
    assert result["top1"] == 60 and result["agreement"] == 50


def test_a_flipped_image_was_the_references_class_and_is_ours() -> None:
    assert judged((OWL, CAT, DOG), (CAT, CAT, CAT), (None, DOG, OWL))["flipped"] == [
        {"file": "0.jpg", "was": "cat", "is": "dog", "right": "owl"},
        {"file": "2.jpg", "was": "dog", "is": "owl", "right": None},
    ]


def test_images_without_labels_are_neither_right_nor_wrong() -> None:
    result = judged((CAT, CAT, CAT), (None, CAT, CAT), (None, CAT, DOG), (DOG, CAT, CAT))
    assert (result["n"], result["labelled"], result["top1"], result["agreement"]) == (4, 2, 50, 75)


def test_random_weights_have_no_accuracy() -> None:
    result = judged((CAT, CAT, CAT), (DOG, DOG, CAT), random=True)
    assert result["top1"] is result["top5"] is None and "difference" not in result
    assert "random" in result["weights"] and result["agreement"] == 50


def test_what_failed_is_told_apart_and_left_out() -> None:
    samples = [Sample(f"{row}.jpg", f"{row}.jpg", right) for row, right in enumerate((CAT, DOG, OWL, 5))]
    five = [0, 1, 2, 3, 4]
    failed = [Record(1, [], None, 0, 0), Record(2, [], None, 0, 0, not_finite=True)]
    result = summary([Record(0, five, None, 0, 0), *failed], samples, artifact("ours"), "a backend", None)
    assert (result["n"], result["unreadable"], result["not_finite"], result["top1"]) == (1, 1, 1, 100)
    for row, top in ((1, (0, 100)), (3, (0, 0))):  # class 1 is the second likeliest, class 5 the sixth
        result = summary([Record(row, five, None, 0, 0)], samples, artifact("ours"), "a backend", None)
        assert (result["top1"], result["top5"]) == top


@pytest.mark.parametrize(("reference", "doubtful"), [(None, True), ("as ours", True), ("as the labels", False)])
def test_labels_that_suit_the_reference_are_not_doubted(reference: Optional[str], doubtful: bool) -> None:
    samples = [Sample(f"{row}.jpg", f"{row}.jpg", row % 7) for row in range(42)]
    check = LabelCheck(samples, artifact("ours"))
    for row in range(42):
        ours = 6 - row % 7
        check.add(Record(row, [ours], {None: None, "as ours": ours}.get(reference, row % 7), 0, 0))
    with pytest.raises(LabelError, match="counted backwards") if doubtful else contextlib.nullcontext():
        check.finish()


def test_top_five_are_five_and_the_noise_is_relative_to_the_reference() -> None:
    ours, reference = np.float32([7, 6, 5, 4, 3, 2, 1]), np.float32([2, 0, 0, 0, 0, 0, 0])
    record = record_of(0, Answer(0, (ours, reference), None, {}))
    assert record == Record(0, [0, 1, 2, 3, 4], 0, 4.0, 25 + 36 + 25 + 16 + 9 + 4 + 1)


@pytest.mark.parametrize("limit", [None, 4])
def test_a_limit_takes_images_from_everywhere(limit: Optional[int], tmp_path: Path) -> None:
    for i in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i:02}.png")
    names = [sample.name for sample in read_samples(tmp_path, artifact("ours"), limit=limit)]
    assert names == ([f"{i:02}.png" for i in range(12)] if limit is None else ["00.png", "03.png", "06.png", "09.png"])


def test_an_interrupted_evaluation_goes_on_with_the_batches_it_would_have_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal ends within a batch: that one is done again as a whole, as INT8's answers may depend on the batch."""
    Image.new("RGB", (40, 40), (255, 255, 255)).save(tmp_path / "white.png")
    samples = [Sample(f"{i}", str(tmp_path / "white.png"), 0) for i in range(10)]
    classifier = fake()
    whole = evaluate(classifier, samples, journal=tmp_path / "whole")
    assert classifier.sizes == [4, 4, 2]
    lines = (tmp_path / "whole").read_text().splitlines()
    for left in (
        [*lines[:6], lines[6][:9]],
        [*lines[:4], *lines[5:9]],
    ):  # killed while it wrote the seventh; a line lost
        (tmp_path / "cut").write_text("\n".join(left))
        again, clock = fake(), iter((0.0, 2.0))
        monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda clock=clock: next(clock)))
        result = evaluate(again, samples, journal=tmp_path / "cut")
        assert again.sizes == [4, 2]
        assert (tmp_path / "cut").read_text() == (tmp_path / "whole").read_text()
        assert result["images_per_second"] == 3  # the six that were done now, in 2 s
        assert result == {**whole, "images_per_second": 3}


def test_a_reference_of_other_classes_is_a_sentence() -> None:
    ours, other = fake(), fake()
    other.artifact.__dict__.update(path=Path("other"), classes=10)
    with pytest.raises(UserError, match="other tells 10 classes apart and fake 2: they can't be compared"):
        evaluate(ours, [], other)


def fake() -> Any:
    classifier = FakeClassifier(batch=4, lanes=1)
    classifier.artifact.__dict__.update(path=Path("fake"), classes=2, weights="w")
    classifier.backend.description = "fake"
    return classifier
