"""What the attacks have in common: a canary that nothing may touch, and a small artifact to attack with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.artifacts.artifact import Artifact
from tests.calibration.small_network import small_model, write_artifact

SONG = b"nothing happened"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder with one file, beside the one that a test works in: must be as it was, and alone, afterwards."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(SONG)
    yield outside
    assert [path.name for path in outside.iterdir()] == ["canary"], "something was written outside"
    assert (outside / "canary").read_bytes() == SONG, "the canary was changed"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.fixture
def artifact(inside: Path) -> Artifact:
    return write_artifact(inside / "artifacts", small_model())
