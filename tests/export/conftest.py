"""Small exports to look at, made once for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
Export = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_export() -> Export:
    """Runs `python -m export` as a user would, in the repository, without weights from this machine's own caches."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "export", *map(str, arguments)],
            cwd=REPOSITORY,
            env={**os.environ, "EFFICIENTNET_WEIGHTS": "", **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, run_export: Export) -> Path:
    """Artifacts of b0 with random weights at 64 px: quick to make, and everything but the accuracy is as in a real one."""
    folder = tmp_path_factory.mktemp("artifacts")
    done = run_export("--variant", "b0", "--weights", "random", "--resolution", "64", "--artifacts", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The shared images and checkpoints, where there are any."""
    if not os.environ.get("EFFICIENTNET_TEST_DATA"):
        pytest.skip("EFFICIENTNET_TEST_DATA is not set: no labelled images, no checkpoints")
    return Path(os.environ["EFFICIENTNET_TEST_DATA"])
