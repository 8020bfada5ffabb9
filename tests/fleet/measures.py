"""python -m tests.fleet.measures ADDRESS: has this node to itself until its standard input ends."""

import sys

from runtime.fleet.reservation import alone

if __name__ == "__main__":
    with alone(sys.argv[1], lambda text: print(text, flush=True)):
        import ray

        here = ray.get_runtime_context().get_node_id()
        free = ray._private.state.available_resources_per_node()[here].get("CPU", 0.0)
        print(f"alone, {free:g} CPUs free", flush=True)
        sys.stdin.read()
        print("over", flush=True)
