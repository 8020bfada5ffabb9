"""Small exports to look at, made once for all tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.__main__ import main
from tests.in_process import Done, called

REPOSITORY = Path(__file__).parents[2]
Export = Callable[..., Done]


@pytest.fixture(scope="session")
def run_export() -> Export:
    """Calls `python -m export`'s main in the repository, without weights from this machine's own caches."""

    def run(*arguments: str | Path, **environment: str) -> Done:
        with contextlib.chdir(REPOSITORY):
            return called(main, *arguments, **{"EFFICIENTNET_WEIGHTS": "", **environment})

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of b0 with random weights at 64 px: quick to make, and everything but the accuracy is as in a real one.
    Made as a user would, in a process of its own."""
    folder = tmp_path_factory.mktemp("artifacts")
    command = [sys.executable, "-m", "export", "--variant", "b0", "--weights", "random", "--resolution", "64"]
    done = subprocess.run(
        [*command, "--artifacts", str(folder)], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The shared images and checkpoints, where there are any."""
    if not os.environ.get("EFFICIENTNET_TEST_DATA"):
        pytest.skip("EFFICIENTNET_TEST_DATA is not set: no labelled images, no checkpoints")
    return Path(os.environ["EFFICIENTNET_TEST_DATA"])
