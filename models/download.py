"""Fetch one file whose checksum is known: resumed, retried, verified, put in place whole or not at all.

    download("https://host/b0-3dd342df.pth", Path("cache/b0.pth"), "3dd342df")

Meanwhile `b0.pth.part` holds what came so far, and `b0.pth.part.lock` beside it is locked by the process at work.
Both stay only where there is something to resume. The checksum alone decides what is right: bytes that belong to
another file cost one more download.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from time import monotonic, sleep, time
from typing import IO, TextIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from runtime.digest import sha256_of
from runtime.errors import UserError
from runtime.lock import locked
from runtime.progress import Line, bar, time_left

LARGEST_BYTES = 4 << 30  # EfficientNet-L2, the family's largest, is 1.9 GB
LONGEST_WAIT = 60.0  # seconds of Retry-After that are waited out
FIRST_BACKOFF = 0.5  # seconds, doubled at each failure
CHUNK_BYTES = 1 << 18
BY_HAND = "fetch the file by hand and give WEIGHTS=path"


def download(
    url: str,
    destination: Path,
    sha256: str,
    *,
    attempts: int = 5,
    timeout: float = 30.0,
    progress: TextIO | None = sys.stderr,
) -> Path:
    """Have at `destination` the file whose SHA-256 starts with `sha256`, from `url` unless it is there already.

    `sha256` is 8 to 64 hex digits: torch hub's file names carry the first 8. `attempts` is how many requests may
    fail for a reason that can pass (network, 5xx, 429). `timeout` is in seconds without a single byte. `progress`
    gets a bar if it is a terminal, else a line now and then; None is silence. Returns `destination`.

    Raises UserError where the file cannot be had or written, ValueError for a malformed `sha256` or `attempts`.
    """
    digest = sha256.lower()
    if not re.fullmatch("[0-9a-f]{8,64}", digest):
        raise ValueError(f"sha256 must be 8 to 64 hex digits, not {sha256!r}")
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    if not re.match("https?://[^/]", url, re.IGNORECASE):
        raise UserError(f"Cannot download {url}: only http and https URLs are fetched; {BY_HAND}.")
    part = destination.with_name(destination.name + ".part")
    lock = part.with_name(part.name + ".lock")
    bar = _Progress(progress, destination.name)
    try:
        if destination.is_dir():
            raise UserError(f"Cannot download {url} to {destination}: that is a folder; move it away.")
        if _sha256(destination).startswith(digest):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _alone(lock, part, bar):
            found = _sha256(destination)
            if found.startswith(digest):  # another process fetched it while this one waited
                return destination
            if found:
                bar.say(f"its sha256 is {found[:12]}..., not {digest[:12]}...: downloading it anew")
            _complete(url, part, digest, attempts, timeout, bar)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, destination)
    except OSError as error:  # the network's are _Failure by now: these are the disk's
        reason = error.strerror or str(error)
        raise UserError(
            f"Cannot write {error.filename or part} while downloading {url}: {reason}. Make room there or make the "
            f"folder writable and run again, or {BY_HAND}."
        ) from error
    finally:
        bar.end()
    return destination


class _Failure(Exception):
    """A request that did not bring the file; `final` where asking again would not help."""

    def __init__(self, reason: str, *, final: bool = False, wait: float = 0.0) -> None:
        super().__init__(" ".join(reason.split()))
        self.final, self.wait = final, wait


def _complete(url: str, part: Path, digest: str, attempts: int, timeout: float, bar: _Progress) -> None:
    """Return when `part` has the right checksum: whatever it held before, and after as few requests as possible."""
    failures, mismatched = 0, False
    arrived: int | None = None  # how many bytes the last request added; None: it failed
    # A .part that is whole already (its process was killed before the rename) needs no request at all.
    while not (found := _sha256(part)).startswith(digest):
        if arrived is not None:
            size = _size(part)
            part.unlink()
            whole = arrived == size  # else another file's first bytes may be at fault, and asking once more may help
            if whole and mismatched:
                raise UserError(
                    f"Could not download {url}: twice it came with a wrong checksum, the last time {size} bytes with "
                    f"sha256 {found} instead of {digest}. Something between here and the server alters it, or it was "
                    f"replaced there: {BY_HAND}."
                )
            arrived, mismatched = None, mismatched or whole
            bar.say("wrong checksum; starting over")
        try:
            arrived = _transfer(url, part, timeout, bar)
        except _Failure as failure:
            failures += 1
            if failure.final or failures == attempts:
                resume = f"Run again to resume from {part}, or" if _size(part) and not failure.final else "You can"
                raise UserError(
                    f"Could not download {url}: {failure} (attempt {failures} of {attempts}). {resume} {BY_HAND}."
                ) from failure
            delay = max(FIRST_BACKOFF * 2 ** (failures - 1), failure.wait)
            bar.say(f"{failure}; attempt {failures + 1} of {attempts} in {delay:.1f} s")
            sleep(delay)


def _transfer(url: str, part: Path, timeout: float, bar: _Progress) -> int:
    """One request: add the bytes that `part` lacks, or all of them. Returns how many, once the body ended where it should."""
    held = _size(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "efficientnet"}  # hosts refuse urllib's own name
    if held:
        headers["Range"] = f"bytes={held}-"
    with _open(Request(url, headers=headers), timeout) as response:
        status = response.status
        encoding = response.headers.get("Content-Encoding", "identity")
        if status not in (200, 206, 416) or (status != 200 and not held):
            raise _Failure(f"the server answered {status}, which was not asked for", final=True)
        if status != 416 and encoding.lower() != "identity":
            raise _Failure(f"the server sent it in {encoding} encoding, which was not asked for", final=True)
        end = response.length if isinstance(response, HTTPResponse) else None
        if status != 200:
            end = _end_of_resumed(response, held)
            if end is None:
                bar.say("what was there before does not fit; starting over")
                part.unlink()
                return _transfer(url, part, timeout, bar)  # once: now there is nothing to resume
        size = held if status == 206 else 0
        limit = LARGEST_BYTES if end is None else end
        if limit > LARGEST_BYTES:
            raise _Failure(f"the server announces {limit} bytes, over the limit of {LARGEST_BYTES}", final=True)
        with part.open("ab" if status == 206 else "wb") as file:
            bar.start(size, end)
            while chunk := _read(response, timeout):
                size += len(chunk)
                if size > limit:
                    file.truncate(0)
                    raise _Failure(f"the server sends more than {limit} bytes", final=True)
                file.write(chunk)
                file.flush()  # so that a killed process leaves all that it got
                bar.at(size)
    if end is not None and size < end:
        raise _Failure(f"the connection ended after {size} of {end} bytes")
    return size - (held if status == 206 else 0)


class _RedirectWithinHttp(HTTPRedirectHandler):
    """urllib's redirects without ftp (it refuses file: and others itself), and with 308, which 3.10 lacks."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise HTTPError(newurl, code, f"{msg} - Redirection to url '{newurl}' is not allowed", headers, fp)
        return super().redirect_request(req, fp, 302, msg, headers, newurl)

    http_error_308 = HTTPRedirectHandler.http_error_302


