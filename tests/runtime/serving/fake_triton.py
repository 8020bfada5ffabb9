"""A few lines that answer as Triton does over HTTP (KServe's protocol with its binary extension), and fail when told to."""

from __future__ import annotations

import json
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Optional, Tuple

CONFIG: Dict[str, Any] = {
    "name": "lite0",
    "input": [{"name": "images", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [{"name": name} for name in ("class", "probability", "label", "error", "model")],
    "parameters": {"variant": {"string_value": "lite0"}, "precision": {"string_value": "fp32"}},
}
NETWORK: Dict[str, Any] = {**CONFIG, "name": "lite0_onnxruntime", "output": [{"name": "logits"}]}
TOLD = {"variant": "lite0", "precision": "fp32", "backend": "onnxruntime"}


class FakeTriton:
    """Answers an image with its own content as the label; one that says b"bad" is not readable."""

    def __init__(self) -> None:
        self.models = {
            "lite0": ("READY", ""),
            "lite0_onnxruntime": ("READY", ""),
            "broken": ("UNAVAILABLE", "no such file"),
        }
        self.failures: List[Tuple[int, str]] = []  # (status, message) of the next inferences
        self.slow: Dict[bytes, float] = {}  # image -> seconds until its answer
        self.pages: Optional[bytes] = None  # instead of all else: what another web server says
        self.asked: List[Tuple[bytes, int]] = []  # image, top
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(b"")

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def answer(self, body: bytes) -> None:
                length = int(self.headers.get("Inference-Header-Content-Length", 0))
                status, content, header = fake.answer(self.path, body, length)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if header:
                    self.send_header("Inference-Header-Content-Length", str(header))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: bytes, header: int) -> Tuple[int, bytes, int]:
        if self.pages is not None:
            return 200, self.pages, 0
        if path == "/v2/repository/index":
            rows = [
                {"name": name, "version": "1", "state": state, "reason": why}
                for name, (state, why) in self.models.items()
            ]
            return 200, json.dumps(rows).encode(), 0
        if path.endswith("/config"):
            return 200, json.dumps(NETWORK if path.endswith("_onnxruntime/config") else CONFIG).encode(), 0
        if self.failures:
            status, message = self.failures.pop(0)
            return status, json.dumps({"error": message}).encode(), 0
        picture, top = body[header + 4 :], json.loads(body[:header])["parameters"]["top"]
        self.asked.append((picture, top))
        time.sleep(self.slow.get(picture, 0.0))
        error = b"image: cannot be read." if picture == b"bad" else b""
        labels = [b""] * top if error else [picture + b" %d" % rank for rank in range(top)]
        outputs = [
            ("class", "INT32", struct.pack(f"<{top}i", *range(top))),
            ("probability", "FP32", struct.pack(f"<{top}f", *(0.5 / (rank + 1) for rank in range(top)))),
            ("label", "BYTES", b"".join(struct.pack("<I", len(label)) + label for label in labels)),
            ("error", "BYTES", struct.pack("<I", len(error)) + error),
            ("model", "BYTES", struct.pack("<I", len(json.dumps(TOLD))) + json.dumps(TOLD).encode()),
        ]
        wide = ("class", "probability", "label")
        head = json.dumps(
            {
                "model_name": "lite0",
                "model_version": "1",
                "outputs": [
                    {
                        "name": name,
                        "datatype": kind,
                        "shape": [1, top if name in wide else 1],
                        "parameters": {"binary_data_size": len(content)},
                    }
                    for name, kind, content in outputs
                ],
            }
        ).encode()
        return 200, head + b"".join(content for *_, content in outputs), len(head)
