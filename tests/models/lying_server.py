"""A server that truncates, stalls, lies and changes its mind, request by request as a test tells it."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

from tests.patience import LONG

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Answer:
    """How the server treats one request; as it stands, honestly."""

    body: bytes = BODY
    status: int = 0  # 0: 200 or 206, as asked
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True  # honours Range
    skew: int = 0  # added to the first byte that Content-Range names
    stop: int | None = None  # ends after so many bytes of the body ...
    ending: str = "close"  # ... "close", "reset" or "stall"
    length: int | None = None  # the Content-Length, if not the true one; -1: none
    chunked: bool = False


class Handler(BaseHTTPRequestHandler):
    server: Site
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        site = self.server
        answer = site.answers.pop(0) if site.answers else Answer()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and answer.ranges else 0
        status = answer.status or (206 if start else 200)
        if not answer.status and start >= len(answer.body):
            status = 416
        payload = answer.body[start:] if status in (200, 206) else b""
        request = Request(self.path, dict(self.headers), status, 0)
        site.requests.append(request)
        site.stalled = False

        self.send_response(status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + answer.skew}-{len(answer.body) - 1}/{len(answer.body)}")
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length != -1:
            self.send_header("Content-Length", str(len(payload) if answer.length is None else answer.length))
        self.end_headers()

        payload = payload[: answer.stop]
        request.sent = len(payload)  # before: the client may look as soon as it has the last byte
        if answer.stop is not None and answer.ending == "stall":
            site.stalled = True
        if answer.chunked:
            for at in range(0, len(payload), 50_000):
                piece = payload[at : at + 50_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if answer.stop is None:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(payload)
        if answer.stop is not None and answer.ending == "stall":
            site.released.wait(LONG)
        if answer.stop is not None and answer.ending == "reset":
            sleep(0.03)  # a reset discards what the client has not read yet
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())

    def log_message(self, *args: object) -> None:
        pass


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    status: int
    sent: int


class Site(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, honestly when they have run out."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.start_over()

    def start_over(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.stalled = False  # whether the last request was answered in part, and waits
        self.released = threading.Event()  # ends the stalls
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}/b0.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients hang up here all the time

    @property
    def ranges(self) -> list[str | None]:
        return [request.headers.get("Range") for request in self.requests]
