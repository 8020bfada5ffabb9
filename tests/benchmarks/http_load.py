"""The HTTP endpoint beside the bare Classifier, in turns, while two viewers watch; or many requests, one in ten damaged.

    python tests/benchmarks/http_load.py --model artifacts/lite0/lite0.fp32.onnx [--seconds 60] [--json file]
    python tests/benchmarks/http_load.py --model artifacts/lite0/lite0.fp32.onnx --requests 10000

The bare Classifier runs in this process, with one thread of calls or eight, and decodes the same bytes. All the while, in
the Classifier's turns too, the server's live loop classifies five frames a second and two viewers fetch each of them. The
clients of HTTP and the viewers are processes of their own, so that they take nothing of Python's lock from either; the clients
send requests made before, over connections kept open, for their time on the cores counts against the server.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from runtime import Classifier  # noqa: E402
from runtime.networks.pipeline import lanes_here  # noqa: E402

CORGI = ROOT / "tests" / "data" / "corgi.jpg"
ROUNDS = 4


@contextlib.contextmanager
def server(model: str, folder: Path) -> Iterator[Tuple[int, int]]:
    """Its port and process; it watches a video of half an hour at five frames a second."""
    import cv2

    video = str(folder / "video.avi")
    written = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 5, (320, 240))
    image = cv2.resize(cv2.imread(str(CORGI)), (360, 240))
    for number in range(5 * 1800):
        written.write(np.ascontiguousarray(image[:, number % 40 : number % 40 + 320]))
    written.release()
    command = [sys.executable, "-m", "runtime.serve", video, "--rate", "5", "--port", "0", "--model", model]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.match(r"http://[^:]+:(\d+)/", line)
            if found:
                yield int(found[1]), process.pid
                break
    finally:
        process.terminate()
        print((process.stderr.read() or "").strip().splitlines()[-1:], file=sys.stderr)
        process.wait()


def view(port: int) -> None:
    """Two viewers, each as fast as frames come."""

    def one() -> None:
        connection, seen = http.client.HTTPConnection("127.0.0.1", port, timeout=60), -1
        while True:
            for path in (f"/live?after={seen}", "/live.jpg"):
                connection.request("GET", path)
                content = connection.getresponse().read()
                if path.startswith("/live?"):
                    seen = json.loads(content)["frame"]

    threading.Thread(target=one, daemon=True).start()
    one()


class Client:
    """A connection that is kept open."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 60)

    def send(self, request: bytes) -> None:
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def answer(self) -> int:
        """Reads it whole; its status."""
        content = b""
        while b"\r\n\r\n" not in content:
            content += self._more()
        head, _, body = content.partition(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0]) - len(body)
        while left > 0:
            left -= len(self._more())
        return int(head.split(None, 2)[1])

    def _more(self) -> bytes:
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("the server closed the connection")
        return piece


def request(image: bytes) -> bytes:
    return b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(image) + image


def load(port: int, orders: Any) -> None:
    """Answers each (clients, seconds) from `orders` with the seconds of each request and of all together. One thread for all."""
    image = request(CORGI.read_bytes())
    while True:
        count, seconds = orders.recv()
        every = [Client(port) for _ in range(count)]  # anew: the server closes those that ask nothing for 10 s
        spent: List[float] = []
        began = time.perf_counter()
        with selectors.DefaultSelector() as waiting:
            for client in every:
                waiting.register(client.socket, selectors.EVENT_READ, client)
                client.send(image)
            while waiting.get_map():
                for key, _ in waiting.select():
                    status, now = key.data.answer(), time.perf_counter()
                    assert status == 200, f"the server answers {status}"
                    spent.append(now - key.data.began)
                    if now < began + seconds:
                        key.data.send(image)
                    else:
                        waiting.unregister(key.fileobj)
        orders.send((spent, time.perf_counter() - began))


def called(call: Callable[[], Any], clients: int, seconds: float) -> Tuple[List[float], float]:
    """As `load`, of `call` by so many threads."""
    spent: List[List[float]] = [[] for _ in range(clients)]
    began = time.perf_counter()

    def one(mine: List[float]) -> None:
        while True:
            before = time.perf_counter()
            if before > began + seconds:
                return
            call()
            mine.append(time.perf_counter() - before)

    threads = [threading.Thread(target=one, args=(mine,)) for mine in spent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for mine in spent for each in mine], time.perf_counter() - began


