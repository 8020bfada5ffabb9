"""The HTTP endpoint: the same answers as infer, one bad image or client that harms no other, and no secret given away."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, AsyncIterator, Iterator, List, Optional, Tuple

import numpy as np
import pytest
from PIL import Image

from runtime.artifacts.artifact import sealed
from runtime.backends.processor import processors
from runtime.errors import UserError
from tests.patience import until
from tests.runtime.artifacts.changed_artifacts import unsealed
from tests.runtime.fake_classifier import FakeClassifier
from tests.runtime.serve.running import ROOT, Running, serving

pytest.importorskip("aiohttp", reason="the server's libraries are not installed (the extra named serve)")
pytest.importorskip("prometheus_client", reason="the server's libraries are not installed (the extra named serve)")

from aiohttp.test_utils import TestClient, TestServer

from runtime.images.decode import ImageError
from runtime.networks.classifier import Classifier
from runtime.serve import __main__ as command
from runtime.serve import app, models
from runtime.serve.app import Server
from runtime.serve.models import Busy, Model, Reloading

CORGI = (ROOT / "tests" / "data" / "corgi.jpg").read_bytes()
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def server(small_artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(small_artifacts, tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart/form-data body of (file name, bytes), and its content type."""
    body = b""
    for name, content in parts:
        body += f'--cut\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + b"--cut--\r\n", "multipart/form-data; boundary=cut"


def test_an_image_gets_what_infer_prints(server: Running, small_model: Path) -> None:
    answer = server.ask("POST", "/classify?top=3", CORGI)
    expected = [prediction._asdict() for prediction in Classifier(small_model)(CORGI, top=3)]
    assert answer.status == 200
    for got, wanted in zip(answer.json["predictions"], expected):
        assert got == {**wanted, "probability": pytest.approx(wanted["probability"], abs=1e-5)}
    assert len(answer.json["predictions"]) == 3
    assert (answer.json["variant"], answer.json["precision"], answer.json["backend"]) == (
        "lite0",
        "fp32",
        "onnxruntime",
    )


def test_several_images_are_answered_one_by_one_and_a_bad_one_says_why(server: Running) -> None:
    body, kind = form(("a/corgi.jpg", CORGI), ("bad.png", b"no image"), ("again.jpg", CORGI))
    answer = server.ask("POST", "/classify", body, Content_Type=kind)
    good, bad, again = answer.json
    assert answer.status == 200
    assert good["file"] == "corgi.jpg" and good["predictions"][0]["index"] == 264
    assert bad["error"].startswith("bad.png: not an image") and "predictions" not in bad
    assert again["predictions"] == good["predictions"]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"no image at all", 400, "not an image in a format that is read"),
        (b"", 400, "no image in the request"),
        (CORGI[:2000], 400, "image: "),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence_without_a_path(
    server: Running, body: bytes, status: int, sentence: str
) -> None:
    answer = server.ask("POST", "/classify", body)
    assert answer.status == status and sentence in answer.body.decode()
    assert str(ROOT) not in answer.body.decode() and "Traceback" not in answer.body.decode()


def test_a_form_that_is_none_is_refused(server: Running) -> None:
    assert server.ask("POST", "/classify", b"x" * 50, Content_Type="multipart/form-data").status == 400
    assert server.ask("POST", "/classify?top=many", CORGI).status == 400


def test_more_bytes_than_are_accepted(small_artifacts: Path, tmp_path: Path) -> None:
    with serving(small_artifacts, tmp_path / "log", "--max-bytes", "100K") as running:
        assert running.ask("POST", "/classify", b"x" * 300_000).status == 413
        body, kind = form(("large.jpg", b"x" * 300_000))
        assert running.ask("POST", "/classify", body, Content_Type=kind).status == 413
        small = io.BytesIO()
        Image.new("RGB", (64, 64)).save(small, "PNG")
        assert running.ask("POST", "/classify", small.getvalue()).status == 200


