"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import threading
from pathlib import Path

from .errors import UserError

_MASK = threading.Lock()  # the process has one umask, which can only be read by changing it


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` to `path` so that at any moment, power cut included, the old file is there or the new one.

    Raises UserError if the disk is full or the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp", dir=str(path.parent))
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would lock other users out of a shared artifact
            os.replace(temporary, str(path))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if os.name == "posix":  # the rename itself must reach the disk
            folder = os.open(str(path.parent), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror}. Free some space or choose another folder."
        ) from None


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
