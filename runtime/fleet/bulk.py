"""A job over all images: Ray Data reads and decodes on CPUs and answers in a pool of actors; here is kept what is done."""

from __future__ import annotations

import contextlib
import json
import math
import os
from typing import Any, Generator, List, NamedTuple, Sequence, Set

import ray
from ray.data import ActorPoolStrategy, DataContext

from ..errors import UserError
from ..images.preprocess import Preprocessing
from .actor import Classify, Facts, Job, Networks
from .decoding import Listing, Pictures
from .groups import Groups
from .options import Fleet

_LEAVING = 60.0  # s
_ROUNDS = 3  # without a single group done, before the job is given up


class Part(NamedTuple):
    """A group that is done."""

    group: int
    pictures: int
    unreadable: int
    answered: str  # by which library on which processor
    table: bytes  # as the job's form makes it
    bad: bytes  # the same of the unreadable; b"": there are none


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


def facts_of(job: Job, fleet: Fleet, share: Share) -> Facts:
    """What answers on a node of the cluster: found out by opening the models there once. Raises UserError as that does."""
    probe = ray.remote(num_cpus=share.actor_cpus, num_gpus=fleet.gpus, max_retries=3)(_facts)
    found = ray.get(probe.remote(job))
    if isinstance(found, str):
        raise UserError(found)
    return found


def _facts(job: Job) -> Any:
    try:
        return Networks(job).facts()
    except UserError as error:
        return str(error)


def run_job(
    job: Job,
    groups: Groups,
    missing: Sequence[int],
    listing: Listing,
    recipes: List[Preprocessing],
    fleet: Fleet,
    share: Share,
    facts: Facts,
) -> Generator[Part, None, None]:
    """The groups that are `missing`, each once, as they get done.

    A node that is lost takes groups with it: they are done in another round, by the nodes that are there then.
    Raises UserError if nothing can be done any more.
    """
    left: Set[int] = set(missing)
    idle = 0
    while left:
        before, reason = len(left), "its nodes are lost again and again"
        try:
            with contextlib.closing(_round(job, groups, sorted(left), listing, recipes, fleet, share, facts)) as parts:
                for part in parts:
                    if part.group in left:  # Ray may run a task again after its answer was taken
                        left.discard(part.group)
                        yield part
        except Failure:
            raise
        except (
            ray.exceptions.RayError,
            RuntimeError,
        ) as error:  # the second: Ray Data's, on nodes too busy to answer it
            reason = str(error).strip().splitlines()[0]
        idle = idle + 1 if len(left) == before else 0
        if idle == _ROUNDS:
            start, stop = groups.span(min(left))
            first, *_, last = listing.entries(start, min(start + 2, stop))[:1] + listing.entries(stop - 1, stop)
            raise UserError(
                f"The cluster can't do what is missing, {len(left)} of {len(groups)} groups, the first of them {first.name} to "
                f"{last.name} ({reason}): try those on one machine, and look at the cluster's logs."
            )


def _round(
    job: Job,
    groups: Groups,
    missing: Sequence[int],
    listing: Listing,
    recipes: List[Preprocessing],
    fleet: Fleet,
    share: Share,
    facts: Facts,
) -> Generator[Part, None, None]:
    # A task that its node took along is left out, not waited for: its actor may never find a place again (Ray Data would keep the
    # task for it), and the next round knows what is missing. Errors of ours are in the rows, see Classify.
    DataContext.get_current().max_errored_blocks = -1
    pictures = Pictures(groups, missing, listing, recipes, job.decoding)
    decoding = {
        "num_cpus": share.decode_cpus,
        "max_retries": 3,
    }  # Ray Data's own would try an image that kills Pillow for ever
    read = ray.data.read_datasource(pictures, override_num_blocks=len(missing), ray_remote_args=decoding)
    answers = read.map_batches(
        Classify,
        fn_constructor_args=(job, facts),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=share.actor_cpus,
        num_gpus=fleet.gpus or None,
        compute=ActorPoolStrategy(size=min(share.actors, len(missing)), max_tasks_in_flight_per_actor=2),
        max_restarts=-1,
        max_task_retries=0,
    )
    # Not iter_batches: its threads, and Ray Data's own, may call Ray after `ray.shutdown` when a job is over before its end, and
    # Ray then ends the process without a word of ours. iter_internal_ref_bundles hides the executor, which has to be ended.
    bundles, _, executor = answers._execute_to_iterator()
    try:
        for block in (block for bundle in bundles for block in bundle.block_refs):
            try:
                batch = ray.get(block)
            except ray.exceptions.RayError:  # on a node that was lost meanwhile
                continue
            for text, table, bad in zip(*(batch.column(name) for name in ("found", "table", "bad"))):
                yield _checked(json.loads(text.as_py()), table.as_py(), bad.as_py())
    finally:
        if executor is not None:
            executor.shutdown(force=True)  # waits 2 s
            executor.join(_LEAVING)


def _checked(found: Any, table: bytes, bad: bytes) -> Part:
    """Raises UserError or Failure with what went wrong on the node."""
    if found["failure"]:
        raise (UserError if found["user"] else Failure)(found["failure"])
    if found["lost"] and os.path.exists(found["lost"]):
        raise UserError(
            f"{found['node']} does not see {found['lost']}, which is here: put the images where every node has them at the "
            "same path, or name a URL."
        )
    return Part(found["group"], found["pictures"], found["unreadable"], found["answered"], table, bad)
