"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Dict, Mapping

from .errors import UserError

_MASK = threading.Lock()  # the process has one umask, which can only be read by changing it


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` to `path` so that at any moment, power cut included, the old file is there or the new one.

    Raises UserError if the disk is full or the folder can't be written.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """The same for files that belong together: all are on the disk before the first takes its name, so that a disk that is
    full leaves the old ones, not one of them new."""
    temporary: Dict[Path, str] = {}
    path = next(iter(contents))
    try:
        try:
            for path, content in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                _remove_left_behind(path)
                handle, temporary[path] = tempfile.mkstemp(
                    prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp", dir=str(path.parent)
                )
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary[path], 0o666 & ~_umask())  # mkstemp's 0600 would lock other users out of an artifact
            for path in contents:
                os.replace(temporary[path], str(path))
                del temporary[path]
        finally:
            for left in temporary.values():
                with contextlib.suppress(OSError):
                    os.unlink(left)
        if os.name == "posix":  # the renames themselves must reach the disk
            for folder in {path.parent for path in contents}:
                handle = os.open(str(folder), os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
    except OSError as error:
        raise _refused(path, error) from None


def require_room(folder: Path, size: int) -> None:
    """Raises UserError if `folder` can't be written, or its disk has not `size` bytes left: to be asked before long work."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=str(there)):
            pass
        free = shutil.disk_usage(str(there)).free
    except OSError as error:
        raise _refused(folder, error) from None
    if free < size:
        raise UserError(
            f"{folder} has {free / 1e6:.0f} MB left, and about {size / 1e6:.0f} MB will be written. Free some space or "
            "choose another folder."
        )


def _refused(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return UserError(
        f"{path} can't be written: {error.strerror}. {'Free some space or choose' if full else 'Choose'} another folder."
    )


def _umask() -> int:
    with _MASK:  # or another thread reads this one's 0, and leaves it for good
        mask = os.umask(0)
        os.umask(mask)
    return mask


def _remove_left_behind(path: Path) -> None:
    """Removes temporary files of writers of `path` that were killed (their process is gone)."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = old.name[len(path.name) + 2 :].partition(".")[0]
        if os.name == "posix" and pid.isdigit():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                with contextlib.suppress(OSError):
                    old.unlink()
            except OSError:
                pass  # alive, and another user's
