"""A dry run of tests/gpu/measure.py: every step, in its order, on a compiled stand-in for the driver and a FAKE TensorRT.

It shows that the script runs from end to end, keeps what it has and goes on after it; its numbers mean nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.artifacts.artifact import artifact_path, sealed
from tests.gpu.measure import STEPS, TWO_LAYERS
from tests.runtime.artifacts.onnx_bytes import tiny_onnx
from tests.runtime.backends.standin_cuda import standin

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-in is a library for Linux")


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with that driver and TensorRT 8.5.3, and small networks under the names of large ones."""
    for variant in ("b0", "b3", "b4", "b7"):
        for precision in ("fp32", "fp16", "int8"):
            path = artifact_path(variant, precision, tmp_path / "artifacts")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sealed(tiny_onnx(), precision, {**TWO_LAYERS, "variant": variant})[0])
    fake = (
        'from tests.runtime.backends.fake_tensorrt import fake_module\nglobals().update(vars(fake_module("8.5.3")))\n'
    )
    (tmp_path / "tensorrt.py").write_text(fake)
    (tmp_path / "torch.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: False)\n"
    )  # the real one loads long
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(standin(tmp_path)),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "EFFICIENTNET_ARTIFACTS": str(tmp_path / "artifacts"),
    }


def measure(machine: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "gpu" / "measure.py"), *map(str, arguments)]
    return subprocess.run(command, env=machine, cwd=ROOT, capture_output=True, text=True)


def test_every_step_runs_and_what_is_done_is_not_done_again(machine: dict[str, str], tmp_path: Path) -> None:
    results = tmp_path / "rows.json"
    first = measure(machine, "--json", results, "--steps", "driver,two-layers")
    assert "Traceback" not in first.stderr and set(json.loads(results.read_text())) == {"driver", "two-layers"}
    before = json.loads(results.read_text())
    done = measure(machine, "--json", results)
    kept = json.loads(results.read_text())
    missing = {"pycuda", "onnxruntime-cuda"}  # what this machine lacks is named, and left for another Python
    assert set(kept) == {step.name for step in STEPS} - missing, done.stderr
    assert {name: kept[name] for name in before} == before
    assert "driver: done before" in done.stdout
    for name in missing:
        assert f"NOT MEASURED   {name}: " in done.stdout
    assert [row["what"] for row in kept["driver"]] == ["CUDA driver 12.2", "CUDA driver 12.2, shared memory"]
    ours = [row for rows in kept.values() for row in rows if row["what"].startswith("ours")]
    assert len(ours) == 2 * 9 and all(row["cosine"] > 0.999 and row["agreement"] == 1 for row in ours)
    assert "INT8" in kept["b0-int8-fp16"][0]["what"]


def test_a_step_that_fails_does_not_cost_the_others(machine: dict[str, str], tmp_path: Path) -> None:
    machine["STANDIN_CUDA"] = "cuEventElapsedTime=700"
    done = measure(machine, "--json", tmp_path / "rows.json", "--steps", "driver,b0-int8-fp16,pycuda")
    for step in ("driver", "b0-int8-fp16"):
        assert (
            f"NOT MEASURED   {step}: " in done.stdout and "cuEventElapsedTime failed: the GPU accessed" in done.stdout
        )
    assert "Traceback" not in done.stdout + done.stderr and not (tmp_path / "rows.json").exists()
    assert (
        "NOT MEASURED   two-layers: no time left" in measure(machine, "--seconds", -1, "--steps", "two-layers").stdout
    )
