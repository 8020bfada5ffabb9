"""Reading, decoding and the network overlapped: in order, in bounded memory.

One pool of threads decodes the images, each into what the network gets of it; they are cut into batches; a second pool (lanes)
runs the network on the batches. Whoever iterates gets the answers in the order of the items. Pillow and the backends let
go of Python's lock while they work, so threads will do.

Which images share a batch depends on their order alone, never on what was ready first: the same images give the
same logits every time.
"""

from __future__ import annotations

import os
import time
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from ..backends.processor import processors
from ..images.decode import DECODING, Decoding, ImageError, Source, open_image
from ..images.preprocess import Preprocessing, normalize, resize_crop
from ..pool import OrderedPool
from .network import not_finite

if TYPE_CHECKING:
    from PIL import Image

    from ..artifacts.artifact import Artifact
    from .network import Network

STAGES = ("decode", "resize", "normalise", "network")
MOST_LANES = 8  # each holds the activations of a batch
_LEAVING = 5.0  # seconds at the end to wait for runs of the network, before their owner closes it


class Squares(list):
    """An image that was decoded elsewhere: what `squares` makes of it, for each recipe."""


# The name that errors give the image, and the image
Opener = Callable[[Any], Optional[Tuple[Optional[str], Union[Source, Squares]]]]


class Answer(NamedTuple):
    """The networks' answers to one item, or its error."""

    item: Any
    logits: Tuple[np.ndarray, ...]  # float32 [classes] of each network; () without an image
    error: Optional[ImageError]
    milliseconds: Dict[str, float]  # by stage, of the network its share of the batch; {} without an image


def lanes_here() -> int:
    """How many concurrent runs to open a network for, so that `overlapped` keeps the processor busy."""
    return min(processors(), MOST_LANES)


def recipes_of(artifacts: Sequence[Artifact]) -> List[Preprocessing]:
    """The artifacts' preprocessings, each once."""
    return list(dict.fromkeys(artifact.preprocessing for artifact in artifacts))


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
) -> Generator[Answer, None, None]:
    """An Answer for each of `items`, in their order. `networks`: one or several that answer to the same images.

    `items` is asked for the next only when there is room, from another thread, and may take as long as it likes.
    `opened(item)` gives the name that errors call the image, and the image (or its Squares), or None for an item that
    only keeps its place; it is called in threads. `batch`: images a run, None for what the backends gain from. `growing` begins
    with one, so that the first answer comes at once. `readers`: threads that decode, None for one a core.

    An ImageError is part of its image's answer; so is a network's answer that holds NaN or infinity. Whatever else
    `items`, `opened` or a network raise is raised here, after the batches before it. Closing the iterator, or an error in whoever
    iterates, ends all threads.
    """
    work, size = _Work(networks, opened, decoding), batch or min(network.backend.batch for network in networks)
    lanes, readers = min(network.backend.lanes for network in networks), readers or processors()
    read = OrderedPool(work.read, items, readers, 2 * readers, "reader")
    answers = OrderedPool(work.infer, _grouped(read, size, growing), lanes, 2 * lanes + 1, "lane")
    try:
        for group in answers:
            yield from group
    finally:
        read.close()
        answers.close(_LEAVING)


def one_by_one(
    networks: Sequence[Network], items: Iterable[Any], opened: Opener, *, decoding: Decoding = DECODING
) -> Generator[Answer, None, None]:
    """As `overlapped`, but each image the whole way before the next, in this thread: the shortest way for a single
    image and for a camera's newest frame, and the only way to tell what each stage takes by itself."""
    work = _Work(networks, opened, decoding)
    for item in items:
        yield from work.infer([work.read(item)])


class _Read(NamedTuple):
    """An item after decoding."""

    item: Any
    name: str = ""
    tensors: Sequence[np.ndarray] = ()  # what the network gets, for each recipe; (): no image
    error: Optional[ImageError] = None
    clock: Sequence[float] = ()  # when each stage began and the last ended


class _Work:
    """The two steps of the pipeline, for any thread to do."""

    def __init__(self, networks: Sequence[Network], opened: Opener, decoding: Decoding) -> None:
        self.networks, self.opened, self.decoding = networks, opened, decoding
        self.recipes = recipes_of([network.artifact for network in networks])
        self.input_of = [self.recipes.index(network.artifact.preprocessing) for network in networks]

    def read(self, item: Any) -> _Read:
        """Decodes an item. An ImageError is returned as part of the result."""
        tensors: List[np.ndarray] = []
        clocks: List[List[float]] = []
        try:
            found = self.opened(item)
            if found is None:
                return _Read(item)
            name, source = found
            made = _made(source) if isinstance(source, Squares) else squares(source, name, self.recipes, self.decoding)
            for (square, clock), recipe in zip(made, self.recipes):
                tensors.append(normalize(square, recipe))
                clocks.append([*clock, time.perf_counter()])
        except ImageError as error:
            return _Read(item, error=error)
        if name is None:
            name = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "image"
        return _Read(item, name, tensors, None, clocks[0])

    def infer(self, group: Sequence[_Read]) -> List[Answer]:
        """Runs the networks on those of `group` that are images."""
        images = [each for each in group if each.tensors]
        if not images:
            return [Answer(each.item, (), each.error, {}) for each in group]
        began = time.perf_counter()
        inputs = [np.stack(tensors) for tensors in zip(*(each.tensors for each in images))]
        logits = [network.logits(inputs[index]) for network, index in zip(self.networks, self.input_of)]
        network_ms = (time.perf_counter() - began) * 1e3 / len(images)
        rows = iter(zip(*logits))
        return [self._answer(each, next(rows) if each.tensors else (), network_ms) for each in group]

    def _answer(self, image: _Read, logits: Tuple[np.ndarray, ...], network_ms: float) -> Answer:
        if not logits:
            return Answer(image.item, (), image.error, {})
        for network, row in zip(self.networks, logits):
            error = not_finite(row, network.artifact, image.name)
            if error is not None:
                return Answer(image.item, (), error, {})
        spent = {stage: (end - start) * 1e3 for stage, start, end in zip(STAGES, image.clock, image.clock[1:])}
        return Answer(image.item, logits, None, {**spent, "network": network_ms})


def _made(ready: Squares) -> Iterator[Tuple[Image.Image, List[float]]]:
    for square in ready:
        yield square, [time.perf_counter()] * 3


def _grouped(read: Iterable[_Read], size: int, growing: bool) -> Iterator[List[_Read]]:
    """Cuts the images into batches by their order alone."""
    wanted, group = 1 if growing else size, []  # type: int, List[_Read]
    try:
        for each in read:
            group.append(each)
            if len(group) == wanted:
                yield group
                wanted, group = min(2 * wanted, size), []
    except Exception:  # of the items: after those before it
        if group:
            yield group
        raise
    if group:
        yield group
