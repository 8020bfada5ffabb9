"""The images that several tests learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.finetune.colours import fill


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images of each of three classes."""
    return fill(tmp_path_factory.mktemp("data") / "colours", 20)
