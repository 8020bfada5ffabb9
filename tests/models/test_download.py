"""The download against a server that truncates, stalls, lies and changes its mind: the right bytes or none at all."""

from __future__ import annotations

import hashlib
import importlib
import io
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.client import HTTPResponse
from itertools import product
from pathlib import Path
from time import monotonic, sleep, time
from types import SimpleNamespace
from urllib.parse import quote

import pytest

import runtime.progress
from models.download import download
from runtime.errors import UserError
from tests.interruptible import interruptible
from tests.models.lying_server import BODY, OTHER, SHA, Answer, Site
from tests.patience import LONG

module = importlib.import_module("models.download")  # not `models.download`, should the package export the function

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server():
    with Site() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def site(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server.start_over()
    yield server
    server.released.set()


@pytest.fixture
def slept(monkeypatch):
    """The seconds that would have been waited between attempts."""
    waits: list[float] = []
    monkeypatch.setattr(module, "sleep", waits.append)
    return waits


@pytest.fixture
def get(site, slept, tmp_path):
    def run(sha256: str = SHA, **options) -> Path:
        return download(site.url, tmp_path / "b0.pth", sha256, **({"timeout": LONG, "progress": None} | options))

    return run


@pytest.fixture
def impatient(site, tmp_path, monkeypatch):
    """A client that gives up as soon as it has all that a stalled server sent: a `timeout` that is short enough for a test
    would also come to its end where the machine stands still."""
    read1 = HTTPResponse.read1

    def read(response, size):
        if site.stalled and (tmp_path / "b0.pth.part").stat().st_size == sum(request.sent for request in site.requests):
            raise TimeoutError("timed out")
        return read1(response, size)

    monkeypatch.setattr(HTTPResponse, "read1", read)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_done(folder: Path) -> None:
    assert (folder / "b0.pth").read_bytes() == BODY
    assert names(folder) == ["b0.pth"]


def refusal(get, **options) -> str:
    with pytest.raises(UserError) as error:
        get(**options)
    return str(error.value)


@pytest.mark.parametrize("sha256", [SHA, SHA.upper(), SHA[:8]])
def test_brings_the_file_and_leaves_nothing_else(get, site, tmp_path, sha256):
    assert get(sha256) == tmp_path / "b0.pth"
    assert_done(tmp_path)
    assert site.requests[0].headers["Accept-Encoding"] == "identity"
    get(sha256)
    assert len(site.requests) == 1  # the second time it was there


def test_makes_the_folder(site, tmp_path):
    download(site.url, tmp_path / "a" / "b" / "b0.pth", SHA, progress=None)
    assert_done(tmp_path / "a" / "b")


def test_replaces_a_file_with_another_checksum_and_says_so(get, tmp_path):
    (tmp_path / "b0.pth").write_bytes(OTHER)
    progress = io.StringIO()
    get(progress=progress)
    assert_done(tmp_path)
    assert "downloading it anew" in progress.getvalue()


@pytest.mark.parametrize("ending", ["close", "stall"])
@pytest.mark.parametrize("chunked", [False, True])
def test_resumes_where_the_connection_broke(get, site, tmp_path, slept, impatient, ending, chunked):
    site.answers = [Answer(stop=100_000, ending=ending, chunked=chunked), Answer(stop=50_000, ending=ending)]
    get()
    assert_done(tmp_path)
    assert site.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert sum(request.sent for request in site.requests) == len(BODY)
    assert slept == [0.5, 1.0]


FAULTS = {
    "truncated": Answer(stop=70_000),
    "chunks broken off": Answer(stop=70_000, chunked=True),
    "reset": Answer(stop=70_000, ending="reset"),
    "without ranges": Answer(stop=90_000, ranges=False),
    "range shifted": Answer(stop=90_000, skew=1),
    "another file": Answer(body=OTHER, stop=90_000),
    "length too long": Answer(length=400_000),
    "length too short": Answer(length=1_000),
    "truncated without length": Answer(stop=90_000, length=-1),
    "wrong bytes": Answer(body=OTHER),
}
LOOK_WHOLE = {"length too short", "truncated without length", "wrong bytes"}  # only the checksum tells


@pytest.mark.parametrize("first, second", list(product(FAULTS, FAULTS)))
def test_two_faults_in_a_row_end_in_the_right_file_or_none(get, site, tmp_path, first, second):
    site.answers = [FAULTS[first], FAULTS[second]]
    if {first, second} <= LOOK_WHOLE:
        assert "wrong checksum" in refusal(get)
        assert names(tmp_path) == []
    else:
        get()
        assert_done(tmp_path)


def test_server_that_ignores_range_starts_from_zero(get, site, tmp_path):
    site.answers = [Answer(stop=100_000), Answer(ranges=False)]
    get()
    assert_done(tmp_path)
    assert [(r.status, r.sent) for r in site.requests] == [(200, 100_000), (200, 300_000)]


def test_a_file_changed_between_attempts_costs_one_download_more(get, site, tmp_path):
    site.answers = [Answer(body=OTHER, stop=100_000)]
    log = io.StringIO()
    get(progress=log)
    assert_done(tmp_path)
    assert "wrong checksum; starting over" in log.getvalue()
    assert [r.status for r in site.requests] == [200, 206, 200]


@pytest.mark.parametrize(
    "answer", [Answer(status=416, headers={"Content-Encoding": "gzip"}), Answer(skew=-7, length=-1), Answer(length=5)]
)
def test_range_answer_that_does_not_fit_starts_over_without_costing_an_attempt(get, site, tmp_path, answer):
    (tmp_path / "b0.pth.part").write_bytes(BODY[:100_000])
    site.answers = [answer]
    log = io.StringIO()
    get(attempts=1, progress=log)
    assert_done(tmp_path)
    assert site.ranges == ["bytes=100000-", None]
    assert "does not fit" in log.getvalue() and "wrong checksum" not in log.getvalue()


@pytest.mark.parametrize(
    "held, requests",
    [
        (BODY[:100_000], [206]),  # resumed, although nobody noted where it came from
        (BODY, []),  # complete: killed before the rename
        (OTHER[:100_000], [206, 200]),  # found out by the checksum
        (OTHER, [416, 200]),
        (BODY + b"more", [416, 200]),
    ],
)
def test_part_of_an_earlier_process_is_used_or_healed(get, site, tmp_path, held, requests):
    (tmp_path / "b0.pth.part").write_bytes(held)
    get(attempts=1)
    assert_done(tmp_path)
    assert [r.status for r in site.requests] == requests


def test_wrong_bytes_once_are_fetched_again(get, site, tmp_path):
    site.answers = [Answer(body=OTHER)]
    get(attempts=1)
    assert_done(tmp_path)
    assert site.ranges == [None, None]


def test_wrong_bytes_always_are_refused(get, site, tmp_path):
    site.answers = [Answer(body=OTHER)] * 9
    text = refusal(get)
    assert len(site.requests) == 2
    assert site.url in text and "checksum" in text and SHA in text and hashlib.sha256(OTHER).hexdigest() in text
    assert names(tmp_path) == []


def test_right_bytes_under_too_long_a_length_are_accepted(get, site, tmp_path):
    site.answers = [Answer(length=400_000)]
    get()
    assert_done(tmp_path)
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_refusals_are_not_repeated(get, site, tmp_path, slept, status):
    site.answers = [Answer(status=status)]
    text = refusal(get)
    assert site.url in text and str(status) in text and "attempt 1 of 5" in text and "WEIGHTS=" in text
    assert len(site.requests) == 1 and slept == [] and names(tmp_path) == []


def test_server_errors_are_repeated_ever_more_slowly(get, site, tmp_path, slept):
    site.answers = [Answer(status=status) for status in (500, 502, 503, 429)]
    get()
    assert_done(tmp_path)
    assert slept == [0.5, 1.0, 2.0, 4.0]


def test_gives_up_after_the_attempts_and_keeps_what_came(get, site, tmp_path):
    site.answers = [Answer(stop=1_000), Answer(stop=1_000), Answer(status=503)]
    text = refusal(get, attempts=3)
    assert "503" in text and "attempt 3 of 3" in text and str(tmp_path / "b0.pth.part") in text
    assert (tmp_path / "b0.pth.part").read_bytes() == BODY[:2_000] and not (tmp_path / "b0.pth").exists()
    get()
    assert_done(tmp_path)
    assert site.ranges[-1] == "bytes=2000-"


@pytest.mark.parametrize(
    "answer, reason",
    [
        (Answer(stop=1_000), "ended after 1000 of 300000 bytes"),
        (Answer(stop=1_000, ending="stall"), "timed out"),
        (Answer(stop=1_000, ending="reset"), "reset by peer"),
    ],
)
def test_says_how_the_last_attempt_ended(get, site, answer, reason):
    site.answers = [answer]
    text = refusal(get, attempts=1, timeout=0.3 if answer.ending == "stall" else LONG)
    assert site.url in text and reason in text


@pytest.mark.parametrize("status", [429, 503])
def test_waits_as_long_as_the_server_asks(get, site, slept, monkeypatch, status):
    now = int(time())
    monkeypatch.setattr(module, "time", lambda: now)
    site.answers = [
        Answer(status=status, headers={"Retry-After": "7"}),
        Answer(status=status, headers={"Retry-After": formatdate(now + 30, usegmt=True)}),
        Answer(status=status, headers={"Retry-After": "soon"}),
    ]
    get()
    assert slept == [7, 30, 2]


def test_does_not_wait_for_an_hour(get, site, slept):
    site.answers = [Answer(status=429, headers={"Retry-After": "3600"})]
    assert "3600 s" in refusal(get)
    assert slept == [] and len(site.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_follows_redirects_and_resumes_through_them(get, site, tmp_path, status):
    there = Answer(status=status, headers={"Location": "/elsewhere"})
    site.answers = [there, Answer(stop=100_000), there]
    get()
    assert_done(tmp_path)
    assert [(r.path, r.headers.get("Range")) for r in site.requests[2:]] == [
        ("/b0.pth", "bytes=100000-"),
        ("/elsewhere", "bytes=100000-"),
    ]


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_refuses_to_be_redirected_off_http(get, site, tmp_path, scheme):
    (tmp_path / "secret").write_bytes(BODY)
    target = f"{scheme}://localhost{quote(str(tmp_path))}/secret"
    site.answers = [Answer(status=302, headers={"Location": target})]
    text = refusal(get)
    assert site.url in text and target in text and len(site.requests) == 1
    assert names(tmp_path) == ["secret"]


def test_redirects_in_a_circle_end(get, site):
    site.answers = [Answer(status=302, headers={"Location": "/b0.pth"})] * 50
    assert "infinite loop" in refusal(get)
    assert len(site.requests) < 50


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/b0.pth", "b0.pth", "http://", "http://host:port/"])
def test_refuses_other_urls(slept, tmp_path, url):
    with pytest.raises(UserError, match=re.escape(url)):
        download(url, tmp_path / "b0.pth", SHA, progress=None)
    assert slept == [] and names(tmp_path) == []


@pytest.mark.parametrize("sha256", ["", "1234567", "xyz45678", SHA + "0"])
def test_checksum_that_is_none_is_a_bug_of_the_caller(get, site, sha256):
    with pytest.raises(ValueError, match="sha256"):
        get(sha256)
    assert site.requests == []


@pytest.mark.parametrize("answer", [Answer(length=-1), Answer(chunked=True), Answer()])
def test_refuses_what_is_absurdly_large(get, site, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(module, "LARGEST_BYTES", 200_000)
    site.answers = [answer]
    assert "200000" in refusal(get)
    assert len(site.requests) == 1 and names(tmp_path) == []


def test_refuses_more_bytes_than_the_resumed_range_has(get, site, tmp_path):
    (tmp_path / "b0.pth.part").write_bytes(BODY[:100_000])
    lie = {"Content-Range": "bytes 100000-100999/101000"}
    site.answers = [Answer(status=206, headers=lie, length=-1)]  # 300000 bytes follow, not 1000
    assert "more than 101000 bytes" in refusal(get)
    assert names(tmp_path) == []


def test_refuses_compressed_bytes(get, site, tmp_path):
    site.answers = [Answer(headers={"Content-Encoding": "gzip"})]
    assert "gzip" in refusal(get)
    assert names(tmp_path) == []


def test_nobody_there(get, site, slept):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        site.url = f"http://127.0.0.1:{unused.getsockname()[1]}/b0.pth"
        text = refusal(get, attempts=3)
    assert site.url in text and "refused" in text and len(slept) == 2


def test_tls_failure_is_told(get, site, tmp_path):
    site.url = site.url.replace("http:", "https:")  # the server speaks no TLS
    text = refusal(get, attempts=2)
    assert site.url in text and "SSL" in text
    assert names(tmp_path) == []


def test_goes_through_the_proxy_of_the_environment(site, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{site.host}")
    download("http://weights.invalid/b0.pth", tmp_path / "b0.pth", SHA, progress=None)
    assert_done(tmp_path)
    assert site.requests[0].path == "http://weights.invalid/b0.pth"


def test_full_disk_is_told_and_what_fitted_is_resumed(get, site, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the nearest to a full disk that needs no root
    try:
        text = refusal(get)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "too large" in text and site.url in text and str(tmp_path) in text
    assert len(site.requests) == 1 and not (tmp_path / "b0.pth").exists()
    get()
    assert_done(tmp_path)
    assert site.ranges[1:] == ["bytes=100000-"]


def test_unusable_folder_is_told_before_anything_is_fetched(site, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "b0.pth").mkdir()
    for destination in (tmp_path / "file" / "b0.pth", tmp_path / "b0.pth"):
        with pytest.raises(UserError, match=re.escape(str(tmp_path))):
            download(site.url, destination, SHA, progress=None)
    assert site.requests == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_a_bar_and_others_get_lines(get, site, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(runtime.progress, "time", SimpleNamespace(monotonic=lambda: 0.0))  # a log gets a line each 10 s
    site.answers = [Answer(stop=100_000)]
    terminal, log = Terminal(), io.StringIO()
    get(progress=terminal)
    (tmp_path / "b0.pth").unlink()
    site.answers = [Answer(stop=100_000)]
    get(progress=log)
    assert re.search(r"\rb0.pth: \[#{20}\] 100% of 0.3 MB, [\d.]+ MB/s *\n$", terminal.getvalue())
    assert all(len(line) < 80 for line in re.split("[\r\n]", terminal.getvalue()) if line.startswith("b0.pth: ["))
    reason = "b0.pth: the connection ended after 100000 of 300000 bytes; attempt 2 of 5 in 0.5 s\n"
    assert reason in terminal.getvalue()
    assert log.getvalue().startswith(reason) and log.getvalue().count("\n") == 2 and "\r" not in log.getvalue()


def test_none_is_silent(get, site, capfd):
    site.answers = [Answer(stop=100_000), Answer(body=OTHER)]
    get(progress=None)
    assert capfd.readouterr() == ("", "")


def start_process(site: Site, folder: Path, have: int) -> subprocess.Popen[bytes]:
    """A process that downloads and waits for more after `have` bytes."""
    code = "import sys; from pathlib import Path; from models.download import download; "
    code += f"download(sys.argv[1], Path(sys.argv[2]), sys.argv[3], timeout={2 * LONG})"
    process = subprocess.Popen(
        [sys.executable, "-c", code, site.url, str(folder / "b0.pth"), SHA],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        preexec_fn=interruptible,
    )
    part, until = folder / "b0.pth.part", monotonic() + LONG
    while not part.exists() or part.stat().st_size < have:
        assert process.poll() is None and monotonic() < until
        sleep(0.01)
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_next_run_resumes_what_a_killed_process_left(get, site, tmp_path, how):
    site.answers = [Answer(stop=123_456, ending="stall")]
    process = start_process(site, tmp_path, 123_456)
    process.send_signal(how)
    assert process.wait() != 0
    assert not (tmp_path / "b0.pth").exists()
    get()
    assert_done(tmp_path)
    assert site.ranges == [None, "bytes=123456-"]
    assert site.requests[1].sent == len(BODY) - 123_456


def wait_for(text: str, log: io.StringIO) -> None:
    until = monotonic() + LONG
    while text not in log.getvalue():
        assert monotonic() < until
        sleep(0.01)


def test_second_process_waits_and_takes_over_when_the_first_dies(get, site, tmp_path):
    site.answers = [Answer(stop=3_000, ending="stall")]
    process = start_process(site, tmp_path, 3_000)
    log = io.StringIO()
    with ThreadPoolExecutor() as pool:
        second = pool.submit(get, progress=log)
        wait_for("another process", log)
        assert len(site.requests) == 1
        process.kill()
        process.wait()
        second.result(timeout=LONG)
    assert_done(tmp_path)
    assert site.ranges == [None, "bytes=3000-"]


def test_lock_that_was_removed_while_waiting_for_it_is_no_lock(get, site, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    lock, log = tmp_path / "b0.pth.part.lock", io.StringIO()
    with ThreadPoolExecutor() as pool, lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        waiting = pool.submit(get, progress=log)
        wait_for("another process", log)
        lock.unlink()  # the first has finished, and a third comes before the second goes on
        with lock.open("w") as third:
            fcntl.flock(third, fcntl.LOCK_EX)
            first.close()
            wait_for("another process is downloading it; waiting\nb0.pth: another process", log)
            assert site.requests == []
        waiting.result(timeout=LONG)
    assert_done(tmp_path)


def test_many_at_once_fetch_it_once(get, site, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(get) for _ in range(8)]:
            result.result(timeout=LONG)
    assert_done(tmp_path)
    assert len(site.requests) == 1
