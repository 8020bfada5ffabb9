"""Threads that work ahead on a stream of items, and results that come out in the order of the items, in bounded memory."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Callable, Generic, Iterable, Iterator, Optional, Tuple, TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


class OrderedPool(Generic[Item, Done]):
    """An iterator of `work(item)` for each of `items`, in their order, done by `threads` threads.

    A thread of its own iterates `items`, so waiting for the next item does not delay results that are ready. At most
    `ahead` items are taken before their results are asked for. What `work` raises is raised in its item's place, and
    iterating may go on; what `items` raises comes after the results before it, and ends.

    Close it, or use it in `with`, when done: whatever is not begun is dropped. `items` is closed too if it can be, so pools may
    be chained. The threads are daemons: one that reads a pipe nobody fills does not keep the process from ending, as it
    would with concurrent.futures.
    """

    def __init__(
        self, work: Callable[[Item], Done], items: Iterable[Item], threads: int, ahead: int, name: str = "worker"
    ) -> None:
        self._work, self._source = work, items
        self._room = threading.Semaphore(ahead)
        self._tasks: SimpleQueue[Optional[Tuple[Future[Done], Item]]] = SimpleQueue()
        self._results: SimpleQueue[Optional[Future[Done]]] = SimpleQueue()  # in order; None: no more
        self._closed = False
        self._workers = [threading.Thread(target=self._live, name=f"{name} {i}", daemon=True) for i in range(threads)]
        for thread in (*self._workers, threading.Thread(target=self._feed, name=f"{name}'s feeder", daemon=True)):
            thread.start()

    def __iter__(self) -> Iterator[Done]:
        return self

    def __next__(self) -> Done:
        future = self._results.get()
        if future is None:
            self._results.put(None)  # for another call of next()
            raise StopIteration
        try:
            return future.result()
        finally:
            self._room.release()

    def close(self, patience: float = 0.0) -> None:
        """Ends the threads, and waits `patience` seconds for the work that is under way."""
        self._closed = True
        self._room.release()
        self._results.put(None)
        for _ in self._workers:
            self._tasks.put(None)
        if isinstance(self._source, OrderedPool):
            self._source.close()
        for thread in self._workers if patience else ():
            thread.join(patience)

    def __enter__(self) -> OrderedPool[Item, Done]:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _feed(self) -> None:
        try:
            items = iter(self._source)
            while self._room.acquire() and not self._closed:
                item = next(items)
                future: Future[Done] = Future()
                self._results.put(future)
                self._tasks.put((future, item))
                if self._closed:  # meanwhile: no worker may be left to take it
                    future.cancel()
        except StopIteration:
            self._results.put(None)
        except BaseException as error:
            failed: Future[Done] = Future()
            failed.set_exception(error)
            self._results.put(failed)
            self._results.put(None)

    def _live(self) -> None:
        for future, item in iter(self._tasks.get, None):
            if self._closed:
                future.cancel()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._work(item))
                except BaseException as error:
                    future.set_exception(error)
