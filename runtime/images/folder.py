"""A folder that a camera, a script or a person puts files into. Each file is taken once, when it is complete.

The folder is polled: that needs no library, and works on network drives, where the kernel sends no events.
"""

from __future__ import annotations

import os
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from ..errors import UserError
from .find import SUFFIXES, walk
from .live import Event, Frame, Pace, Stop

_LOOK = 0.2  # seconds between two scans; longer where a scan itself takes long
_BUSY = 0.1  # at most this share of the time is spent on scanning


class _State(NamedTuple):
    """What changes when a file is written."""

    size: int
    changed: int  # ns


class Folder:
    """The images that appear in `path` and its subfolders, in the order in which they were last written.

    Images are recognised by suffix, as in `runtime.images.find.below`; hidden names (.upload.jpg, .thumbnails/) are left out. A
    file is complete when it is not empty and has not changed for `settle` seconds. No file is taken twice, unless it is written
    again. A file that is deleted before it is complete is forgotten. With `existing`, the files that are there at the start come
    first. No image is dropped.
    """

    live = False
    dropped = 0
    missing = 0

    def __init__(
        self, path: str, stop: Stop, settle: float = 0.5, existing: bool = False, rate: Optional[float] = None
    ) -> None:
        if not os.path.isdir(path):
            raise UserError(f"There is no folder {path}.")
        self.path, self.stop, self.settle, self.pace = path, stop, settle, Pace(rate, stop)
        self._events: List[Event] = []
        self._barred: Set[str] = set()
        self._taken: Dict[str, _State] = {}  # of files that are there
        self._growing: Dict[str, Tuple[_State, float]] = {}  # not complete yet: its state, and since when
        if not existing:
            self._taken = self._look() or {}

    def __iter__(self) -> Iterator[Union[Frame, Event]]:
        lost = False
        while not self.stop:
            began = time.monotonic()
            found = self._look()
            spent = time.monotonic() - began
            if (found is None) != lost:
                lost = found is None
                yield Event("folder lost" if lost else "folder back", {"folder": self.path})
            while self._events:
                yield self._events.pop(0)
            for path in self._complete(found) if found is not None else []:
                if not self.pace.wait():
                    return
                yield Frame({"file": path}, path, path, time.monotonic())
            self.stop.pause(max(_LOOK, spent / _BUSY))

    def close(self) -> None:
        """See runtime.images.live.Stream."""

    def _complete(self, found: Dict[str, _State]) -> List[str]:
        now = time.monotonic()
        self._taken = {path: state for path, state in self._taken.items() if path in found}
        growing = {}
        ready = []
        for path, state in found.items():
            if self._taken.get(path) == state:
                continue
            before, since = self._growing.get(path, (state, now))
            since = since if before == state else now
            if now - since >= self.settle and state.size:
                self._taken[path] = state
                ready.append((state.changed, path))
            else:
                growing[path] = (state, since)
        self._growing = growing
        return [path for _, path in sorted(ready)]

    def _look(self) -> Optional[Dict[str, _State]]:
        """The state of every image in the folder, or None if the folder is gone. A subfolder that can't be read is reported once.

        A folder that disappears during the scan counts as gone: otherwise its images would be taken again when it is back.
        """
        if not os.path.isdir(self.path):
            return None
        found: Dict[str, _State] = {}
        for root, files in walk(self.path, self._refused):
            for name in files:
                if name.lower().endswith(SUFFIXES):
                    path = os.path.join(root, name)
                    try:
                        status = os.stat(path)
                    except OSError:  # gone since
                        continue
                    found[path] = _State(status.st_size, status.st_mtime_ns)
        return found if os.path.isdir(self.path) else None

    def _refused(self, error: OSError) -> None:
        if isinstance(error, FileNotFoundError) or error.filename in self._barred:
            return
        self._barred.add(error.filename)
        self._events.append(Event("unreadable", {"folder": error.filename, "error": str(error.strerror)}))
