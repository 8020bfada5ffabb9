"""SHA-256 of files and of facts: how this project tells whether a thing is the one that another was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Union

from .errors import UserError


def sha256_of(path: Union[str, Path]) -> str:
    """64 hex digits for the bytes of the file `path`. Raises UserError if it can't be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    return digest.hexdigest()


def sha256_of_facts(facts: Any) -> str:
    """64 hex digits for `facts`, which JSON can hold; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
