"""OpenVINO from several threads at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
# OpenVINO fills its table of types when somebody first asks; two threads that ask at once stop for ever, about every second
# time if Python changes threads as often as here.
SCRIPT = """
import sys, threading
from runtime import Classifier
classify = Classifier(sys.argv[1], backend="openvino", lanes=2)
import openvino
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(2)
threads = [threading.Thread(target=lambda: (barrier.wait(), openvino.Type.f32.to_dtype())) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_lanes_do_not_stop_at_the_first_image(small_model: Path) -> None:
    """Several processes: the table is filled once in each."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    command = [sys.executable, "-c", SCRIPT, str(small_model)]
    processes = [subprocess.Popen(command, cwd=str(REPOSITORY), env={**os.environ}) for _ in range(4)]
    try:
        assert [process.wait(60) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
