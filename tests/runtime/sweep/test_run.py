"""The sweep: what it makes, measures, keeps and gives up; with fake commands, and once for real on lite0."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

from runtime.artifacts.artifact import artifact_path, read_artifact, sealed
from runtime.artifacts.onnx_metadata import read_metadata
from runtime.artifacts.third_party import import_onnx
from runtime.errors import UserError
from runtime.sweep import artifacts as making
from runtime.sweep import run as running
from runtime.sweep.__main__ import main
from runtime.sweep.children import BESIDE, Failed, command, reason, run_module
from runtime.sweep.plan import (
    Foreign,
    Plan,
    backends_of,
    batches_of,
    foreign_of,
    precisions_of,
    require_variants,
    variants_of,
)
from runtime.sweep.rows import Row, failures, read_rows
from runtime.sweep.run import sweep
from tests.in_process import called
from tests.interruptible import interruptible
from tests.runtime.artifacts.changed_artifacts import unsealed
from tests.runtime.sweep.sweep_rows import timing

REPOSITORY = Path(__file__).parents[3]
PICTURES = Path(__file__).parents[2] / "data"
METADATA = {
    "resolution": "224",
    "crop": "0.875",
    "interpolation": "bicubic",
    "mean": "[0, 0, 0]",
    "std": "[1, 1, 1]",
    "classes": "3",
    "labels": '["a", "b", "c"]',
    "weights": "some",
    "weights_sha256": "1f",
}
GRAPH = b"\x3a\x00"  # an empty one: enough for the metadata's reader


def plan(**changed: Any) -> Plan:
    few = Plan(["b0"], ["fp32"], ["auto"], [1], [], None, None, None, None, False, None, None)
    return few._replace(**changed)


class Commands:
    """Stands for runtime.bench, runtime.evaluate, export and calibration, and remembers what was asked of them."""

    def __init__(self, **answers: Callable[[List[str]], Any]) -> None:
        self.answers = answers
        self.calls: List[Tuple[str, List[str]]] = []

    def __call__(self, module: str, *arguments: object) -> str:
        words = [str(argument) for argument in arguments]
        self.calls.append((module, words))
        name = module.split(".")[-1]
        if name in self.answers:
            self.answers[name](words)
        return {"bench": self.bench, "evaluate": self.evaluate, "export": self.made, "calibration": self.made}[name](
            words
        )

    def of(self, module: str) -> List[List[str]]:
        return [words for name, words in self.calls if name.split(".")[-1] == module]

    @staticmethod
    def bench(words: List[str]) -> str:
        artifacts = [read_artifact(model) for model in option(words, "--models").split(",")]
        rows = [
            timing(each.variant, each.precision, batch=int(batch), model=each.path.name, sha256=each.metadata["sha256"])
            for each in artifacts
            for batch in option(words, "--batches").split(",")
        ]
        result = {"rows": rows, "machine": {"cpu": "a CPU"}, "warnings": ["busy"], "failed": []}
        Path(option(words, "--json")).write_text(json.dumps(result))
        return "a table"

    @staticmethod
    def evaluate(words: List[str]) -> str:
        return json.dumps(
            {"n": 2, "not_finite": 0, "top1": 50.0, "top1_interval": [9.5, 90.5], "top5": None, "agreement": 100.0}
        )

    @staticmethod
    def made(words: List[str]) -> str:
        for precision in ("fp32", "fp16") if "--calib" not in words else ("int8", "int8-fp16"):
            write_artifact(
                Path(option(words, "--artifacts")), option(words, "--variant"), precision, random="random" in words
            )
        return ""


def option(words: List[str], name: str) -> str:
    return words[words.index(name) + 1]


def write_artifact(folder: Path, variant: str, precision: str, random: bool = False, **changed: str) -> Path:
    path = artifact_path(variant, precision, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: Dict[str, str] = {**METADATA, "variant": variant, **changed, **({"weights_sha256": ""} if random else {})}
    path.write_bytes(sealed(GRAPH, precision, metadata)[0])
    return path


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Fake commands; the current folder is an empty one."""
    fake = Commands()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EFFICIENTNET_ARTIFACTS", raising=False)
    monkeypatch.setattr(running, "run_module", fake)
    monkeypatch.setattr(making, "run_module", fake)
    monkeypatch.setattr(making.importlib.util, "find_spec", lambda name: object())
    return fake