def test_every_answer_has_security_headers_and_no_folder_is_served(server: Running) -> None:
    for path in ("/", "/healthz", "/model", "/nowhere", "/../pyproject.toml", "/page.html"):
        answer = server.ask("GET", path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Server"] == "efficientnet-edge"
        assert (answer.status == 200) is (path in ("/", "/healthz", "/model")), path
    page = server.ask("GET", "/")
    nonce = re.search(r"script-src 'nonce-([^']+)'", page.headers["Content-Security-Policy"])
    assert nonce and f'<script nonce="{nonce[1]}">' in page.body.decode()
    assert not re.search(r'(src|href)="(https?:)?//', page.body.decode()), "the page loads something from elsewhere"


def test_a_name_that_is_not_this_machine_s_is_refused(server: Running) -> None:
    assert server.ask("GET", "/", Host="evil.example").status == 403
    assert server.ask("GET", "/", Host=f"localhost:{server.port}").status == 200


def test_metrics_count_what_happened(server: Running) -> None:
    def figure(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", server.ask("GET", "/metrics").body.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    images, failures = figure("efficientnet_images_total"), figure("efficientnet_failures_total")
    server.ask("POST", "/classify", CORGI)
    server.ask("POST", "/classify", b"none")
    assert figure("efficientnet_images_total") == images + 1
    assert figure("efficientnet_failures_total") == failures + 1
    assert figure('efficientnet_stage_seconds_count{stage="network"}') >= images + 1


@pytest.fixture(scope="module")
def guarded(small_artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN + "\n")
    with serving(small_artifacts, folder / "log", "--token-file", folder / "token") as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/", "/live", "/live.jpg", "/model", "/metrics", "/?token=wrong", f"/model?token={TOKEN}"]
)
def test_without_the_token_nothing_is_said(guarded: Running, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "token=wrong"}, {"Authorization": TOKEN}):
        answer = guarded.ask("GET", path, **headers)
        assert answer.status == 401 and TOKEN not in answer.body.decode()
    assert guarded.ask("POST", "/classify", CORGI).status == 401


def test_the_token_opens_by_header_and_by_the_cookie_of_the_first_visit(guarded: Running) -> None:
    assert guarded.ask("POST", "/classify", CORGI, Authorization=f"Bearer {TOKEN}").status == 200
    first = guarded.ask("GET", f"/?token={TOKEN}")
    assert first.status == 303 and first.headers["Location"] == "/"
    assert "HttpOnly" in first.headers["Set-Cookie"] and "SameSite=Strict" in first.headers["Set-Cookie"]
    assert guarded.ask("GET", "/", Cookie=first.headers["Set-Cookie"].partition(";")[0]).status == 200
    assert guarded.ask("GET", "/healthz").status == 200
    assert TOKEN not in guarded.said()


def test_everybody_s_address_makes_a_token(small_artifacts: Path, tmp_path: Path) -> None:
    with serving(small_artifacts, tmp_path / "log", "--host", "0.0.0.0") as running:
        token = re.search(r"\?token=(\S+)", running.said())
        assert token and len(token[1]) >= 40
        assert running.ask("GET", "/model").status == 401
        assert running.ask("GET", "/model", Authorization=f"Bearer {token[1]}").status == 200


def test_slow_and_endless_clients_do_not_keep_others_from_being_answered(small_artifacts: Path, tmp_path: Path) -> None:
    with serving(small_artifacts, tmp_path / "log") as running:
        clients = [socket.create_connection(("127.0.0.1", running.port), 60) for _ in range(300)]
        for number, client in enumerate(clients):
            if number % 2:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localh")  # headers that never end
            else:
                client.sendall(
                    b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx"
                )  # nor a body
        assert running.ask("POST", "/classify", CORGI).status == 200
        clients[1].settimeout(60)
        assert clients[1].recv(1000) == b"", "a client that never asks keeps its connection"
        for client in clients:
            client.close()
        assert running.ask("POST", "/classify", CORGI).status == 200


def test_bodies_that_would_fill_the_memory_are_refused_and_their_room_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake: Any = FakeClassifier()
    fake.artifact.path = Path("none.onnx")
    monkeypatch.setattr(app, "_BODIES", 100_000)
    monkeypatch.setattr(fake, "decoding", fake.decoding._replace(max_bytes=90_000))
    served = app.Server(Reloading(lambda: fake), None, "")
    arrived = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 80_000
        await arrived.wait()

    async def asked() -> List[int]:
        async with TestClient(TestServer(served.app())) as client:
            first = asyncio.ensure_future(client.post("/classify", data=slow()))
            while served._held < 80_000:
                await asyncio.sleep(0.01)
            second = await client.post("/classify", data=CORGI)
            arrived.set()
            statuses = [second.status, (await first).status]
            return [*statuses, (await client.post("/classify", data=CORGI)).status]

    assert asyncio.run(asked()) == [503, 400, 200] and served._held == 0


def image(brightness: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (brightness,) * 3)


