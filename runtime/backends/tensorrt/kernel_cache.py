"""The kernels that TensorRT-RTX compiles when an engine first runs, kept beside the engine, so that it does so only once.

What is kept is code for one engine, one TensorRT-RTX, one GPU and one driver. It is used only if its first line says all of
these, and its bytes are what that line says; else it is as if there were none.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict

from ...whole_file import write_whole
from ..cuda.driver import Gpu

SCHEMA = 1


class KernelCache:
    """The kernels of one engine. It must outlive the execution contexts that are made with `new_config`."""

    def __init__(self, engine: Any, path: Path, content: bytes, library: str, gpu: Gpu) -> None:
        """`engine`: an ICudaEngine of TensorRT-RTX, read from `content` in the file `path`; `library`: "TensorRT-RTX 1.7"."""
        self.path = path.with_name(f"{path.name}.kernels")
        sha256 = hashlib.sha256(content).hexdigest()
        self._key = {
            "schema": SCHEMA,
            "engine": sha256,
            "library": library,
            "gpu": f"{gpu.name}, {gpu.sm}",
            "driver": gpu.driver,
        }
        self._new_config, self._configs = engine.create_runtime_config, [engine.create_runtime_config()]
        self._cache, self._kept = self._configs[0].create_runtime_cache(), self._read()
        if self._kept and not self._cache.deserialize(self._kept):
            self._kept = b""

    def new_config(self) -> Any:
        """What one execution context is made with."""
        config = self._new_config()
        config.set_runtime_cache(self._cache)
        self._configs.append(config)
        return config

    def save(self) -> bool:
        """Writes what has been compiled since it was opened; False if that is nothing. Raises UserError as write_whole does."""
        content = bytes(self._cache.serialize())
        if content == self._kept:
            return False
        write_whole(self.path, json.dumps(self._first_line(content)).encode() + b"\n" + content)
        self._kept = content
        return True

    def _read(self) -> bytes:
        try:
            line, _, content = self.path.read_bytes().partition(b"\n")
            return content if json.loads(line) == self._first_line(content) else b""
        except (OSError, ValueError, RecursionError):
            return b""

    def _first_line(self, content: bytes) -> Dict[str, Any]:
        return {**self._key, "sha256": hashlib.sha256(content).hexdigest()}
