"""Artifacts taken apart, to be put together otherwise, and linked rather than copied."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Tuple

from runtime.artifacts.onnx_metadata import read_metadata, with_metadata


def unsealed(model: Path) -> Tuple[bytes, Dict[str, str]]:
    """An artifact's graph, and its metadata without the checksum: to be sealed again with other facts."""
    metadata = read_metadata(model)
    del metadata["sha256"]
    tail, _ = with_metadata(b"", metadata)
    content = model.read_bytes()
    graph, end = content[: -len(tail)], content[-len(tail) :]
    assert end[:-64] == tail[:-64]  # all but the checksum: the metadata really stand there
    return graph, metadata


def linked(precisions: Path, artifacts: Path) -> Path:
    """`precisions` as artifacts/lite0: links, since a hundred tests' copies fill a disk. Unlink what is to be changed."""
    (artifacts / "lite0").mkdir()
    for file in precisions.iterdir():
        os.link(file, artifacts / "lite0" / file.name)
    return artifacts / "lite0"
