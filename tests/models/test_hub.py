"""Weights from the Hugging Face hub, played by a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.hub import OnHub
from models.variants import VARIANTS
from models.weights import find_weights

pytest.importorskip("huggingface_hub", reason="the hub's library is not installed (the extra named hub)")
ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/tf_efficientnet_b0.aa_in1k"
CARD = b"---\ntags: [timm]\nlicense: apache-2.0\n---\nlicense: of something else\n"
FILES = {
    "model.safetensors": b"the weights",
    "config.json": b'{"architecture": "tf_efficientnet_b0"}',
    "README.md": CARD,
}
ONLY_PICKLE = {"pytorch_model.bin": b"code"}


class Hub(BaseHTTPRequestHandler):
    """What the hub's library asks for: the head of a file, which has the commit, and the file."""

    repositories = {REPOSITORY: FILES, "somebody/pickled": ONLY_PICKLE}

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        owner, _, rest = self.path[1:].partition("/")
        name, _, rest = rest.partition("/resolve/")
        revision, _, file = rest.partition("/")
        files = self.repositories.get(f"{owner}/{name}")
        error, content = "", b""
        if self.path != "/":
            if files is None:
                error = "RepoNotFound"
            elif revision not in ("main", COMMIT):
                error = "RevisionNotFound"
            elif file not in files:
                error = "EntryNotFound"
            else:
                content = files[file]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(404 if error else 200)
        for key, value in (("X-Error-Code", error), ("X-Repo-Commit", COMMIT), ("ETag", f'"{len(content)}"')):
            if value:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """.ask(...) fetches, one after the other, in a process of its own, since the library reads its settings once; .stop() ends
    the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"

    def ask(*given: str, **settings: str) -> list[dict[str, str]]:
        code = (
            "import sys, json; from models.hub import fetch; from runtime.errors import UserError\n"
            "for given in sys.argv[1:]:\n"
            "    try: found = fetch(given); print(json.dumps([str(found.path), *found[1:]]))\n"
            "    except UserError as error: print(json.dumps({'error': str(error)}))"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", **settings}
        # Not in time means that it asked again and again.
        done = subprocess.run(
            [sys.executable, "-c", code, *given],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert done.returncode == 0, done.stderr
        said = [json.loads(line) for line in done.stdout.splitlines()]
        return [each if isinstance(each, dict) else OnHub(Path(each[0]), *each[1:])._asdict() for each in said]

    def stop() -> None:
        server.shutdown()
        server.server_close()

    yield SimpleNamespace(ask=ask, stop=stop, address=address, asked=server.asked)  # type: ignore[attr-defined]
    stop()


def test_the_commit_is_known_and_what_was_fetched_is_there_without_a_network(hub: SimpleNamespace) -> None:
    found, of_commit = hub.ask(f"hf-hub:{REPOSITORY}", f"hf-hub:{REPOSITORY}@{COMMIT}")
    assert found["path"].read_bytes() == FILES["model.safetensors"]
    assert found["path"].with_name("config.json").is_file()  # which states the preprocessing
    assert (found["repository"], found["revision"], found["licence"]) == (REPOSITORY, COMMIT, "apache-2.0")
    assert of_commit == found
    hub.stop()
    assert hub.ask(f"hf-hub:{REPOSITORY}") == [found]


def test_what_cannot_be_had_is_a_sentence(hub: SimpleNamespace) -> None:
    asked = ("somebody/pickled", "somebody/nothing", f"{REPOSITORY}@v9", "../secret")
    pickled, nothing, revision, name = (each["error"] for each in hub.ask(*(f"hf-hub:{each}" for each in asked)))
    assert "no model.safetensors" in pickled and "could run code" in pickled
    assert not any("pytorch_model.bin" in path for path in hub.asked)
    assert (
        "no repository somebody/nothing" in nothing and "no revision 'v9'" in revision and "hf-hub:OWNER/NAME" in name
    )
    hub.stop()
    offline = hub.ask(f"hf-hub:{REPOSITORY}")[0]["error"]
    assert f"not reached ({hub.address}" in offline and "WEIGHTS=path" in offline
    assert "HF_HUB_OFFLINE" in hub.ask(f"hf-hub:{REPOSITORY}", HF_HUB_OFFLINE="1")[0]["error"]


def test_a_known_repository_brings_its_row_and_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = OnHub(tmp_path / "model.safetensors", REPOSITORY, COMMIT)
    monkeypatch.setattr("models.weights.fetch", lambda given, offline: there)
    weights = find_weights(VARIANTS["b0"], f"hf-hub:{REPOSITORY}")
    assert weights.checkpoint is not None and weights.checkpoint.name == REPOSITORY
    assert (weights.repository, weights.revision) == (REPOSITORY, COMMIT)
    assert REPOSITORY in weights.origin and COMMIT[:12] in weights.origin
