"""Results of long steps, kept under the sha256 of all that they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runtime.whole_file import write_whole


class Cache:
    """Files in `folder` that belong to `key`. Each begins with the sha256 of the key and its content, so that what is
    damaged, or was made from something else, is as good as not there."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def read(self, name: str) -> bytes | None:
        with contextlib.suppress(OSError):
            head, content = (data := self._path(name).read_bytes())[:64], data[64:]
            if head == self._seal(name, content):
                return content
        return None

    def write(self, name: str, content: bytes) -> None:
        """Keeps `content`, and drops what other keys left under the same name: a cache of one is enough."""
        path = self._path(name)
        write_whole(path, self._seal(name, content) + content)
        for other in self.folder.glob(f"*.{name}"):
            if other != path:
                other.unlink(missing_ok=True)

    def clear(self) -> None:
        """Drops what is kept under this key."""
        for path in self.folder.glob(f"{self.key[:16]}.*"):
            path.unlink(missing_ok=True)

    def read_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        content = self.read(name)
        if content is None:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        self.write(name, file.getvalue())

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.key[:16]}.{name}"

    def _seal(self, name: str, content: bytes) -> bytes:
        return hashlib.sha256(f"{self.key}/{name}/".encode() + content).hexdigest().encode()


def code_digest() -> str:
    """Sha256 of the code that calibrates: another version of it gives other artifacts."""
    digest, own = hashlib.sha256(), Path(__file__).parent
    for source in (*sorted(own.rglob("*.py")), own.parent / "export" / "pixels.py"):
        if source.name not in ("__main__.py", "page.py"):
            digest.update(source.read_bytes())
    return digest.hexdigest()
