"""Images through a network with reading, decoding and the network overlapped: in order, in bounded memory.

Readers (threads) take the items one after the other, decode each and write it into its row of a batch; lanes (threads)
run the network on the batches that are complete; whoever iterates gets the answers in the order of the items. Pillow
and the backends let go of Python's lock while they work, so threads will do.

Which images share a batch depends on their order alone, never on what was ready first: the same images give the
same logits every time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Deque,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from ..backends.processor import processors
from ..images.decode import DECODING, Decoding, ImageError, Source, open_image
from ..images.preprocess import Preprocessing, normalize, resize_crop

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ..artifacts.artifact import Artifact
    from .network import Network

STAGES = ("decode", "resize", "normalise", "network")
MOST_LANES = 8  # each holds the activations of a batch
_LEAVING = 5.0  # seconds that a thread is waited for at the end; decoding an image has a limit of its own
_TICK = 0.5  # seconds; only Windows needs it, where Ctrl-C does not end an endless wait


class Squares(list):
    """An image that was decoded elsewhere: what `squares` makes of it, for each recipe."""


Opener = Callable[
    [Any], Optional[Tuple[Optional[str], Union[Source, Squares]]]
]  # the name that errors give it, and the image


class Answer(NamedTuple):
    """What came of one item."""

    item: Any
    logits: Tuple[np.ndarray, ...]  # float32 [classes] of each network; () without an image
    error: Optional[ImageError]
    milliseconds: Dict[str, float]  # by stage, of the network its share of the batch; {} without an image


def lanes_here() -> int:
    """Runs at once to open a classifier for that `overlapped` is to keep busy."""
    return min(processors(), MOST_LANES)


def recipes_of(artifacts: Sequence[Artifact]) -> List[Preprocessing]:
    """What is to be made of each image: the artifacts' preprocessings, each once."""
    recipes = [artifact.preprocessing for artifact in artifacts]
    return [recipe for i, recipe in enumerate(recipes) if recipe not in recipes[:i]]


def squares(
    source: Source, name: Optional[str], recipes: Sequence[Preprocessing], decoding: Decoding = DECODING
) -> Iterator[Tuple[Image.Image, List[float]]]:
    """For each recipe its square of the image, and when decoding began, had ended, and cutting had. Raises ImageError."""
    image, size = None, None
    for recipe in recipes:
        clock = [time.perf_counter()]
        if image is None or size != recipe.resize_to:
            image, size = open_image(source, name, decoding, recipe.resize_to), recipe.resize_to
        clock.append(time.perf_counter())
        square = resize_crop(image, recipe)
        clock.append(time.perf_counter())
        yield square, clock


def grown(batch: int) -> int:
    """Images in the batches with which `growing` begins, before those of `batch`."""
    size, images = 1, 0
    while size < batch:
        images, size = images + size, min(2 * size, batch)
    return images