def go(wanted: Plan, name: str = "trial") -> Dict[Tuple[str, str, int], Row]:
    report = sweep(wanted, Path("reports") / name, say=lambda text: None)
    assert read_rows(Path("reports") / name) == report
    return {(each.variant, each.precision, each.batch): each for each in report.rows}


@pytest.mark.smoke
def test_what_is_missing_is_made_and_everything_measured(commands, tmp_path):
    (tmp_path / "photos").mkdir()
    write_artifact(Path("artifacts"), "b0", "fp32", published_top1="77.7", published_source="a paper")
    wanted = plan(
        variants=["b0", "b1"], precisions=["fp32", "int8"], data=Path("photos"), calib=Path("photos"), batches=[1, 8]
    )
    rows = go(wanted)
    assert len(rows) == 8 and all(each.milliseconds == 10 for each in rows.values())
    assert [option(words, "--variant") for words in commands.of("export")] == ["b1"]
    assert [option(words, "--variant") for words in commands.of("calibration")] == ["b0", "b1"]
    # a variant's precisions are measured in turns, and its accuracy once for all batch sizes
    assert [option(words, "--models").count(".onnx") for words in commands.of("bench")] == [2, 2]
    assert len(commands.of("evaluate")) == 4
    assert rows["b1", "int8", 8].accuracy.top1 == 50 and rows["b1", "int8", 8].accuracy.agreement == 100
    assert rows["b0", "fp32", 1].published_top1 == 77.7


def test_what_fails_is_a_row_with_its_reason_and_not_the_end(commands, tmp_path):
    (tmp_path / "photos").mkdir()

    def export(words):
        if option(words, "--variant") == "b1":
            raise Failed("No weights for b1 were found.")

    def bench(words):
        if "b2.fp16" in option(words, "--models"):
            raise Failed("ended by signal 11")

    def evaluate(words):
        if "b3" in option(words, "--model"):
            raise Failed("labels of another set")

    commands.answers.update(export=export, bench=bench, evaluate=evaluate)
    write_artifact(Path("artifacts"), "b4", "fp32").write_bytes(b"damaged")
    rows = go(plan(variants=["b1", "b2", "b3", "b4"], precisions=["fp32", "fp16"], data=Path("photos")))
    assert len([words for words in commands.of("export") if "b1" in words]) == 1  # not once for each precision
    assert rows["b1", "fp32", 1].reason == rows["b1", "fp16", 1].reason == "No weights for b1 were found."
    assert rows["b2", "fp16", 1].reason == "ended by signal 11"
    assert rows["b2", "fp32", 1].latency and rows["b2", "fp32", 1].accuracy.top1 == 50  # measured alone
    assert rows["b3", "fp32", 1].latency and rows["b3", "fp32", 1].accuracy_reason == "labels of another set"
    assert "b4.fp32.onnx" in rows["b4", "fp32", 1].reason


def test_images_that_the_network_failed_on_are_told_beside_the_accuracy(commands, tmp_path):
    (tmp_path / "photos").mkdir()

    def evaluate(words):
        error = Failed("evaluating 2 of 2")
        error.output = json.dumps({"n": 2 - failing, "not_finite": failing, "top1": 50.0, "top1_interval": [9.5, 90.5]})
        raise error

    commands.answers.update(evaluate=evaluate)
    failing = 1
    assert failures(go(plan(data=Path("photos")))["b0", "fp32", 1]) == "1 image failed: NaN or infinity"
    failing = 2
    row = go(plan(data=Path("photos")), "all")["b0", "fp32", 1]
    assert row.accuracy is None and row.accuracy_reason == "all images failed: NaN or infinity"


def test_a_variant_that_does_not_exist_is_an_error_before_anything_is_done(commands, tmp_path):
    done = called(main, "--variants", "b0,b99")
    assert (done.status, commands.calls) == (2, []) and "no variant 'b99'. The family is b0" in done.err
    assert not (tmp_path / "reports").exists()
    (tmp_path / "artifacts" / "birds").mkdir(parents=True)
    for name in ("birds", "timm:resnet50", "EfficientNet_B1", "tf_efficientnetv2_b0-features"):
        require_variants(variants_of(name), tmp_path / "artifacts")
    assert variants_of("B0..B1,efficientnet_b1") == ["b0", "b1"]


