"""The folder a job writes to, here or behind any fsspec URL: each file whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Iterator, Optional, Set

from ..errors import UserError
from ..lock import Taken, locked
from ..whole_file import write_whole
from .sources import file_system, is_url


class Store:
    """Files by name, '/' between folders; only the driver uses it, so a cluster needs no shared folder for results."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.files: Any = None  # of fsspec
        self.root = location
        if is_url(location):
            self.files, self.root = file_system(location)

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def names(self, folder: str) -> Set[str]:
        """What lies in `folder`."""
        if self.files is None:
            there = self.path(folder)
            return {name for name in os.listdir(there) if not name.startswith(".")} if os.path.isdir(there) else set()
        self.files.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            return {os.path.basename(each) for each in self.files.ls(self.path(folder), detail=False)}
        return set()

    def read(self, name: str) -> Optional[bytes]:
        """None if there is no such file."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.files is not None:
                return self.files.cat_file(self.path(name))
            return Path(self.path(name)).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Raises UserError if it can't be. Object storage shows an object when all of it is there, as a rename does here."""
        if self.files is None:
            write_whole(Path(self.path(name)), content)
            return
        try:
            self.files.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            self.files.pipe_file(self.path(name), content)
        except Exception as error:  # each protocol has its own kinds
            raise UserError(f"{self.location}/{name} can't be written ({type(error).__name__}: {error}).") from None

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.files is not None:
                self.files.rm_file(self.path(name))
            else:
                os.unlink(self.path(name))

    @contextlib.contextmanager
    def mine(self) -> Iterator[None]:
        """While two processes write here, the second is told. Ends with the process, however that ends; behind a URL nobody
        looks, and what two would write is the same."""
        if self.files is not None:
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(self.root, exist_ok=True)
                stack.enter_context(locked(Path(self.path("_lock")), wait=False))
            except Taken:
                raise UserError(
                    f"Another process is writing to {self.root}: wait for it, or choose another folder."
                ) from None
            except OSError as error:
                raise UserError(f"{self.root} can't be written: {error.strerror}.") from None
            yield
