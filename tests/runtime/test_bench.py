"""python -m runtime.bench: its rows, its doubts, and what it says to mistakes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest

from runtime import bench
from runtime.artifacts.artifact import find_artifact
from runtime.artifacts.onnx_metadata import verify
from runtime.artifacts.third_party import Shape, shape_of
from runtime.errors import UserError
from runtime.measure.cold import Cold, cold_start
from runtime.measure.energy import Counter, Meter
from runtime.networks.classifier import Classifier

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
STAGES = ["decode", "resize", "normalise", "compute", "softmax"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_artifacts: Path) -> Path:
    """The current folder, from which the small network is the model exported last."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(small_artifacts))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: Any, meter: Optional[Meter] = None) -> int:
    """In this process, without its cold starts."""
    monkeypatch.setattr(sys, "argv", ["bench", "--seconds", "0.05", "--threads", "1", *map(str, arguments)])
    monkeypatch.setattr(bench, "cold_start", lambda *_: Cold(2.0, 3.0, None))
    monkeypatch.setattr(bench, "open_meter", lambda: meter)
    return bench.main()


@pytest.mark.smoke
def test_whole_command(here: Path, small_model: Path) -> None:
    """In a process of its own, as people run it."""
    command = [sys.executable, "-m", "runtime.bench", "--variant", "lite0", "--images", str(DATA)]
    command += ["--seconds", "0.1", "--threads", "1", "--json", "deep/bench.json"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=900)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    result = json.loads((here / "deep/bench.json").read_text(), parse_constant=pytest.fail)
    assert (result["written_by"], result["schema"], result["failed"]) == ("runtime.bench", 1, [])
    assert result["machine"]["cores"] == os.cpu_count() and result["picture"].endswith((".jpg", ".png"))
    (row,) = result["rows"]
    expected = {"variant": "lite0", "precision": "fp32", "backend_name": "onnxruntime", "model": "lite0.fp32.onnx"}
    assert {key: row[key] for key in expected} == expected
    assert row["sha256"] == verify(small_model) and row["file_mb"] == small_model.stat().st_size / 1e6
    assert (row["batch"], row["resolution"], row["random"]) == (1, 224, False)
    assert (row["multiply_adds"], row["parameters"]) == (385187552, 4652008)
    assert list(row["stages"]) == STAGES
    assert set(row["total"]) == {"n", "p50", "p90", "p99", "mean", "std", "low", "high"}
    assert row["throughput_per_s"] == pytest.approx(1e3 / row["total"]["mean"])
    assert 0 < row["load_ms"] < row["cold_start_ms"]
    assert 20 < row["peak_mb"] < 2000
    assert "decode" in done.stdout


def test_a_third_party_model_beside_ours(
    here: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(small_model, here / "resnet.onnx")
    assert run_here(monkeypatch, "--variant", "lite0", "--foreign", "resnet.onnx", "--json", "b.json") == 0
    ours, third_party = json.loads((here / "b.json").read_text())["rows"]
    assert ours["ratio_to_first"] == {"median": 1, "low": 1, "high": 1}
    assert (third_party["variant"], third_party["precision"], third_party["resolution"]) == ("resnet", "fp32", 224)
    assert len(third_party["sha256"]) == 64 and third_party["sha256"] != ours["sha256"]
    assert "joules_per_image" not in third_party
    assert capsys.readouterr().out.count("resnet fp32") == 2


def test_batches_and_backends(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A backend that is not there costs its own rows only, and the exit status."""
    models = ("--precisions", "fp32,fp16", "--batch", "1,2", "--backends", "onnxruntime,tensorrt")
    status = run_here(monkeypatch, *models, "--json", "b.json")
    result = json.loads((here / "b.json").read_text())
    told = [(row["precision"], row["batch"]) for row in result["rows"]]
    assert told == [("fp32", 1), ("fp16", 1), ("fp32", 2), ("fp16", 2)]
    assert status == 1 and [each["backend"] for each in result["failed"]] == ["tensorrt", "tensorrt"]
    assert "tensorrt" in capsys.readouterr().err
    assert all("peak_mb" not in row and row["cold_start_ms"] == 3 for row in result["rows"])


def test_beside_a_gpus_time_stands_its_bound(
    here: Path, small_artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GPU that is onnxruntime on the CPU here; and a processor, which has no bound."""
    orin = {"jetson": {"model": "NVIDIA Jetson AGX Orin"}, "memory_gb": 65.0}
    monkeypatch.setattr(bench, "machine", lambda: orin)
    monkeypatch.setattr(bench, "GPU_BACKENDS", ("onnxruntime",))
    assert run_here(monkeypatch, "--json", "b.json") == 0
    row = json.loads((here / "b.json").read_text())["rows"][0]
    assert row["bound_device"] == "agx-orin" and row["bound_ms"] == pytest.approx(0.386, abs=0.002)  # FP32
    out = capsys.readouterr().out
    assert f"{row['stages']['compute']['p50'] / row['bound_ms']:.1f} x the bound" in out and "204.8 GB/s" in out
    monkeypatch.setattr(bench, "machine", lambda: {"gpus": [{"name": "Tesla T4"}]})
    assert run_here(monkeypatch, "--json", "b.json") == 0
    assert "this GPU is not in the table of devices (orin-nano-15w, " in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(small_artifacts))
    monkeypatch.setattr(bench, "machine", lambda: orin)
    assert run_here(monkeypatch, "--json", "b.json") == 0
    assert "bound_ms" not in json.loads((here / "b.json").read_text())["rows"][0]
    assert "bound" not in capsys.readouterr().out


def test_random_weights_are_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, random_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, "--models", random_model, "--json", "b.json") == 0
    assert json.loads((here / "b.json").read_text())["rows"][0]["random"] is True
    out, err = capsys.readouterr()
    assert "lite0 fp32 (random)" in out and "random weights" in err


