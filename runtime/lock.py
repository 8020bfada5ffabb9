"""One process at a time: a lock on a file or a folder, which the system frees when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Callable, Iterator, Optional


class Taken(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, wait: bool = True, told: Optional[Callable[[], None]] = None) -> Iterator[None]:
    """Holds `path` against other processes; a file is made if nothing is there. Locks nothing on Windows, nor where the file
    system has no locks.

    With `wait`, waits for another holder, after calling `told`; without, raises Taken. Raises OSError if the file can't be made.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        handle = os.open(str(path), os.O_RDONLY if path.is_dir() else os.O_CREAT | os.O_RDWR, 0o666)
        try:
            _take(fcntl, handle, wait, told)
            if _is_still(path, handle):
                yield
                return
        finally:
            os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    """Whether `path` is the file that was opened: its last holder may have removed it, and a lock on that one is on nothing."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(str(path)))
    except FileNotFoundError:
        return False


def _take(fcntl: object, handle: int, wait: bool, told: Optional[Callable[[], None]]) -> None:
    flock, exclusive, now = fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_NB  # type: ignore[attr-defined]
    try:
        flock(handle, exclusive | now)
    except BlockingIOError:
        if not wait:
            raise Taken from None
        if told:
            told()
        flock(handle, exclusive)
    except OSError:  # no locks here
        pass