def test_images_that_wait_are_the_next_batch_and_each_gets_its_own_answer() -> None:
    fake = FakeClassifier(batch=4, lanes=1, seconds=0.05)
    model = Model(fake)  # type: ignore[arg-type]
    with ThreadPoolExecutor(12) as threads:
        shades = [250, 10] * 6
        found = list(threads.map(lambda shade: model.classify(image(shade), "x", 1), shades))
    assert [each.predictions[0].label for each in found] == ["bright" if shade > 127 else "dark" for shade in shades]
    assert max(fake.sizes) == 4 and len(fake.sizes) < 12
    assert all(each.milliseconds["network"] >= 50 for each in found)


def test_a_shared_network_gives_one_run_all_cores_and_several_at_once_the_same_answers(small_model: Path) -> None:
    with Classifier(small_model, backend="onnxruntime", lanes=3, shared=True) as shared, Classifier(
        small_model
    ) as alone:
        assert shared.backend.lanes == 3
        asked = shared.backend._session.get_session_options()  # type: ignore[attr-defined]
        assert asked.intra_op_num_threads == processors()
        assert asked.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        batches = [shared.preprocess([image(shade)]) for shade in (0, 90, 250)]
        with ThreadPoolExecutor(3) as threads:
            for found, batch in zip(threads.map(shared.logits, batches), batches):
                np.testing.assert_allclose(found, alone.logits(batch), atol=1e-4)


def test_first_in_first_out() -> None:
    fake = FakeClassifier(batch=1, lanes=1)
    entered, held = threading.Event(), threading.Event()
    order: List[int] = []
    run = fake.logits

    def logits(batch: np.ndarray) -> np.ndarray:
        entered.set()
        held.wait(60)
        order.append(int(round(float(batch.mean()) * 255)))
        return run(batch)

    fake.logits = logits  # type: ignore[method-assign]
    model = Model(fake)  # type: ignore[arg-type]
    threads = []
    for count, shade in enumerate((10, 200, 90, 50), 1):
        threads.append(threading.Thread(target=model.classify, args=(image(shade), "x", 1)))
        threads[-1].start()
        entered.wait(60)  # the network has the first
        until(lambda count=count: len(model._queue) == count - 1)
    held.set()
    for thread in threads:
        thread.join()
    assert order == [10, 200, 90, 50]


def test_too_many_waiting_images_are_refused_and_the_others_answered() -> None:
    fake = FakeClassifier(batch=1, lanes=1, seconds=0.2)
    model = Model(fake, waiting=3)  # type: ignore[arg-type]

    def ask(_: int) -> str:
        try:
            return model.classify(image(250), "x", 1).predictions[0].label
        except Busy:
            return "busy"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    assert found.count("bright") == 3 and found.count("busy") == 5


def test_an_error_of_the_network_reaches_each_image_of_its_batch_and_the_next_are_answered() -> None:
    fake = FakeClassifier(batch=2, lanes=1)
    model, fake.failing = Model(fake), True  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="fell off the bus"):
        model.classify(image(9), "x", 1)
    fake.failing = False
    assert model.classify(image(9), "x", 1).predictions[0].label == "dark"


