"""The HTTP endpoint beside the bare Classifier, in turns, while two viewers watch; or many requests, one in ten damaged.

    python tests/benchmarks/http_load.py --model artifacts/lite0/lite0.fp32.onnx [--seconds 60] [--json file]
    python tests/benchmarks/http_load.py --model artifacts/lite0/lite0.fp32.onnx --requests 10000

The bare Classifier runs in this process, with one thread of calls or eight, on the same bytes. The server's live loop
classifies five frames a second all the while, in both turns.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from runtime import Classifier  # noqa: E402
from runtime.networks.pipeline import lanes_here  # noqa: E402

CORGI = ROOT / "tests" / "data" / "corgi.jpg"
ROUNDS = 4


@contextlib.contextmanager
def server(model: str, folder: Path) -> Iterator[int]:
    """Its port; it watches a video of an hour at five frames a second."""
    import cv2

    video = str(folder / "video.avi")
    written = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 5, (320, 240))
    image = cv2.resize(cv2.imread(str(CORGI)), (360, 240))
    for number in range(5 * 3600):
        written.write(np.ascontiguousarray(image[:, number % 40 : number % 40 + 320]))
    written.release()
    command = [sys.executable, "-m", "runtime.serve", video, "--rate", "5", "--port", "0", "--model", model]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.match(r"http://[^:]+:(\d+)/", line)
            if found:
                yield int(found[1])
                break
    finally:
        process.terminate()
        print((process.stderr.read() or "").strip().splitlines()[-1:], file=sys.stderr)
        process.wait()


def viewers(port: int, stop: threading.Event) -> None:
    """Two, each as fast as frames come."""

    def view() -> None:
        connection, seen = http.client.HTTPConnection("127.0.0.1", port, timeout=60), -1
        while not stop.is_set():
            for path in (f"/live?after={seen}", "/live.jpg"):
                connection.request("GET", path)
                content = connection.getresponse().read()
                if path.startswith("/live?"):
                    seen = json.loads(content)["frame"]

    for _ in range(2):
        threading.Thread(target=view, daemon=True).start()


def timed(call: Callable[[], Any], clients: int, seconds: float) -> List[float]:
    """Seconds of each of `call`'s calls by so many threads."""
    spent: List[List[float]] = [[] for _ in range(clients)]
    end = time.perf_counter() + seconds

    def one(mine: List[float]) -> None:
        while True:
            began = time.perf_counter()
            if began > end:
                return
            call()
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=one, args=(mine,)) for mine in spent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for mine in spent for each in mine]


class Client(threading.local):
    """A connection for each thread, kept open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, body: bytes) -> int:
        self.connection.request("POST", "/classify", body)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


def compare(port: int, model: str, seconds: float) -> List[Dict[str, Any]]:
    """Rows of (way, clients), measured in turns."""
    image, client = CORGI.read_bytes(), Client(port)
    one, several = Classifier(model), Classifier(model, lanes=lanes_here())
    ways: Dict[Any, Callable[[], Any]] = {
        ("Classifier", 1): lambda: one(image),
        ("HTTP", 1): lambda: client.ask(image),
        ("Classifier", 8): lambda: several(image),
        ("HTTP", 8): lambda: client.ask(image),
    }
    spent: Dict[Any, List[List[float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, call in ways.items():
            spent[way].append(timed(call, way[1], seconds / ROUNDS / len(ways)))
    rows = []
    for (name, clients), rounds in spent.items():
        times = sorted(each for round_ in rounds for each in round_)
        rate = len(times) / (seconds / len(ways))
        p99 = times[int(0.99 * (len(times) - 1))]
        rows.append(
            {
                "way": name,
                "clients": clients,
                "p50_ms": statistics.median(times) * 1e3,
                "p99_ms": p99 * 1e3,
                "rate": rate,
            }
        )
    return rows


def memory(port: int) -> float:
    """MB that the process listening on `port` holds."""
    inode = next(
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    )
    for folder in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(folder.readlink()) == f"socket:[{inode}]":
                status = (folder.parents[1] / "status").read_text()
                return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3  # type: ignore[index]
    return 0.0


def endure(port: int, requests: int) -> Dict[str, Any]:
    """So many requests by eight clients, one in ten a damaged image: answers by status, and memory every tenth."""
    image, client, lock = CORGI.read_bytes(), Client(port), threading.Lock()
    found: Dict[str, int] = {}
    sizes: List[float] = []
    left = iter(range(requests))

    def ask() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            status = client.ask(image[: len(image) // 2] if number % 10 == 0 else image)
            with lock:
                found[str(status)] = found.get(str(status), 0) + 1
                if number % max(1, requests // 10) == 0:
                    sizes.append(round(memory(port), 1))
                    print(f"{number} of {requests}, {sizes[-1]} MB", file=sys.stderr)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"statuses": found, "megabytes": [*sizes, round(memory(port), 1)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (default 60)")
    parser.add_argument("--requests", type=int, help="count answers and memory instead of timing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder, server(str(Path(options.model).resolve()), Path(folder)) as port:
        viewers(port, stop)
        if options.requests:
            result: Any = endure(port, options.requests)
            print(f"answers by status: {result['statuses']}; MB: {result['megabytes']}")
        else:
            result = compare(port, options.model, options.seconds)
            print("way         clients   p50 ms   p99 ms  images a second")
            for row in result:
                print(
                    f"{row['way']:<11} {row['clients']:>7} {row['p50_ms']:>8.1f} {row['p99_ms']:>8.1f} {row['rate']:>16.1f}"
                )
            bare_1, http_1, bare_8, http_8 = result
            print(f"one client: HTTP takes {http_1['p50_ms'] / bare_1['p50_ms']:.2f} of the Classifier's time (p50)")
            print(f"eight clients: HTTP has {http_8['rate'] / bare_8['rate']:.2f} of the Classifier's throughput")
        stop.set()
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
