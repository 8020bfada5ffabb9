"""The pool whose results come in the order of its items."""

from __future__ import annotations

import random
import threading
import time
from typing import Iterator, List

import pytest

from runtime.pool import OrderedPool
from tests.patience import LONG, until


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: not [each for each in set(threading.enumerate()) - before if each.name != "hangs 0"])


def test_results_come_in_order_and_errors_in_their_place() -> None:
    def work(item: int) -> int:
        time.sleep(random.random() * 0.003)
        return 12 // (item - 7)

    found: List[object] = []
    with OrderedPool(work, range(20), 4, 6) as pool:
        for _ in range(20):
            try:
                found.append(next(pool))
            except ZeroDivisionError:
                found.append("failed")
        assert list(pool) == []
    assert found == [12 // (item - 7) if item != 7 else "failed" for item in range(20)]


def test_what_is_done_comes_out_while_the_next_item_is_waited_for() -> None:
    more = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert more.wait(LONG)
        yield 2
        raise OSError("the list can't be read on")

    with OrderedPool(lambda item: -item, items(), 2, 4) as pool:
        assert next(pool) == -1
        more.set()
        assert next(pool) == -2
        with pytest.raises(OSError, match="read on"):
            next(pool)
        with pytest.raises(StopIteration):
            next(pool)


def test_no_more_is_taken_than_there_is_room_for() -> None:
    taken: List[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    with OrderedPool(lambda item: item, items(), 3, 5) as pool:
        assert [next(pool), next(pool)] == [0, 1]
        until(lambda: len(taken) >= 7)
        time.sleep(0.05)
        assert len(taken) == 7


def test_leaving_waits_neither_for_work_that_hangs_nor_for_a_pool_behind_it() -> None:
    begun, end = threading.Event(), threading.Event()

    def hang(item: int) -> int:
        begun.set()
        end.wait(LONG)
        return item

    inner = OrderedPool(hang, range(100), 1, 4, "hangs")
    outer = OrderedPool(lambda item: item, inner, 2, 2, "outer")
    assert begun.wait(LONG)
    began = time.monotonic()
    outer.close()
    assert time.monotonic() - began < LONG / 2
    end.set()


def test_leaving_waits_for_work_under_way_if_it_is_asked_to() -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(item: int) -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    pool = OrderedPool(slow, range(3), 1, 1)
    assert begun.wait(LONG)
    pool.close(LONG)
    assert ended.is_set()