def test_noise_is_said(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    turns = iter(range(10**9))

    def uneven(subject: Any, pictures: Any) -> Dict[str, float]:
        spent = 5.0 if next(turns) % 2 else 50.0
        return {"compute": spent, "total": spent}

    measured = bench.measure
    monkeypatch.setattr(bench, "measure", lambda *given, **named: measured(*given, **named, run=uneven))
    assert run_here(monkeypatch, "--json", "b.json") == 0
    result = json.loads((here / "b.json").read_text())
    assert result["rows"][0]["noisy"] is True
    out, err = capsys.readouterr()
    assert "Too noisy" in err and "lite0.fp32.onnx" in err and any("Too noisy" in said for said in result["warnings"])
    assert "!" in out.splitlines()[1]


def counted(*counts: int) -> Meter:
    series = [*counts, *counts[-1:] * 10_000]
    return Meter([Counter("counter", lambda: series.pop(0), 1.0)])


def test_energy(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_IDLE", 0.0)
    monkeypatch.setattr("runtime.measure.energy._PERIOD", 60.0)
    passes: List[int] = []
    monkeypatch.setattr(bench, "one_pass", lambda subject, pictures: passes.append(len(pictures)))
    # made, idle from and to, start and stop
    assert run_here(monkeypatch, "--batch", "2", "--json", "b.json", meter=counted(0, 0, 0, 7, 7 + 120)) == 0
    result = json.loads((here / "b.json").read_text())
    (row,) = result["rows"]
    images = sum(passes[1:])  # the first was to see whether it runs
    assert row["joules_per_image"] == pytest.approx(120 / images) and set(passes) == {2}
    assert row["images_per_joule"] == pytest.approx(images / 120)
    assert result["energy"]["source"] == "counter"


@pytest.mark.parametrize("meter", [None, counted(5)])
def test_energy_that_is_not_known_is_absent(
    here: Path, monkeypatch: pytest.MonkeyPatch, meter: Optional[Meter], capsys: pytest.CaptureFixture[str]
) -> None:
    """No meter, or one that saw nothing beyond idle."""
    monkeypatch.setattr(bench, "_IDLE", 0.0)
    assert run_here(monkeypatch, "--json", "b.json", meter=meter) == 0
    assert not {"joules_per_image", "images_per_joule"} & set(json.loads((here / "b.json").read_text())["rows"][0])
    assert "J/image" not in capsys.readouterr().out


def mistaken(arguments: List[str], monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(UserError) as caught:
        run_here(monkeypatch, *arguments)
    return str(caught.value)


def test_mistakes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "empty").mkdir()
    (here / "text.onnx").write_text("not a model")
    (here / "broken").mkdir()
    (here / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    assert "There is no file nope.onnx" in mistaken(["--models", "nope.onnx"], monkeypatch)
    assert "There is no file nope.onnx" in mistaken(["--foreign", "nope.onnx"], monkeypatch)
    assert "make export VARIANT=b7" in mistaken(["--variant", "b7"], monkeypatch)
    assert "text.onnx" in mistaken(["--models", "text.onnx"], monkeypatch)
    assert "text.onnx" in mistaken(["--foreign", "text.onnx"], monkeypatch)
    assert "empty has no images" in mistaken(["--images", "empty"], monkeypatch)
    assert "a.jpg" in mistaken(["--images", "broken"], monkeypatch)
    assert "no backend 'cuda'" in mistaken(["--backend", "cuda"], monkeypatch)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--batch", "0"], "'0' is not a whole number above 0"),
        (["--batch", ","], "nothing is named"),
        (["--seconds", "-1"], "'-1' is not a number of seconds above 0"),
        (["--seconds", "nan"], "'nan' is not a number of seconds above 0"),
        (["--models", "a.onnx", "--variant", "b0"], "--models names files"),
    ],
)
def test_wrong_options(
    arguments: List[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == 2 and said in capsys.readouterr().err


@posix
def test_interrupted(here: Path) -> None:
    def heed() -> None:  # a job in a shell's background ignores it, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    command = [sys.executable, "-m", "runtime.bench", "--threads", "1", "--seconds", "600", "--json", "b.json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed)
    assert process.stderr is not None
    try:
        assert b"in turns" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 130 and b"interrupted" in err and b"Traceback" not in err
        assert out == b"" and not (here / "b.json").exists()
    finally:
        process.kill()
        with contextlib.suppress(ValueError):
            process.communicate()


def test_a_large_parent_does_not_count_as_the_new_process_s_memory(here: Path, small_model: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process's own peak")
    ballast = np.ones(40_000_000)  # 320 MB
    found = cold_start(small_model, "onnxruntime", 1, threads=1, runs=1)
    assert found.peak_mb is not None and 20 < found.peak_mb < ballast.nbytes / 1e6
    assert 0 < found.load_ms < found.start_ms


def test_a_new_process_that_fails_says_why(here: Path) -> None:
    with pytest.raises(UserError, match=r"nope.onnx: error: There is no file nope.onnx"):
        cold_start(Path("nope.onnx"), "onnxruntime", 1, runs=1)


def test_a_batch_that_one_model_cannot_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many graphs are exported for one batch size only, and a GPU's memory ends somewhere."""

    class Single(Classifier):
        def logits(self, batch: np.ndarray) -> np.ndarray:
            if len(batch) > 1 and self.artifact.variant == "lite0.fp16":
                raise RuntimeError("Got invalid dimensions for input: images\nindex: 0 Got: 2 Expected: 1")
            return super().logits(batch)

    monkeypatch.setattr(bench, "open_network", Single)
    path = find_artifact("lite0", "fp16")
    assert run_here(monkeypatch, "--variant", "lite0", "--foreign", path, "--batch", "1,2", "--json", "b.json") == 1
    result = json.loads((here / "b.json").read_text())
    told = [(row["variant"], row["batch"]) for row in result["rows"]]
    assert told == [("lite0", 1), ("lite0.fp16", 1), ("lite0", 2)]
    (failed,) = result["failed"]
    assert (failed["model"], failed["backend"], failed["batch"]) == (str(path), "auto", 2)
    assert "Got invalid dimensions for input: images" in failed["reason"]
    assert "lite0.fp16.onnx can't run" in mistaken(["--foreign", str(path), "--batch", "2"], monkeypatch)


def test_a_new_process_that_fails_costs_its_own_figures_only(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: object) -> Cold:
        raise UserError("A new process can't run lite0.fp32.onnx: it died")

    monkeypatch.setattr(sys, "argv", ["bench", "--seconds", "0.05", "--threads", "1", "--json", "b.json"])
    monkeypatch.setattr(bench, "cold_start", killed)
    assert bench.main() == 0
    (row,) = json.loads((here / "b.json").read_text())["rows"]
    assert not {"cold_start_ms", "load_ms", "peak_mb"} & set(row) and row["total"]["n"] > 0
    assert "it died" in capsys.readouterr().err


def test_shape_of_a_graph(small_model: Path) -> None:
    assert shape_of(small_model) == Shape(224, 1000, None)