def processor_ms(*processes: int) -> float:
    """Milliseconds of processor time that these have used, to 10 ms."""
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) * 1e3 / os.sysconf("SC_CLK_TCK")


def compare(port: int, process: int, model: str, seconds: float) -> List[Dict[str, Any]]:
    """Rows of (way, clients), measured in turns. `core_ms`: processor time an image, of server, clients and this process."""
    image = CORGI.read_bytes()
    one, several = Classifier(model), Classifier(model, lanes=lanes_here())
    orders, others = multiprocessing.Pipe()
    clients_of_http = multiprocessing.get_context("spawn").Process(target=load, args=(port, others), daemon=True)
    clients_of_http.start()
    others.close()

    def http(clients: int, seconds: float) -> Tuple[List[float], float]:
        orders.send((clients, seconds))
        return orders.recv()

    ways: Dict[Tuple[str, int], Callable[[int, float], Tuple[List[float], float]]] = {
        ("Classifier", 1): lambda clients, seconds: called(lambda: one(image), clients, seconds),
        ("HTTP", 1): http,
        ("Classifier", 8): lambda clients, seconds: called(lambda: several(image), clients, seconds),
        ("HTTP", 8): http,
    }
    found: Dict[Tuple[str, int], List[Tuple[List[float], float, float]]] = {way: [] for way in ways}
    processes = process, os.getpid(), clients_of_http.pid or 0
    for turn in range(ROUNDS + 1):
        for (name, clients), measured in ways.items():
            before = processor_ms(*processes)
            times, took = measured(clients, seconds / ROUNDS / len(ways) if turn else 0.3)
            if turn:  # the first is for warming up
                found[name, clients].append((times, took, processor_ms(*processes) - before))
    clients_of_http.kill()
    rows = []
    for (name, clients), turns in found.items():
        times = sorted(each for spent, _, _ in turns for each in spent)
        rows.append(
            {
                "way": name,
                "clients": clients,
                "p50_ms": statistics.median(times) * 1e3,
                "p99_ms": times[int(0.99 * (len(times) - 1))] * 1e3,
                "rate": len(times) / sum(took for _, took, _ in turns),
                "core_ms": sum(used for _, _, used in turns) / len(times),
            }
        )
    return rows


def endure(port: int, process: int, requests: int) -> Dict[str, Any]:
    """So many requests by eight clients, one in ten a damaged image: answers by status, and the server's memory every tenth."""
    image, lock = CORGI.read_bytes(), threading.Lock()
    good, damaged = request(image), request(image[: len(image) // 2])
    found: Dict[str, int] = {}
    sizes: List[float] = []
    left = iter(range(requests))

    def ask() -> None:
        client = Client(port)
        while True:
            with lock:
                number = next(left, requests)
                if number % max(1, requests // 10) == 0 and len(sizes) <= 10:
                    status = Path(f"/proc/{process}/status").read_text()
                    sizes.append(round(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1e3, 1))
                    print(f"{number} of {requests}, {sizes[-1]} MB", file=sys.stderr)
            if number >= requests:
                return
            client.send(damaged if number % 10 == 0 else good)
            status = str(client.answer())
            with lock:
                found[status] = found.get(status, 0) + 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"statuses": found, "megabytes": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (default 60)")
    parser.add_argument("--requests", type=int, help="count answers and memory instead of timing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(str(Path(options.model).resolve()), Path(folder)) as (
        port,
        pid,
    ):
        watching = multiprocessing.get_context("spawn").Process(target=view, args=(port,), daemon=True)
        watching.start()
        if options.requests:
            result: Any = endure(port, pid, options.requests)
            print(f"answers by status: {result['statuses']}; MB: {result['megabytes']}")
        else:
            result = compare(port, pid, options.model, options.seconds)
            print("way         clients   p50 ms   p99 ms  images a second  core ms an image")
            for row in result:
                print(
                    f"{row['way']:<11} {row['clients']:>7} {row['p50_ms']:>8.1f} {row['p99_ms']:>8.1f} {row['rate']:>16.1f} "
                    f"{row['core_ms']:>17.1f}"
                )
            bare_1, http_1, bare_8, http_8 = result
            print(f"one client: HTTP takes {http_1['p50_ms'] / bare_1['p50_ms']:.2f} of the Classifier's time (p50)")
            print(f"eight clients: HTTP has {http_8['rate'] / bare_8['rate']:.2f} of the Classifier's throughput")
        watching.kill()
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
