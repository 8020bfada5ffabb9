"""A job over all images: Ray's tasks read and decode on CPUs, its actors answer. Here is decided what runs when, and what is done
again after a node was lost."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from itertools import count
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import ray

from ..errors import UserError
from ..images.preprocess import Preprocessing
from .actor import Answerer, Answering, Job, Part
from .decoding import Failed, Listing, decode
from .groups import Groups
from .options import Fleet

_ATTEMPTS = 4  # of a group, on whatever node, before the job is given up
_AT_ACTOR = 2  # groups that an actor has: one that it answers, and the next


class Failure(RuntimeError):
    """A bug of ours on a node, with its traceback."""


class Share(NamedTuple):
    """What a job takes of the cluster."""

    actors: int
    actor_cpus: float
    decode_cpus: float


def share_of(fleet: Fleet) -> Share:
    """Raises UserError if the cluster can't hold one actor.

    An actor on the CPU and the decoding that feeds it share the cores: which of the two has more to do depends on network and
    images, and the pool waits for the slower one anyway. So an actor reserves three quarters of its threads, and a decoding
    task a quarter of a core: with all actors at work, there is still one such task for each thread.
    """
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    if fleet.gpus:
        actors = fleet.actors or math.floor(gpus / fleet.gpus)
        if gpus < fleet.gpus or not actors:
            raise UserError(f"The cluster has {gpus:g} GPUs, and an actor is to have {fleet.gpus:g}: see --ray-gpus.")
        return Share(actors, 0.75, 1.0 if cpus >= 2 * actors else 0.25)
    actors = fleet.actors or max(1, int(cpus) // fleet.threads)
    if cpus < 0.75 * fleet.threads + 0.25:
        raise UserError(
            f"The cluster has {cpus:g} CPUs, too few for a model with {fleet.threads} threads: --threads sets them."
        )
    return Share(actors, 0.75 * fleet.threads, 0.25)


def answering_of(job: Job, fleet: Fleet, share: Share) -> Answering:
    """What answers on a node of the cluster: found out by opening the models there once. Raises UserError as that does."""
    probe = ray.remote(num_cpus=share.actor_cpus, num_gpus=fleet.gpus, max_retries=3)(_answering)
    return _checked(ray.get(probe.remote(job)))


def _answering(job: Job) -> Any:
    return Answerer(job).open()


class Running:
    """A job under way, as a context that stops what still runs: leave it before Ray is left.

    Decoding takes whatever CPUs are free, but never so far ahead of the actors that it fills the memory.

    A group whose node is lost begins anew. An actor that is lost gets a successor, which gets work once its models are open:
    it may never find a place, if the node doesn't come back.
    """

    def __init__(
        self,
        job: Job,
        groups: Groups,
        missing: Sequence[int],
        listing: Listing,
        recipes: List[Preprocessing],
        fleet: Fleet,
        share: Share,
        answering: Answering,
    ) -> None:
        self.groups, self.listing = groups, listing
        self.todo: Deque[int] = deque(missing)
        self.attempts: Counter = Counter()  # by group
        self.decoding: Dict[Any, int] = {}  # ref of a task -> its group
        self.decoded: Deque[Tuple[int, Any]] = deque()  # (group, ref), which wait for an actor
        self.actors: Dict[int, Any] = {}  # those that live, by a number
        self.opening: Dict[Any, int] = {}  # ref -> actor
        self.room: Deque[int] = deque()  # actors, once for each group that they can take
        self.answers: Dict[Any, Tuple[int, int]] = {}  # ref -> (group, actor)
        self.ahead = 2 * _AT_ACTOR * share.actors + int(ray.cluster_resources().get("CPU", 1))
        # Three times, not for ever: an image that kills Pillow takes the process along each time.
        task = ray.remote(num_cpus=share.decode_cpus, max_retries=3, retry_exceptions=[ray.exceptions.RayError])(decode)
        self.decode = lambda group: task.remote(*groups.span(group), listing, recipes, job.decoding)
        actor = ray.remote(num_cpus=share.actor_cpus, num_gpus=fleet.gpus, max_restarts=0)(Answerer)
        self.new_actor = lambda: actor.remote(job, answering)
        self.numbers = count()
        for _ in range(min(share.actors, len(missing))):
            self.open_actor()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for ref in self.decoding:
            ray.cancel(ref, force=True)
        for actor in self.actors.values():
            ray.kill(actor)

    def parts(self) -> Iterator[Tuple[int, Part]]:
        """(group, what is done of it) of each of those that are `missing`, once, as they get done.

        Raises UserError if a group fails again and again, and Failure for a bug of ours.
        """
        while self.todo or self.decoding or self.decoded or self.answers:
            while self.todo and len(self.decoding) + len(self.decoded) < self.ahead:
                first = self.todo.popleft()
                self.decoding[self.decode(first)] = first
            while self.decoded and self.room:
                (ready, squares), number = self.decoded.popleft(), self.room.popleft()
                self.answers[self.actors[number].answer.remote(squares)] = ready, number
            for ref in ray.wait([*self.answers, *self.opening, *self.decoding], fetch_local=False)[0]:
                if ref in self.decoding:
                    self.decoded.append((self.decoding.pop(ref), ref))
                    continue
                group: Optional[int] = None
                if ref in self.answers:
                    group, number = self.answers.pop(ref)
                else:
                    number = self.opening.pop(ref)
                try:
                    found = _checked(ray.get(ref))
                except ray.exceptions.RayError as error:
                    self.lost(group, number, error)
                    continue
                self.room.extend([number] * (1 if group is not None else _AT_ACTOR))
                if group is not None:
                    yield group, found

    def open_actor(self) -> None:
        number = next(self.numbers)
        self.actors[number] = self.new_actor()
        self.opening[self.actors[number].open.remote()] = number

    def lost(self, group: Optional[int], number: int, error: Exception) -> None:
        """A node is gone: the actor's, or the one that held the squares. Raises UserError if that is so again and again."""
        if not isinstance(error, ray.exceptions.RayActorError):
            self.room.append(number)
        elif self.actors.pop(number, None) is not None:  # the first that is heard of it
            self.room = deque(other for other in self.room if other != number)
            self.open_actor()
        if group is None:
            return
        self.attempts[group] += 1
        if self.attempts[group] < _ATTEMPTS:
            self.todo.appendleft(group)
            return
        start, stop = self.groups.span(group)
        first, last = (self.listing.entries(at, at + 1)[0].name for at in (start, stop - 1))
        raise UserError(
            f"The cluster can't do the images from {first} to {last} ({str(error).strip().splitlines()[0]}): try those on one "
            "machine, and look at the cluster's logs."
        )


def _checked(found: Any) -> Any:
    """What a node gave. Raises UserError or Failure with what went wrong there."""
    if isinstance(found, Failed):
        raise (UserError if found.by_user else Failure)(found.reason)
    if isinstance(found, Part) and found.lost and os.path.exists(found.lost):
        raise UserError(
            f"{found.node} does not see {found.lost}, which is here: put the images where every node has them at the same "
            "path, or name a URL."
        )
    return found
