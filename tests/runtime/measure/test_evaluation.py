"""What an evaluation says of two models' answers, and that one which was interrupted goes on as it would have gone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest
from PIL import Image

from runtime.measure.dataset import Sample
from runtime.measure.evaluation import Record, evaluate, read_samples, record_of, summary
from runtime.networks.pipeline import Answer
from tests.runtime.fake_classifier import FakeClassifier

NAMES = ["cat", "dog", "owl", "fox", "elk", "bee", "ant"]
CAT, DOG, OWL = range(3)


def artifact(name: str) -> Any:
    return SimpleNamespace(
        path=Path(name), labels=NAMES, classes=7, random=False, weights="w", variant="v", precision="int8", metadata={}
    )


def judged(*images: Any) -> Any:
    """The figures of images given as (right class, reference's class, ours)."""
    samples = [Sample(f"{row}.jpg", f"{row}.jpg", right) for row, (right, _, _) in enumerate(images)]
    records = [Record(row, [ours], before, 1.0, 0.1) for row, (_, before, ours) in enumerate(images)]
    return summary(records, samples, artifact("ours"), "a backend", artifact("reference"))


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


def test_an_interrupted_evaluation_goes_on_with_the_batches_it_would_have_had(tmp_path: Path) -> None:
    """Its journal ends within a batch: that one is done again as a whole, as INT8's answers may depend on the batch."""
    Image.new("RGB", (40, 40), (255, 255, 255)).save(tmp_path / "white.png")
    samples = [Sample(f"{i}", str(tmp_path / "white.png"), 0) for i in range(10)]
    classifier = fake()
    whole = evaluate(classifier, samples, journal=tmp_path / "whole")
    assert classifier.sizes == [4, 4, 2]
    lines = (tmp_path / "whole").read_text().splitlines()
    (tmp_path / "cut").write_text("\n".join([*lines[:6], lines[6][:9]]))  # killed while it wrote the seventh
    again = fake()
    result = evaluate(again, samples, journal=tmp_path / "cut")
    assert again.sizes == [4, 2]
    assert (tmp_path / "cut").read_text() == (tmp_path / "whole").read_text()
    del result["images_per_second"], whole["images_per_second"]
    assert result == whole


def fake() -> Any:
    classifier = FakeClassifier(batch=4, lanes=1)
    classifier.artifact.__dict__.update(path=Path("fake"), classes=2, weights="w")
    classifier.backend.description = "fake"
    return classifier
