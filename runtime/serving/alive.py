"""Whether the processes behind Triton's Python models are alive, and a way to bring them back.

Triton 2.51 neither restarts such a process nor says so: /v2/health/ready and a model's own stay 200 while every request
fails (github.com/triton-inference-server/server issues 7230 and 8604). So this asks each model something small, and with
--reload loads anew what answers that its process is gone, for which the server must run with --model-control-mode=explicit.

One file and the standard library, to lie in a container by itself: a liveness probe, or a loop with --every.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional, Sequence

TIMEOUT = 10.0  # seconds for an answer
LOADING = 120.0  # seconds for a model to load
_DEAD = "stub process"  # what Triton says of a process that is gone
_TYPES = {"TYPE_STRING": "BYTES"}  # of an input, as a request calls it; all others lose their TYPE_


class NoAnswer(Exception):
    """The server did not answer as Triton does; the text says how it did."""


def check(url: str, reload: bool = False) -> List[str]:
    """What is wrong with the server's Python models, a sentence each; with `reload`, what still is after it.

    Raises NoAnswer if the server itself does not answer.
    """
    wrong = []
    for name in _ready(url):
        config = _ask(url, f"models/{name}/config")
        if config.get("backend") != "python" or not _dead(url, config):
            continue
        if not reload:
            wrong.append(f"{name}: its process is gone")
            continue
        before = _ready(url)
        _ask(url, f"repository/models/{name}/unload", {})
        for each in [name, *(other for other in before if other != name)]:  # ensembles went with it
            if each not in _ready(url):
                _ask(url, f"repository/models/{each}/load", {}, LOADING)
        wrong += [f"{name}: its process is gone again"] if _dead(url, config) else []
        print(f"{name}: its process was gone; loaded anew", file=sys.stderr, flush=True)
    return wrong


def _ready(url: str) -> List[str]:
    return sorted({row["name"] for row in _ask(url, "repository/index", {}) if row.get("state") == "READY"})


def _dead(url: str, config: Dict[str, Any]) -> bool:
    """Whether one of the model's processes is gone. All that is known of which one answers is that it is one of them."""
    shape = [1] if int(config.get("max_batch_size", 0)) else []
    inputs = []
    for each in config["input"]:
        dims = [max(1, int(size)) for size in each["dims"]]
        count = 1
        for size in dims:
            count *= size
        text = each["data_type"] == "TYPE_STRING"
        kind = _TYPES.get(each["data_type"], each["data_type"][len("TYPE_") :])
        data: List[Any] = [""] * count if text else [0] * count
        inputs.append({"name": each["name"], "datatype": kind, "shape": shape + dims, "data": data})
    processes = sum(int(group.get("count", 1)) for group in config.get("instance_group", ())) or 1

    def gone(_: int) -> bool:
        try:
            _ask(
                url,
                f"models/{config['name']}/infer",
                {"inputs": inputs, "outputs": [{"name": config["output"][-1]["name"]}]},
            )
        except NoAnswer as error:
            if _DEAD not in str(error).lower():
                raise
            return True
        return False

    with ThreadPoolExecutor(2 * processes) as pool:
        return any(list(pool.map(gone, range(2 * processes if processes > 1 else 1))))


def _ask(url: str, path: str, content: Optional[Dict[str, Any]] = None, timeout: float = TIMEOUT) -> Any:
    data = None if content is None else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{url}/v2/{path}", data), timeout=timeout) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise NoAnswer(f"{path}: {error.code} {error.read().decode(errors='replace')[:300]}") from None
    except (OSError, ValueError) as error:
        raise NoAnswer(f"{url} does not answer as a Triton server: {error}") from None


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description="Asks a Triton server's Python models whether their processes are alive."
    )
    parser.add_argument("--url", default="localhost:8000", metavar="HOST:PORT", help="(default: localhost:8000)")
    parser.add_argument(
        "--reload", action="store_true", help="load anew what is not: needs --model-control-mode=explicit"
    )
    parser.add_argument("--every", type=float, metavar="S", help="again every S seconds, until interrupted")
    options = parser.parse_args(argv)
    while True:
        try:
            wrong = check(options.url, options.reload)
        except NoAnswer as error:
            wrong = [str(error)]
        for line in wrong:
            print(line, file=sys.stderr, flush=True)
        if options.every is None:
            return 1 if wrong else 0
        time.sleep(options.every)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