def test_a_second_run_measures_only_what_has_changed(commands, tmp_path):
    (tmp_path / "photos").mkdir()
    wanted = plan(variants=["b0", "b1"], precisions=["fp32", "fp16"], data=Path("photos"))
    before = go(wanted)
    commands.calls.clear()
    assert go(wanted) == before and not commands.calls
    assert go(plan()) == before  # without DATA, and with fewer variants: nothing is lost
    assert not commands.calls
    write_artifact(Path("artifacts"), "b1", "fp16", weights="others")
    go(wanted)
    assert [words[1] for words in commands.of("bench")] == [str(Path("artifacts/b1/b1.fp16.onnx"))]
    assert len(commands.of("evaluate")) == 1
    commands.calls.clear()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"1")
    go(wanted)
    assert (len(commands.of("bench")), len(commands.of("evaluate"))) == (0, 4)
    for change, measured in (({"seconds": 3.0}, (2, 0)), ({"threads": 3}, (2, 4)), ({"limit": 1}, (0, 4))):
        commands.calls.clear()
        go(wanted._replace(**change))
        assert (len(commands.of("bench")), len(commands.of("evaluate"))) == measured, change
        go(wanted)


def test_a_sweep_of_another_machine_is_not_gone_on_with(commands, monkeypatch):
    go(plan(variants=["b0", "b1"]))
    monkeypatch.setattr(running, "site", lambda: {"node": "another"})
    assert list(go(plan())) == [("b0", "fp32", 1)]


def test_random_weights_lie_apart_and_never_get_an_accuracy(commands, tmp_path):
    (tmp_path / "photos").mkdir()
    rows = go(plan(random=True, data=Path("photos")))
    assert option(commands.of("export")[0], "--weights") == "random"
    assert Path("artifacts/random/b0/b0.fp32.onnx").is_file() and not Path("artifacts/b0").exists()
    assert not commands.of("evaluate") and rows["b0", "fp32", 1].accuracy is None


def test_a_device_without_the_makers_says_so(commands, monkeypatch):
    monkeypatch.setattr(making.importlib.util, "find_spec", lambda name: None)
    assert "copy it here" in go(plan())["b0", "fp32", 1].reason


@pytest.mark.parametrize(
    ("lines", "status", "expected"),
    [
        (["b0: tracing ...", "error: It can't be."], 2, "It can't be."),
        (
            ["error: No weights. Tried:", "  a: no", "  b: no", "Give WEIGHTS=x."],
            2,
            "No weights. Tried: ... Give WEIGHTS=x.",
        ),
        (
            ["Traceback (most recent call last):", "  File x", "Invalid: 8, not 1", " at: 0", "Mend it."],
            1,
            "Invalid: 8, not 1",
        ),
        (["half a"], -9, "ended by signal 9, probably for want of memory"),
        ([], 3, "ended with status 3 and without a word"),
    ],
)
def test_the_reason_is_what_the_command_ended_with(lines, status, expected):
    assert reason(lines, status) == expected


@pytest.mark.parametrize("name", [*BESIDE, "bench", "evaluate"])
def test_children_are_started_by_a_name_that_there_is(name):
    assert importlib.util.find_spec(command(name)[2]), command(name)


