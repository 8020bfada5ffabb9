"""A node to oneself: what measures latency is the only thing that Ray runs there."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator

from .cluster import joined

_PAUSE = 5.0  # s of waiting before it is said


@contextlib.contextmanager
def alone(address: str, say: Callable[[str], None]) -> Iterator[None]:
    """Holds all CPUs and GPUs that the cluster at `address` has on this very machine, until the end or this process's death.

    Every task and actor of the project takes a part of a CPU, so none of them runs here meanwhile, and a second process that
    wants the node for itself waits. Waits for what runs here now. Raises UserError if there is no such cluster.
    """
    with joined(address) as ray:
        held = _hold(ray, say)
        try:
            yield
        finally:
            if held is not None:
                ray.kill(held)


def _hold(ray: Any, say: Callable[[str], None]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    there: Dict[str, float] = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    if not cpus and not gpus:  # a head that takes no work
        return None
    place = NodeAffinitySchedulingStrategy(here, soft=False)
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus)(_Holder).options(scheduling_strategy=place).remote()
    ready = actor.ready.remote()
    if not ray.wait([ready], timeout=_PAUSE)[0]:
        say("waiting for this node to have nothing else to do")
    ray.get(ready)
    return actor


class _Holder:
    def ready(self) -> bool:
        return True
