"""`python -m runtime.serve` as a process, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from tests.patience import until

ROOT = Path(__file__).resolve().parents[3]


class Answer(NamedTuple):
    status: int
    headers: Dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """The server, its port and what it said on stderr."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log, self.port = process, log, 0

    def said(self) -> str:
        return self.log.read_text()

    def ask(self, method: str, path: str, body: Optional[bytes] = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())


@contextlib.contextmanager
def serving(folder: Path, log: Path, *arguments: object) -> Iterator[Running]:
    """A server with the model in `folder`, on a free port."""
    command: List[str] = [sys.executable, "-m", "runtime.serve", "--port", "0", *map(str, arguments)]
    environment = {**os.environ, "EFFICIENTNET_ARTIFACTS": str(folder), "PYTHONPATH": str(ROOT)}
    with open(log, "w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, text=True)
    running = Running(process, log)
    try:
        until(lambda: "http://" in running.said() or process.poll() is not None)
        found = re.search(r"http://[^ ]*:(\d+)/", running.said())
        assert found, running.said()
        running.port = int(found[1])
        yield running
    finally:
        process.kill()
        process.wait()