def test_an_answer_of_nan_is_an_error_of_that_image() -> None:
    fake = FakeClassifier(batch=1, lanes=1)
    fake.logits = lambda batch: np.full((1, 2), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(ImageError, match="dark.png.*NaN"):
        Model(fake).classify(image(9), "dark.png", 1)  # type: ignore[arg-type]


def test_a_busy_server_says_so_and_when_to_ask_again() -> None:
    fake = FakeClassifier()
    fake.artifact.path, fake.backend.description = Path("none.onnx"), "fake"
    shut = Server(Reloading(lambda: fake, waiting=0), None, "why")  # type: ignore[arg-type, return-value]

    async def ask() -> Tuple[int, Optional[str]]:
        async with TestClient(TestServer(shut.app())) as client:
            answer = await client.post("/classify", data=CORGI)
            return answer.status, answer.headers.get("Retry-After")

    assert asyncio.run(ask()) == (503, "1") and (shut.refused, shut.served) == (1, 0)


def test_an_error_of_ours_is_in_the_log_and_not_in_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    fake: Any = FakeClassifier()
    fake.artifact.path, fake.failing = Path("none.onnx"), True
    broken = Server(Reloading(lambda: fake), None, "why")

    async def ask() -> Tuple[int, str, str]:
        async with TestClient(TestServer(broken.app())) as client:
            answer = await client.post("/classify", data=CORGI)
            return answer.status, await answer.text(), answer.headers["X-Frame-Options"]

    assert asyncio.run(ask()) == (500, "The server failed at this request; its log says how.\n", "DENY")
    assert "the GPU fell off the bus" in capsys.readouterr().err
    assert b'requests_total{status="500"} 1.0' in broken.metrics.text()


def test_a_replaced_artifact_answers_and_no_request_is_lost(
    small_artifacts: Path, small_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    shutil.copytree(small_artifacts, folder)
    path = folder / "lite0" / "lite0.fp32.onnx"
    graph, metadata = unsealed(small_model)
    labels = json.dumps([f"new {number}" for number in range(1000)])
    fresh = sealed(graph, "fp32", {**metadata, "labels": labels})[0]
    with serving(folder, tmp_path / "log", "--model", path, "--reload") as running:
        assert "new" not in running.ask("POST", "/classify", CORGI).json["predictions"][0]["label"]
        statuses: List[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                statuses.append(running.ask("POST", "/classify", CORGI).status)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        (folder / "new").write_bytes(fresh)
        os.replace(folder / "new", path)
        until(lambda: "answers from now on" in running.said())
        assert running.ask("POST", "/classify", CORGI).json["predictions"][0]["label"] == "new 264"
        done.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        path.write_bytes(b"damaged")
        until(lambda: "the one before goes on" in running.said())
        assert running.ask("POST", "/classify", CORGI).json["predictions"][0]["label"] == "new 264"


def test_a_model_that_is_being_replaced_finishes_what_it_has() -> None:
    old, new = FakeClassifier(batch=1, lanes=1, seconds=0.3), FakeClassifier()
    made: Any = iter([old, new])
    closed: List[Any] = []
    for fake in (old, new):
        fake.artifact.path = Path("none.onnx")
        fake.close = lambda fake=fake: closed.append(fake)  # type: ignore[attr-defined]
    models = Reloading(lambda: next(made))
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(models.classify, image(250), "x", 1) for _ in range(3)]
        until(lambda: models.current._admitted == 3)
        before, models.current = models.current, Model(new)  # type: ignore[arg-type]
        threads.submit(before.close)
        with_old_reference = threads.submit(before.classify, image(9), "x", 1)
        assert [each.result().predictions[0].label for each in answers] == ["bright"] * 3
        assert with_old_reference.exception() is not None and models.classify(image(9), "x", 1)
    assert closed == [old]


def test_a_model_is_not_closed_while_an_image_is_still_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    held, found = threading.Event(), []  # type: threading.Event, List[Any]
    decode = models.open_image
    monkeypatch.setattr(models, "open_image", lambda *given: held.wait(60) and decode(*given))
    fake = FakeClassifier(batch=1, lanes=1)
    fake.close = lambda: found.append("closed")  # type: ignore[attr-defined]
    model = Model(fake)  # type: ignore[arg-type]
    ask = threading.Thread(target=lambda: found.append(model.classify(image(250), "x", 1)), daemon=True)
    ask.start()
    until(lambda: model._admitted == 1)
    close = threading.Thread(target=model.close, daemon=True)
    close.start()
    until(lambda: model._closing)
    held.set()
    close.join(10)
    ask.join(10)
    assert len(found) == 2 and found[1] == "closed" and found[0].predictions[0].label == "bright"


def test_sigterm_finishes_what_is_under_way_and_says_what_was_served(small_artifacts: Path, tmp_path: Path) -> None:
    with serving(small_artifacts, tmp_path / "log") as running:
        slow = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        slow.putrequest("POST", "/classify")
        slow.putheader("Content-Length", str(len(CORGI)))
        slow.endheaders(CORGI[:1000])
        assert running.ask("POST", "/classify", CORGI).status == 200  # by now the first is under way
        running.process.send_signal(signal.SIGTERM)
        until(lambda: refused(running.port))
        time.sleep(1)  # it has left by then if it waits for nobody
        slow.send(CORGI[1000:])
        assert slow.getresponse().status == 200
        assert running.process.wait(30) == 0
        assert running.said().splitlines()[-1] == "2 requests served"


def refused(port: int) -> bool:
    with contextlib.closing(socket.socket()) as asking:
        return asking.connect_ex(("127.0.0.1", port)) != 0


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no nothing.avi"):
        command.main(["nothing.avi"])
    (tmp_path / "token").write_text("short")
    with pytest.raises(UserError, match="at least 16"):
        command.main(["--token-file", str(tmp_path / "token")])
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UserError, match="pip install aiohttp prometheus_client"):
        command.main([])


def test_a_port_that_is_taken_is_said(server: Running, small_artifacts: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runtime.serve", "--port", str(server.port)],
        cwd=ROOT,
        env={**os.environ, "EFFICIENTNET_ARTIFACTS": str(small_artifacts)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: 127\.0\.0\.1:\d+ can't be listened on: .*\.\n", done.stderr), done.stderr
