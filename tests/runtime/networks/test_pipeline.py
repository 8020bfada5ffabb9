"""Reading, decoding and the network overlapped: order, errors, ends."""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any, Iterator, List, Tuple

import numpy as np
import pytest

from runtime.images.decode import ImageError
from runtime.networks.network import NotFiniteError
from runtime.networks.pipeline import one_by_one, overlapped
from tests.patience import until
from tests.runtime.fake_classifier import RECIPE, FakeClassifier


def grey(value: int) -> np.ndarray:
    return np.full((40, 40, 3), value, np.uint8)


def as_image(value: Any) -> Tuple[str, Any]:
    return "it", b"no image" if value is None else grey(value)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """A reader that was asking for the next item when the iterator was closed ends by itself: nobody waits for it."""
    before = set(threading.enumerate())
    yield
    until(lambda: not set(threading.enumerate()) - before)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "lanes", "readers"), [(1, 1, 1), (4, 1, 3), (3, 3, 2), (8, 2, 8)])
def test_each_answer_belongs_to_its_image_and_comes_in_order(batch: int, lanes: int, readers: int, seed: int) -> None:
    """Whichever thread is quicker; with images that can't be read, and items that are none, among them."""
    chance = random.Random(seed)
    items = [chance.choice([None, "event", *range(256)]) for _ in range(60)]

    def opened(item: Any) -> Any:
        time.sleep(chance.random() * 0.002)
        return None if item == "event" else as_image(item)

    network = FakeClassifier(batch, lanes)
    answers = list(overlapped([network], items, opened, readers=readers))
    assert [answer.item for answer in answers] == items
    for answer in answers:
        assert isinstance(answer.error, ImageError) == (answer.item is None)
        if isinstance(answer.item, int):
            assert answer.logits[0][0] == pytest.approx(answer.item / 255, abs=1e-6)
            assert list(answer.milliseconds) == ["decode", "resize", "normalise", "network"]
        else:
            assert answer.logits == () and answer.milliseconds == {}
    assert sum(network.sizes) == sum(isinstance(item, int) for item in items) and max(network.sizes) <= batch
    alone = list(one_by_one([FakeClassifier()], items, as_image if "event" not in items else opened))
    assert [each.logits[0][0] if each.logits else None for each in alone] == [
        each.logits[0][0] if each.logits else None for each in answers
    ]


def test_which_images_share_a_batch_does_not_depend_on_time() -> None:
    """Or an evaluation's figures would change in the last digits from run to run."""
    for growing, sizes in ((False, [4, 4, 3]), (True, [1, 2, 4, 4])):
        network = FakeClassifier(4, 1)
        assert len(list(overlapped([network], range(11), as_image, growing=growing))) == 11
        assert sorted(network.sizes) == sorted(sizes)  # whichever is read first is run first


def test_two_networks_answer_to_the_same_images() -> None:
    """Each with its own preprocessing, as evaluate compares them."""
    other = RECIPE._replace(resolution=24, mean=(0.5, 0.5, 0.5), input="uint8")
    networks = [FakeClassifier(), FakeClassifier(recipe=other)]
    for answer in overlapped(networks, [0, 100, None, 200], as_image):
        if answer.item is not None:
            assert [each[0] for each in answer.logits] == pytest.approx([answer.item / 255, answer.item], abs=1e-4)


def test_few_images_are_taken_ahead() -> None:
    """However many there are: the list may be endless, and memory is not."""
    taken: List[int] = []

    def endless() -> Iterator[int]:
        for i in itertools.count():
            taken.append(i)
            yield i % 256

    answers = overlapped([FakeClassifier(2, 1)], endless(), as_image, readers=2)
    for _ in range(10):
        next(answers)
    until(lambda: len(taken) >= 20)  # five batches were taken out, three and four images wait
    time.sleep(0.1)
    assert len(taken) == 20
    answers.close()
    time.sleep(0.05)
    assert len(taken) == 20


def test_errors_of_everybody_end_it() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("the list can't be read on")

    seen = []
    with pytest.raises(OSError, match="read on"):
        for answer in overlapped([FakeClassifier()], broken(), as_image):
            seen.append(answer.item)
    assert seen == list(range(5))

    network = FakeClassifier()
    network.failing = True
    with pytest.raises(RuntimeError, match="off the bus"):
        list(overlapped([network], range(100), as_image))

    def bug(item: int) -> Any:
        return as_image(item if item < 9 else 1 // 0)

    with pytest.raises(ZeroDivisionError):
        list(overlapped([FakeClassifier()], range(100), bug))

    with pytest.raises(KeyboardInterrupt):  # of the one who iterates
        for _ in overlapped([FakeClassifier()], range(100), as_image):
            raise KeyboardInterrupt


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_answered_with_nan_or_infinity_has_failed(value: float) -> None:
    """The images of its batch have not."""

    class Overflowing(FakeClassifier):
        def logits(self, batch: np.ndarray) -> np.ndarray:
            logits = super().logits(batch)
            logits[logits[:, 0] == 0, 1] = value  # a black image
            return logits

    for answers in (
        overlapped([FakeClassifier(), Overflowing()], [1, 0, 2], as_image),
        one_by_one([FakeClassifier(), Overflowing()], [1, 0, 2], as_image),
    ):
        one, black, two = answers
        assert isinstance(black.error, NotFiniteError) and black.logits == ()
        assert str(black.error).startswith("it: the network's fp32 answer to this image holds ")
        assert [len(answer.logits) for answer in (one, two)] == [2, 2] and one.error is two.error is None