def overlapped(
    networks: Sequence[Network],
    items: Iterable[Any],
    opened: Opener,
    *,
    batch: Optional[int] = None,
    readers: Optional[int] = None,
    decoding: Decoding = DECODING,
    growing: bool = False,
    alone: Callable[[Any], bool] = lambda item: False,
) -> Generator[Answer, None, None]:
    """An Answer for each of `items`, in their order. `networks`: one or several that answer to the same images.

    `items` is asked for the next only when there is room, from another thread, and may take as long as it likes.
    `opened(item)` gives the name that errors call the image and the image (or its Squares), or None for an item that only keeps
    its place; it is called in threads. `batch`: images a run, None for what the backends gain from. `growing` begins with
    one, so that the first answer comes at once; an item that is to be `alone` (a pipe: nobody knows when it comes) is a batch of
    its own. `readers`: threads that decode, None for one a core.

    An ImageError is part of its image's answer. Whatever else `items`, `opened` or a network raise is raised here,
    after the batches before it. Closing the iterator, or an error in whoever iterates, ends all threads.
    """
    work, batch = _Work(networks, opened, decoding), batch or min(network.backend.batch for network in networks)
    lanes, readers = min(network.backend.lanes for network in networks), readers or processors()
    queue = _Queue(work, iter(items), batch, 2 * lanes + 1 + -(-readers // batch), growing, alone)
    threads = [threading.Thread(target=queue.read, name=f"reader {i}", daemon=True) for i in range(readers)]
    threads += [threading.Thread(target=queue.infer, name=f"lane {i}", daemon=True) for i in range(lanes)]
    try:
        for thread in threads:
            thread.start()
        yield from queue.answers()
    finally:
        queue.stop()
        for thread in threads:
            if thread.ident is not None and thread not in queue.waiting:
                thread.join(_LEAVING)


def one_by_one(
    networks: Sequence[Network], items: Iterable[Any], opened: Opener, *, decoding: Decoding = DECODING
) -> Generator[Answer, None, None]:
    """As `overlapped`, but each image the whole way before the next, in this thread: the shortest way for a single
    image and for a camera's newest frame, and the only way to tell what each stage takes by itself."""
    work = _Work(networks, opened, decoding)
    buffers = work.buffers(1)
    for item in items:
        batch = _Batch(buffers, 1)
        work.read(batch, batch.add(item))
        work.infer(batch)
        yield from batch.answers()


class _Batch:
    """Images that are run together, from the first that is asked for to the last that is answered."""

    def __init__(self, buffers: List[np.ndarray], size: int) -> None:
        self.buffers = buffers  # one for each kind of preprocessing
        self.size = size
        self.items: List[Any] = []
        self.errors: List[Optional[ImageError]] = []
        self.clocks: List[List[float]] = []  # when each stage began and the last ended; []: no image
        self.reading = 0
        self.full = self.started = self.done = False
        self.network_ms = 0.0
        self.logits: Dict[int, Tuple[np.ndarray, ...]] = {}  # by row
        self.failure: Optional[BaseException] = None

    def add(self, item: Any) -> int:
        """The row that `item` gets."""
        self.items.append(item)
        self.errors.append(None)
        self.clocks.append([])
        self.reading += 1
        self.full = len(self.items) == self.size
        return len(self.items) - 1

    def answers(self) -> Iterator[Answer]:
        for row, (item, error, clock) in enumerate(zip(self.items, self.errors, self.clocks)):
            spent = {stage: (end - start) * 1e3 for stage, start, end in zip(STAGES, clock, clock[1:])}
            if spent:
                spent["network"] = self.network_ms
            yield Answer(item, self.logits.get(row, ()), error, spent)


class _Work:
    """What is done to an image, whoever does it."""

    def __init__(self, networks: Sequence[Network], opened: Opener, decoding: Decoding) -> None:
        self.networks, self.opened, self.decoding = networks, opened, decoding
        self.recipes = recipes_of([network.artifact for network in networks])
        self.buffer_of = [self.recipes.index(network.artifact.preprocessing) for network in networks]

    def buffers(self, size: int) -> List[np.ndarray]:
        return [recipe.empty(size) for recipe in self.recipes]

    def read(self, batch: _Batch, row: int) -> None:
        """Decodes an item into its row; an ImageError becomes part of it."""
        try:
            found = self.opened(batch.items[row])
            if found is None:
                return
            name, source = found
            made = _made(source) if isinstance(source, Squares) else squares(source, name, self.recipes, self.decoding)
            for (square, clock), recipe, buffer in zip(made, self.recipes, batch.buffers):
                normalize(square, recipe, buffer[row])
                clock.append(time.perf_counter())
                if not batch.clocks[row]:
                    batch.clocks[row] = [*clock, clock[-1]]
        except ImageError as error:
            batch.errors[row], batch.clocks[row] = error, []

    def infer(self, batch: _Batch) -> None:
        """Runs the networks on the rows that are images."""
        rows = [row for row, clock in enumerate(batch.clocks) if clock]
        if not rows:
            return
        began = time.perf_counter()
        whole = rows[-1] == len(rows) - 1  # most often: no copy
        inputs = [buffer[: len(rows)] if whole else buffer[rows] for buffer in batch.buffers]
        logits = [network.logits(inputs[index]) for network, index in zip(self.networks, self.buffer_of)]
        batch.network_ms = (time.perf_counter() - began) * 1e3 / len(rows)
        batch.logits = {row: tuple(each[i] for each in logits) for i, row in enumerate(rows)}


def _made(ready: Squares) -> Iterator[Tuple[Image.Image, List[float]]]:
    for square in ready:
        yield square, [time.perf_counter()] * 3


class _Queue:
    """What the threads share, guarded by one lock; each kind of thread waits on a condition of its own."""

    def __init__(
        self, work: _Work, items: Iterator[Any], size: int, room: int, growing: bool, alone: Callable[[Any], bool]
    ) -> None:
        self.work, self.items, self.size, self.room, self.alone = work, items, size, room, alone
        self.next_size = 1 if growing else size
        lock = threading.Lock()
        self.has_room, self.complete, self.answered = (threading.Condition(lock) for _ in range(3))
        self.batches: Deque[_Batch] = deque()  # not answered yet, in order
        self.open: Optional[_Batch] = None  # the last of them, until it is full
        self.spare: List[List[np.ndarray]] = []
        self.asking = self.ended = self.stopped = False
        self.waiting: Set[threading.Thread] = set()  # for something outside, maybe for ever
        self.failure: Optional[BaseException] = None  # of `items`

    def stop(self) -> None:
        with self.has_room:
            self.stopped = True
            self._wake_all()

    def _wake_all(self) -> None:
        for condition in (self.has_room, self.complete, self.answered):
            condition.notify_all()

    def answers(self) -> Iterator[Answer]:
        while True:
            with self.answered:
                while not (self.batches[0].done if self.batches else self.ended):
                    self.answered.wait(_TICK)
                if not self.batches:
                    break
                batch = self.batches[0]
            if batch.failure is not None:
                raise batch.failure
            yield from batch.answers()
            with self.has_room:
                self.batches.popleft()
                self.spare.append(batch.buffers)
                self.has_room.notify()
        if self.failure is not None:
            raise self.failure

    def read(self) -> None:
        """A reader's life."""
        me = threading.current_thread()
        while True:
            with self.has_room:
                while not self.stopped and not self.ended and (self.asking or not self._space()):
                    self.has_room.wait(_TICK)
                if self.stopped or self.ended:
                    return
                self.asking = True
                self.waiting.add(me)
            try:
                item = next(self.items)
            except BaseException as error:
                self._end(None if isinstance(error, StopIteration) else error)
                return
            with self.has_room:
                batch, row = self._place(item)
                self.asking = False
                self.has_room.notify()
                if not self.alone(item):
                    self.waiting.discard(me)
            try:
                self.work.read(batch, row)
            except BaseException as error:
                batch.failure = error
            with self.complete:
                self.waiting.discard(me)
                batch.reading -= 1
                if batch.full and not batch.reading:
                    self.complete.notify()

    def _space(self) -> bool:
        return self.open is not None or len(self.batches) < self.room

    def _place(self, item: Any) -> Tuple[_Batch, int]:
        """The batch and row of an item that was just taken."""
        alone = self.alone(item)
        if alone and self.open is not None:
            self._close()
        if self.open is None:
            buffers = self.spare.pop() if self.spare else self.work.buffers(self.size)
            self.open = _Batch(buffers, 1 if alone else self.next_size)
            self.batches.append(self.open)
            if not alone:
                self.next_size = min(2 * self.next_size, self.size)
        batch = self.open
        row = batch.add(item)
        if batch.full:
            self.open = None
        return batch, row

    def _close(self) -> None:
        """The open batch stays as small as it is."""
        if self.open is not None:
            self.open.full = True
            if not self.open.reading:
                self.complete.notify()
        self.open = None

    def _end(self, failure: Optional[BaseException]) -> None:
        with self.has_room:
            self._close()
            self.ended, self.failure = True, failure
            self.waiting.discard(threading.current_thread())
            self._wake_all()

    def infer(self) -> None:
        """A lane's life."""
        while True:
            with self.complete:
                while True:
                    open_ones = [batch for batch in self.batches if not batch.started]
                    batch = next((each for each in open_ones if each.full and not each.reading), None)
                    if self.stopped or (not open_ones and self.ended):
                        return
                    if batch is not None:
                        break
                    self.complete.wait(_TICK)
                batch.started = True
            try:
                if batch.failure is None:
                    self.work.infer(batch)
            except BaseException as error:
                batch.failure = error
            with self.answered:
                batch.done = True
                self.answered.notify()
                if self.ended:
                    self.complete.notify_all()