def _open(request: Request, timeout: float) -> HTTPResponse | HTTPError:
    """The answer, a 416 included; any other refusal or fault raises _Failure."""
    try:
        response: HTTPResponse = build_opener(_RedirectWithinHttp).open(request, timeout=timeout)
        return response
    except HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        reason = f"the server answered {error.code} {error.reason}"
        wait = _retry_after(error.headers)
        if error.code != 429 and error.code < 500:
            raise _Failure(reason, final=True) from error
        if wait > LONGEST_WAIT:
            raise _Failure(f"{reason} and asks to come back in {wait:.0f} s", final=True) from error
        raise _Failure(reason, wait=wait) from error
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        # Malformed URLs and untrusted certificates (a ValueError, too) are the same at the next attempt.
        final = isinstance(cause, (str, ValueError, InvalidURL))
        raise _Failure(_in_words(cause, timeout), final=final) from error


def _read(response: HTTPResponse | HTTPError, timeout: float) -> bytes:
    """What the next packets bring, b"" at the end. `read` would lose what it has when the connection breaks."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        raise _Failure(_in_words(error, timeout)) from error


def _in_words(cause: BaseException | str, timeout: float) -> str:
    if isinstance(cause, TimeoutError):
        return f"timed out, nothing came for {timeout:g} s"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _retry_after(headers: Message) -> float:
    """Seconds that a Retry-After header asks for, in either of its forms; 0 without one."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _end_of_resumed(response: HTTPResponse | HTTPError, held: int) -> int | None:
    """Size of the whole file when a 206 answer continues `held` bytes of it; None when it does not fit on them."""
    span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "").strip())
    if response.status != 206 or span is None or not isinstance(response, HTTPResponse):
        return None
    first, stop = int(span[1]), int(span[2]) + 1
    end = stop if span[3] == "*" else int(span[3])
    fits = first == held < stop <= end and response.length in (None, stop - first)
    return end if fits else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    """Hex digest of the file's bytes on disk; "" if there is no file."""
    return sha256_of(path) if path.exists() else ""


@contextmanager
def _alone(lock: Path, part: Path, bar: _Progress) -> Iterator[None]:
    """Hold `lock` against other processes. The system frees it when a process dies, however it dies."""
    with locked(lock, told=lambda: bar.say("another process is downloading it; waiting")):
        try:
            yield
        finally:
            if not _size(part):
                part.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)


class _Progress:
    """Bytes, speed and time left of one file; nothing without a stream."""

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self.line, self.name = Line(stream) if stream is not None else None, name
        self.total: int | None = None

    def start(self, size: int, total: int | None) -> None:
        self.first, self.total, self.began = size, total, monotonic()

    def at(self, size: int) -> None:
        if self.line is None or not (self.line.due() or size == self.total):
            return
        spent = max(monotonic() - self.began, 1e-3)
        text = f"{size / 1e6:.1f} MB, {(size - self.first) / spent / 1e6:.1f} MB/s"
        if self.total:
            drawn = f"{bar(size, self.total)} " if self.line.terminal else ""
            left = time_left(size - self.first, self.total - self.first, spent)
            text = f"{drawn}{100 * size // self.total}% of {self.total / 1e6:.1f} MB{text[text.index(',') :]}{left}"
        self.line.show(f"{self.name}: {text}", now=True)

    def say(self, text: str) -> None:
        self.end()
        if self.line is not None:
            print(f"{self.name}: {text}", file=self.line.stream, flush=True)

    def end(self) -> None:
        """Leaves the bar as it is and goes to the next line."""
        if self.line is not None:
            self.line.end()
