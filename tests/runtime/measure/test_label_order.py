"""Labels in another order than the model's classes are found, and the order is named with the accuracy that it gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

from runtime.artifacts.artifact import Artifact
from runtime.images.preprocess import Preprocessing
from runtime.measure.label_order import Seen, doubt

RECIPE = Preprocessing(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TEXT = {int(name): place for place, name in enumerate(sorted(map(str, range(1000))))}
SHUFFLED = random.Random(1).sample(range(1000), 1000)
NAMES = [f"thing {number:03}" for number in random.Random(2).sample(range(1000), 1000)]
BY_NAME = {NAMES.index(name): place for place, name in enumerate(sorted(NAMES))}


def artifact(classes: int = 1000) -> Artifact:
    labels = NAMES if classes == 1000 else [f"class {i}" for i in range(classes)]
    return Artifact(Path("b0.onnx"), "b0", "fp32", RECIPE, classes, labels, "", "0" * 64, {})


def seen(count: int, kinds: int, share: float, classes: int = 1000) -> List[Tuple[int, int]]:
    """(truth, answer) of `count` images of `kinds` classes, of which a model gets `share` right and a tenth one class off."""
    chance = random.Random(count + kinds)
    chosen = chance.sample(range(1, classes - 1), kinds)
    truths = [chosen[i % kinds] for i in range(count)]
    answers = []
    for truth in truths:
        luck = chance.random()
        answers.append(truth if luck < share else truth + 1 if luck < share + 0.05 else chance.randrange(classes))
    return list(zip(truths, answers))


def said(images: List[Tuple[int, int]], written: Callable[[int], int] = lambda label: label, **made: Any) -> Any:
    return doubt([Seen(written(truth), answer) for truth, answer in images], artifact(**made))


@pytest.mark.parametrize(
    ("written", "order", "remedy"),
    [
        (lambda label: label + 1, "counted from 1", "with 1 subtracted from each"),
        (lambda label: label - 1, "one too low", "with 1 added to each"),
        (lambda label: TEXT[label], "folders sorted as text: 0, 1, 10", "if read so"),
        (lambda label: BY_NAME[label], "classes sorted by name", "if read so"),
        (lambda label: label + 17, "shifted by 17", "with -17 added to each"),
        (lambda label: 999 - label, "counted backwards", "counted forwards"),
    ],
)
@pytest.mark.parametrize(("count", "kinds"), [(64, 64), (500, 294), (4000, 998), (480, 8)])
def test_orders_that_people_have_are_named(
    written: Callable[[int], int], order: str, remedy: str, count: int, kinds: int
) -> None:
    images = [pair for pair in seen(count, kinds, 0.8) if written(pair[0]) <= 1000]
    text = said(images, written)
    share = sum(truth == answer for truth, answer in images) / len(images)
    assert order in text and f"and {share:.1%} {remedy}." in text


def test_any_other_order_is_found_where_classes_have_several_images() -> None:
    text = said(seen(480, 8, 0.9), lambda label: SHUFFLED[label])
    assert "another order" in text and "is class" in text and "name or wnid" in text


def test_a_class_that_is_right_by_luck_hides_nothing() -> None:
    """In 8 classes one that kept its number is 12 % top-1."""
    images = seen(480, 8, 0.9)
    kept = images[0][0]
    assert "another order" in said(images, lambda label: label if label == kept else SHUFFLED[label])


@pytest.mark.parametrize("behind", [500, 850])
@pytest.mark.parametrize("by", [1, -1])
def test_a_class_that_is_missing_moves_those_behind_it_alone(behind: int, by: int) -> None:
    """In a folder for each class of which one is not there, labels behind it are one too low: 37 % instead of 75 %."""
    images = seen(500, 294, 0.8)
    text = said(images, lambda label: label + by if label >= behind else label)
    share = sum(truth == answer for truth, answer in images) / len(images)
    assert f"to {max(truth for truth, _ in images) + by} seem to be shifted by {by}" in text
    named = float(text.split(", and ")[1].partition("%")[0])
    assert abs(named - 100 * share) < 1


def test_two_classes_that_are_swapped_are_found_among_ten() -> None:
    images = seen(400, 8, 0.9, 10)
    text = said(images, lambda label: {3: 4, 4: 3}.get(label, label), classes=10)
    assert "another order" in text and "3 is class 4" in text and "4 is class 3" in text
    # A class that the model takes for another, of which there are few images, is no order.
    assert said([(i % 6, i % 6) for i in range(200)] + [(6, 7)] * 20 + [(7, 8)] * 2, classes=10) is None


def test_one_lucky_hit_is_no_more_than_chance() -> None:
    images = seen(300, 300, 0.8)
    lucky = next(truth for truth, answer in images if truth == answer)
    text = said(images, lambda label: label if label == lucky else SHUFFLED[label])
    assert "1 of 300 images are right in top-1, which is no more than by chance" in text


@pytest.mark.parametrize("share", [0.95, 0.3, 0.08])
@pytest.mark.parametrize(("count", "kinds"), [(10, 10), (64, 64), (500, 294), (4000, 998), (480, 8), (70, 1)])
def test_right_labels_are_never_doubted(share: float, count: int, kinds: int) -> None:
    if count * share >= 8 or count < 20:
        assert said(seen(count, kinds, share)) is None


def test_few_classes() -> None:
    right = [(i % 2, i % 2) for i in range(100)]
    assert said(right, classes=2) is None
    assert "counted backwards" in said(right, lambda label: 1 - label, classes=2)
    coin = random.Random(0)
    assert (
        said([(i % 2, coin.randrange(2)) for i in range(200)], classes=2) is None
    )  # a bad model of two classes is one


def test_one_number_more_than_classes() -> None:
    assert "counted from 1" in said(seen(100, 50, 0.8), lambda label: label + 1)
    assert "1000 is none of the classes" in said([(999, 3), (4, 4)], lambda label: label + 1)