def test_a_child_that_fails_tells_its_reason(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    with pytest.raises(Failed, match=r"There is no file missing.onnx"):
        run_module("infer", "--model", "missing.onnx", PICTURES / "corgi.jpg")
    assert "missing.onnx" in capsys.readouterr().err
    with pytest.raises(Failed, match=r"There is no file missing.onnx"):
        run_module("infer", "--model", "missing.onnx", PICTURES / "corgi.jpg")
    assert capsys.readouterr().err == ""  # what one child said, no other one repeats


def test_what_can_be_asked_for(tmp_path):
    assert variants_of("b0..b2,lite0, v2-b1..2,b1") == ["b0", "b1", "b2", "lite0", "v2-b1", "v2-b2"]
    assert batches_of("8,1") == [1, 8]
    (tmp_path / "net.onnx").write_bytes(b"")
    path = tmp_path / "net.onnx"
    assert foreign_of(f"{path},{path}:ResNet-50") == [Foreign(path, "net"), Foreign(path, "ResNet-50")]
    for wrong in (
        lambda: variants_of("b3..b1"),
        lambda: variants_of("b0..lite4"),
        lambda: batches_of("0"),
        lambda: batches_of("x"),
        lambda: precisions_of("fp8"),
        lambda: backends_of("auto,openvino"),
        lambda: foreign_of("none.onnx"),
        lambda: foreign_of(f"{path}:../x"),
    ):
        with pytest.raises(UserError):
            wrong()


def foreign_copy(model: Path, path: Path) -> Path:
    """The network of the artifact `model` as a file that says nothing of itself."""
    path.write_bytes(unsealed(model)[0])
    assert not read_metadata(path)
    return path


def test_a_network_of_others_is_measured_as_ours_are(small_model, tmp_path):
    path = foreign_copy(small_model, tmp_path / "theirs.onnx")
    artifact = import_onnx(path, tmp_path / "networks", "Theirs", like=read_artifact(small_model))
    assert (artifact.variant, artifact.preprocessing.resolution, artifact.classes) == ("Theirs", 224, 1000)
    assert artifact.labels == read_artifact(small_model).labels and not artifact.random
    written = artifact.path.stat().st_mtime_ns
    assert import_onnx(path, tmp_path / "networks", "Theirs", like=read_artifact(small_model)) == artifact
    assert artifact.path.stat().st_mtime_ns == written
    (tmp_path / "no.onnx").write_bytes(b"no ONNX at all")
    with pytest.raises(UserError, match=r"no\.onnx"):
        import_onnx(tmp_path / "no.onnx", tmp_path / "networks")


# Ctrl-C, as a terminal sends it, when the second variant's measurement has begun: from within, so that it can't be over.
INTERRUPTED = """
import os, runpy, signal, sys

class Watched:
    second = False
    def write(self, text):
        sys.__stderr__.write(text)
        self.second = self.second or text.startswith("[2/2] second")
        if self.second and "in turns" in text:
            os.killpg(0, signal.SIGINT)
    def __getattr__(self, name):
        return getattr(sys.__stderr__, name)

sys.stderr = Watched()
runpy.run_module("runtime.sweep", run_name="__main__", alter_sys=True)
"""


@pytest.mark.once
def test_for_real_interrupted_and_gone_on_with(small_model, tmp_path, monkeypatch):
    for name in ("first", "second"):
        path = artifact_path(name, "fp32", tmp_path / "artifacts")
        path.parent.mkdir(parents=True)
        shutil.copy(str(small_model), str(path))
    (tmp_path / "photos").mkdir()
    for picture in ("corgi.jpg", "lighthouse.jpg"):
        shutil.copy(str(PICTURES / picture), str(tmp_path / "photos"))
    (tmp_path / "photos" / "labels.csv").write_text("file,label\ncorgi.jpg,264\nlighthouse.jpg,437\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment.pop("EFFICIENTNET_ARTIFACTS", None)
    command = [
        sys.executable,
        "-m",
        "runtime.sweep",
        "--variants",
        "first,second",
        "--precisions",
        "fp32",
        "--data",
        "photos",
        "--seconds",
        "0.1",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *command[3:]],
        cwd=str(tmp_path),
        env=environment,
        capture_output=True,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,
        timeout=600,
    )
    assert done.returncode == 130, done.stderr
    kept = read_rows(tmp_path / "reports" / "sweep").rows
    assert [each.variant for each in kept] == ["first"] and kept[0].accuracy.top1 == 100

    done = subprocess.run(command, cwd=str(tmp_path), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "reports" / "sweep").rows
    assert rows[0] == kept[0]
    assert [(each.variant, each.accuracy.top1) for each in rows] == [("first", 100), ("second", 100)]
    assert all(each.milliseconds > 0 and "decode" in each.latency.stages for each in rows)
    files = {path.name for path in (tmp_path / "reports" / "sweep").iterdir() if path.is_file()}
    assert {"sweep.csv", "sweep.json", "sweep.html"} <= files
    monkeypatch.chdir(tmp_path)
    chosen = called(main, "--choose", "--max-ms", "60000")
    assert chosen.status == 0 and ".fp32.onnx" in chosen.out
    assert called(main, "--choose", "--max-ms", "0.001").status == 1
