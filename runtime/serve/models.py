"""The classifier that answers, shared by all requests: images that wait while it runs are its next batch."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ..backends.processor import processors
from ..errors import UserError
from ..images.decode import Source, open_image
from ..images.preprocess import normalize, resize_crop
from ..networks.classifier import Classifier, Prediction

WAITING = 64  # images admitted at once, the one under way included; more are refused


class Busy(Exception):
    """So many images wait already that another one is refused."""


class _Replaced(Exception):
    """The model is closing, since another one has taken its place."""


class Classified(NamedTuple):
    """What came of one image."""

    predictions: List[Prediction]
    milliseconds: Dict[str, float]  # decode, resize, normalise, wait (for its turn), network (its batch's)


class _Waiting(NamedTuple):
    ticket: int  # first in, first out
    batch: np.ndarray  # of one image, as the artifact's preprocessing makes it
    came: float
    answer: Any  # Future[Tuple[np.ndarray, float, float]]


class Model:
    """A classifier and the threads that run it, as many as the backend has lanes. Closed when its last image is answered."""

    def __init__(self, classifier: Classifier, waiting: int = WAITING) -> None:
        self.classifier = classifier
        self.most = waiting
        self._tickets = itertools.count()
        self._queue: List[_Waiting] = []
        self._change = threading.Condition()
        self._admitted, self._closing = 0, False
        # As many as keep the cores busy: each may hold max_pixels, and 64 at once would fill the memory.
        self._decoding = threading.Semaphore(processors() + 2)
        self._threads = [
            threading.Thread(target=self._live, name=f"network {lane}", daemon=True)
            for lane in range(classifier.backend.lanes)
        ]
        for thread in self._threads:
            thread.start()

    def classify(self, source: Source, name: str, top: int) -> Classified:
        """The `top` likeliest classes of one image; called from as many threads as there are requests.

        Raises Busy if too many wait, ImageError (which calls the image `name`) if it can't be used or is answered with NaN.
        """
        with self._change:
            if self._closing:
                raise _Replaced
            if self._admitted >= self.most:
                raise Busy
            self._admitted += 1
            ticket = next(self._tickets)
        try:
            return self._classified(source, name, top, ticket)
        finally:
            with self._change:
                self._admitted -= 1
                self._change.notify_all()

    def _classified(self, source: Source, name: str, top: int, ticket: int) -> Classified:
        came = time.perf_counter()
        recipe = self.classifier.artifact.preprocessing
        prepared = recipe.empty(1)
        with self._decoding:
            clock = [time.perf_counter()]
            image = open_image(source, name, self.classifier.decoding, recipe.resize_to)
            clock.append(time.perf_counter())
            square = resize_crop(image, recipe)
            clock.append(time.perf_counter())
            del image
            normalize(square, recipe, prepared[0])
            clock.append(time.perf_counter())
        answer: Future[Tuple[np.ndarray, float, float]] = Future()
        with self._change:
            heapq.heappush(self._queue, _Waiting(ticket, prepared, clock[-1], answer))
            self._change.notify_all()
        logits, waited, ran = answer.result()
        waited += clock[0] - came
        self.classifier.finite(logits[None], [name])
        decode, resize, normalise = ((end - start) * 1e3 for start, end in zip(clock, clock[1:]))
        spent = {"decode": decode, "resize": resize, "normalise": normalise, "wait": waited * 1e3, "network": ran * 1e3}
        return Classified(self.classifier.predictions(logits[None], top)[0], spent)

    def _live(self) -> None:
        while True:
            with self._change:
                while not self._queue:
                    if self._closing and not self._admitted:
                        return
                    self._change.wait()
                batch = [
                    heapq.heappop(self._queue) for _ in range(min(len(self._queue), self.classifier.backend.batch))
                ]
            began = time.perf_counter()
            try:
                images = [each.batch for each in batch]
                logits = self.classifier.logits(images[0] if len(images) == 1 else np.concatenate(images))
            except BaseException as error:  # the library's own: each of them gets it
                for each in batch:
                    each.answer.set_exception(error)
                continue
            ran = time.perf_counter() - began
            for each, row in zip(batch, logits):
                each.answer.set_result((row, began - each.came, ran))

    def close(self) -> None:
        """Waits for the images that were admitted, then frees the network."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        self.classifier.close()


class Reloading:
    """The model that answers now. `check` replaces it when its artifact's file was replaced by another one."""

    def __init__(self, opened: Callable[[], Classifier], waiting: int = WAITING) -> None:
        """`opened` opens the classifier; again for each new artifact. Raises UserError as it does."""
        self._opened, self._waiting = opened, waiting
        self.current = Model(opened(), waiting)
        self._seen = _stamp(self.current.classifier.artifact.path)

    def classify(self, source: Source, name: str, top: int) -> Classified:
        """As Model.classify, by the model that answers now; an image is never lost to a replacement."""
        while True:
            try:
                return self.current.classify(source, name, top)
            except _Replaced:
                continue

    def check(self) -> Optional[str]:
        """Opens the artifact anew if it changed: what happened, in words. The old model answers until the new one is ready,
        and finishes what it has. An artifact that can't be opened leaves the old model in place."""
        path = self.current.classifier.artifact.path
        stamp = _stamp(path)
        if stamp is None or stamp == self._seen:
            return None
        self._seen = stamp
        try:
            fresh = Model(self._opened(), self._waiting)
        except UserError as error:
            return f"the artifact changed and can't be used, so the one before goes on: {error}"
        before, self.current = self.current, fresh
        threading.Thread(target=before.close, name="model before", daemon=True).start()
        return f"a new {path.name} answers from now on"


def _stamp(path: Path) -> Optional[Tuple[int, int, int]]:
    """What differs once a file was replaced (artifacts are renamed into place, so there is always a whole one)."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
