"""python -m runtime.remote against a server that is slow, dead, not Triton, or says no. The real one is in tests/serving."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple

import pytest

from runtime import remote
from runtime.command import run
from runtime.serving import client
from tests.runtime.serving.fake_triton import FakeTriton

pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")


class Done(NamedTuple):
    """What a run left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTriton]:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    fake = FakeTriton()
    yield fake
    fake.close()


@pytest.fixture
def pictures(tmp_path: Path) -> List[Path]:
    paths = [tmp_path / f"{name}.jpg" for name in ("one", "two", "three")]
    for path in paths:
        path.write_bytes(path.stem.encode())
    return paths


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(*arguments: Any) -> Done:
        monkeypatch.setattr(sys, "argv", ["runtime.remote", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            run(remote.main)
        captured = capsys.readouterr()
        return Done(left.value.code if isinstance(left.value.code, int) else -1, captured.out, captured.err)

    return ask


@pytest.mark.smoke
def test_answers_come_in_order_however_long_each_takes(server: FakeTriton, pictures: List[Path], ask: Any) -> None:
    server.slow = {b"one": 0.3}
    done = ask(*pictures, "--url", server.url, "--top", 2, "--json")
    assert (done.status, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["file"] for line in lines] == list(map(str, pictures))
    assert [line["predictions"][0]["label"] for line in lines] == ["one 0", "two 0", "three 0"]
    assert lines[0]["predictions"][1] == {"index": 1, "label": "one 1", "probability": 0.25}
    assert {key: lines[0][key] for key in ("variant", "precision", "backend")} == {
        "variant": "lite0",
        "precision": "fp32",
        "backend": "onnxruntime",
    }
    assert {top for _, top in server.asked} == {2}


def test_what_can_not_be_read_is_said_of_that_picture_alone(server: FakeTriton, pictures: List[Path], ask: Any) -> None:
    pictures[1].write_bytes(b"bad")  # the server finds out
    done = ask(*pictures, pictures[0].with_name("none.jpg"), "--url", server.url)
    assert done.status == 1
    assert done.err.splitlines() == [
        f"error: {pictures[1]}: cannot be read.",
        f"error: {pictures[0].with_name('none.jpg')}: cannot be opened: No such file or directory.",
        "2 of 4 images failed",
    ]
    assert [line for line in done.out.splitlines() if not line.startswith(" ")] == [str(pictures[0]), str(pictures[2])]


def test_what_passes_is_tried_again(server: FakeTriton, pictures: List[Path], ask: Any) -> None:
    server.failures = [(503, "busy"), (500, "Stub process 'lite0_0' is not healthy.")]
    done = ask(pictures[0], "--url", server.url)
    assert (done.status, done.err) == (0, "")
    assert "one 0" in done.out


def test_what_stays_is_said_once_per_picture(server: FakeTriton, pictures: List[Path], ask: Any) -> None:
    server.failures = [(503, "busy")] * 3
    done = ask(pictures[0], "--url", server.url, "--retries", 2)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"error: {pictures[0]}: The server at {server.url} refused: busy (3 attempts).\n"
    server.failures = [(400, "unexpected shape")]
    done = ask(pictures[0], "--url", server.url)
    assert done.err == f"error: {pictures[0]}: The server at {server.url} refused: unexpected shape.\n"


def test_a_dead_server(pictures: List[Path], ask: Any, server: FakeTriton) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{free.getsockname()[1]}"
        done = ask(pictures[0], "--url", url)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"error: No Triton server answers at {url} over http (")
    assert len(done.err.splitlines()) == 1


def test_a_server_that_never_answers(server: FakeTriton, pictures: List[Path], ask: Any) -> None:
    server.slow = {b"one": 300.0}
    done = ask(pictures[0], "--url", server.url, "--timeout", 0.3, "--retries", 1)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"error: The server at {server.url} did not answer within 0.3 s (2 attempts).\n"


def test_something_else_at_that_port(server: FakeTriton, pictures: List[Path], ask: Any) -> None:
    server.pages = b"<html>hello</html>"
    done = ask(pictures[0], "--url", server.url, "--retries", 0)
    assert done.status == 1
    assert "No Triton server answers" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "says", "status"),
    [
        ("b9", "has no model 'b9': it has lite0, lite0_onnxruntime", 2),
        ("broken", "is not ready: no such file", 1),
        ("lite0_onnxruntime", "does not take images and give classes", 2),
    ],
)
def test_models_that_can_not_be_asked(
    server: FakeTriton, pictures: List[Path], ask: Any, name: str, says: str, status: int
) -> None:
    done = ask(pictures[0], "--url", server.url, "--model", name)
    assert (done.status, done.out) == (status, "")
    assert says in done.err
    assert len(done.err.splitlines()) == 1


def test_of_several_models_one_has_to_be_named(server: FakeTriton, pictures: List[Path], ask: Any) -> None:
    server.models["b0"] = ("READY", "")
    done = ask(pictures[0], "--url", server.url)
    assert done.status == 2
    assert "--model: it has b0, lite0, lite0_onnxruntime" in done.err


@pytest.mark.parametrize("url", ["http//x", "localhost:port", ":8000", "ftp://host", "host/path"])
def test_what_is_no_address(url: str, pictures: List[Path], ask: Any) -> None:
    done = ask(pictures[0], "--url", url)
    assert done.status == 2
    assert f"'{url}' is no address" in done.err


def test_addresses() -> None:
    assert client._host_of("host", "grpc") == ("host:8001", False)
    assert client._host_of("https://host:9000/", "http") == ("host:9000", True)
    assert client._host_of("[::1]", "http") == ("[::1]:8000", False)
