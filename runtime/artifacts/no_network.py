"""Files that are called networks and are none: told by their first bytes, with what to do."""

from __future__ import annotations

import re
from typing import Any

from ..errors import UserError

HEAD = 512  # bytes that tell

_OTHERS = (
    (b"version https://git-lfs", "only points at a file that git-lfs holds. Fetch it again: 'git lfs pull' brings it"),
    (
        b"\x89hdf\r\n\x1a\n",
        "is an HDF5 file, as Keras writes them, which is not supported. Fetch it again as PyTorch's or as ONNX",
    ),
    (b"<!doctype", "is a web page, so the download went wrong. Fetch it again"),
    (b"<html", "is a web page, so the download went wrong. Fetch it again"),
    (b"<?xml", "is XML, as servers send with an error, so the download went wrong. Fetch it again"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
)


def refuse_others(path: Any, start: bytes) -> None:
    """Raises UserError where the file `path`, which begins with the bytes `start`, is of a kind that people meet in place of a
    network."""
    if not start:
        raise UserError(f"{path} is empty, so the download or the copy went wrong. Fetch it again.")
    begins = start.lstrip().lower()
    for sign, what in _OTHERS:
        if begins.startswith(sign):
            raise UserError(f"{path} {what}.")
    if re.match(rb'\{\s*["}]', begins):  # of a safetensors file, the brace would be part of a length
        raise UserError(f"{path} is JSON, not weights: settings, or a server's error. Give the file of the weights.")
    if start[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive: unpack it first.")
