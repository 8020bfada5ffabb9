"""PRECISION=best on a GPU: the search among candidates, on a FAKE TensorRT whose layers take the times that a test gives them.

What putting layers back does to a real network is test_put_back's matter. No real GPU has run any of this.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest

from calibration.layer_graph import LayerGraph
from calibration.quantise.placement import to_half, with_float_weights
from calibration.quantise.prepare import prepare
from export.fp16 import to_fp16
from runtime import engine as command
from runtime.artifacts.artifact import read_artifact
from runtime.backends.tensorrt import builder_process, compare, generations
from runtime.backends.tensorrt.engine import engine_of
from runtime.backends.tensorrt.manifest import read_manifest, write_engine
from runtime.backends.tensorrt.options import Batch, BuildOptions
from runtime.backends.tensorrt.site import open_site
from runtime.backends.tensorrt.tune import Tuned, before, tune
from runtime.backends.tensorrt.tuned import faster
from runtime.networks.classifier import Classifier
from tests.calibration.small_network import SIDE, small_model, write_artifact
from tests.in_process import called
from tests.runtime.backends.fake_bindings import log_error
from tests.runtime.backends.test_tensorrt_build import install

DEPTHWISE = ("/stages.0.0/depthwise", "/stages.1.0/depthwise")
SCORES = [
    {"name": name, "same_class": agreement}
    for name, agreement in (("FP32", 100.0), ("INT8 before TensorRT 10.15", 98.5), ("INT8, chain", 97.0))
]
CALIBRATION = json.dumps({"scores": SCORES, "kept_in_float": []})


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, its blocks called stages 0 and 1, in INT8 from layer to layer, as artifacts of all precisions."""
    folder, model = tmp_path_factory.mktemp("tuned"), small_model()
    for node in model.graph.node:
        node.name = node.name.replace("first/", "/stages.0.0/").replace("second/", "/stages.1.0/")
    network = LayerGraph(model)
    normalised = np.random.default_rng(0).normal(0, 1, (4, 3, SIDE, SIDE)).astype(np.float32)
    graph = prepare(network, lambda: [normalised], 1).graph()
    write_artifact(folder, model)
    write_artifact(folder, to_fp16(model), "fp16")
    write_artifact(folder, with_float_weights(graph), "int8", calibration=CALIBRATION)
    write_artifact(folder, to_half(graph), "int8-fp16", calibration=CALIBRATION)
    return folder


@pytest.fixture
def folder(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small").mkdir()
    for file in artifacts.glob("small/*.onnx"):
        (tmp_path / "small" / file.name).symlink_to(file)
    monkeypatch.setattr(compare, "WARM", 1)
    monkeypatch.setattr(compare, "ROUNDS", 12)  # the fake runs real networks on the CPU
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path))
    return tmp_path


def times(pointwise: float, depthwise: float, stage_1: float = 1.0) -> Callable[[Any], float]:
    """Milliseconds of a layer: INT8 of pointwise and depthwise convolutions, the former `stage_1` times in stage 1; FP16 1."""

    def spent(layer: Any) -> float:
        if not layer["count"]:
            return 0.0
        if not layer["int8"]:
            return 1.0
        return (
            depthwise if "depthwise" in layer["name"] else pointwise * (stage_1 if "stages.1" in layer["name"] else 1)
        )

    return spent


def search(trt: Any, folder: Path, seconds: float = 1e9, clock: Any = None, say: Any = lambda _: None) -> Tuned:
    artifact = read_artifact(folder / "small" / "small.fp16.onnx")
    more = {"clock": clock} if clock else {}
    found = tune(artifact, open_site("tensorrt"), BuildOptions("fp16", Batch(1, 2, 4)), seconds, say, **more)
    assert not list(folder.glob("small/.*")) and not trt.device.problems and not trt.device.leaks()
    return found


def names(found: Tuned) -> list[str]:
    return [candidate.name for candidate in found.record.candidates]


@pytest.mark.parametrize("version", ["8.5.3", "10.3.0", "11.4.0"])
def test_the_known_best_is_found(version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install(version, monkeypatch)
    trt.layer_time = times(0.25, 2.0)
    found = search(trt, folder)
    assert found.record.chosen == "int8, depthwise layers in FP16" and found.engine.path.name.startswith("small.int8.")
    manifest = read_manifest(found.engine.path)
    assert manifest.options.higher == tuple(manifest.put_back) == DEPTHWISE and manifest.options.precision == "int8"
    assert manifest.tuning == found.record.as_dict()
    by_name = {candidate.name: candidate for candidate in found.record.candidates}
    best, whole = by_name[found.record.chosen], by_name["int8 as calibrated"]
    assert best.milliseconds and whole.milliseconds and best.milliseconds < whole.milliseconds
    assert best.agreement == 98.5 and whole.agreement == 97.0  # as calibration judged just these forms
    assert best.at_least > 1.02 and best.put_back == 2 and by_name["fp16"].speedup == 1
    oracle = [name for name in by_name if "the builder's own choice" in name]
    assert len(oracle) == (version != "11.4.0")  # which can't choose INT8 by itself any more
    assert not any(call in trt.calls for call in (("IBuilderConfig", "int8_calibrator"),))


def test_a_stage_that_int8_slows_down_goes_back_to_fp16(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install("10.16.1", monkeypatch)
    trt.layer_time = times(0.25, 0.25, stage_1=6.0)
    found = search(trt, folder)
    assert found.record.chosen == "int8, slow stages in FP16, round 1"
    assert set(found.manifest.put_back) == {f"/stages.1.0/{part}" for part in ("expand", "depthwise", "project")}
    best = found.record.candidates[names(found).index(found.record.chosen)]
    assert (
        best.agreement == 97.0 and best.judged == "at least that of INT8, chain"
    )  # that form was not judged: at least the artifact's


def test_less_than_two_percent_is_not_worth_int8(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install("11.4.0", monkeypatch)
    trt.layer_time = times(0.99, 0.99)
    found = search(trt, folder)
    assert found.record.chosen == "fp16" and "is only 1.0" in found.record.why
    assert read_manifest(found.engine.path).tuning and found.engine.path.name.startswith("small.fp16.")


def test_where_the_builder_itself_gains_nothing_nothing_is_searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install("10.3.0", monkeypatch)
    trt.layer_time = times(0.98, 0.98)
    found = search(trt, folder)
    assert found.record.chosen == "fp16" and "even with INT8 wherever the builder likes" in found.record.why
    assert len(found.record.candidates) == 2 and ("ITensor", "set_dynamic_range") in trt.calls


def test_a_candidate_that_is_refused_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorRT 8.5 refuses depthwise INT8 convolutions with SiLU."""
    trt = install("8.5.3", monkeypatch)
    trt.layer_time = times(0.25, 0.25)
    real = trt.Builder.build_serialized_network

    def build(self: Any, network: Any, config: Any) -> Any:
        content = real(self, network, config)
        layers = json.loads(bytes(content).split(b"\n")[1])["layers"]
        if any(layer["int8"] and "depthwise" in layer["name"] for layer in layers):
            log_error(trt, "Could not find any implementation for node /stages.0.0/depthwise.")
            return None
        return content

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    said: list[str] = []
    found = search(trt, folder, say=said.append)
    assert found.record.chosen == "int8, depthwise layers in FP16"
    refused = [candidate for candidate in found.record.candidates if candidate.error]
    assert len(refused) == 2 and all("no kernel fits a layer" in candidate.error for candidate in refused)
    assert "int8 as calibrated: passed over: TensorRT can't build the network" in "\n".join(said)


def test_it_stops_in_time_with_the_best_so_far(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, now = install("11.4.0", monkeypatch), [0.0]
    trt.layer_time = times(0.25, 2.0)

    def clock() -> float:
        now[0] += 10
        return now[0]

    found = search(trt, folder, seconds=35, clock=clock)  # a candidate takes 10 s by this clock
    assert names(found) == ["fp16", "int8 as calibrated"] and found.record.chosen == "int8 as calibrated"
    assert found.record.stopped.startswith("after 30 of at most 35 s")


def test_ctrl_c_keeps_the_best_so_far(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install("11.4.0", monkeypatch)
    trt.layer_time, real = times(0.25, 0.75), builder_process._run

    def run(request: Any, name: str) -> Any:
        if tuple(request["options"]["higher"] or ()) == DEPTHWISE:
            raise KeyboardInterrupt
        return real(request, name)

    monkeypatch.setattr(builder_process, "_run", run)
    found = search(trt, folder)
    assert found.record.chosen == "int8 as calibrated" and found.record.stopped == "interrupted"
    assert read_manifest(found.engine.path).tuning == found.record.as_dict()


def test_without_an_int8_artifact_it_is_fp16(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install("10.3.0", monkeypatch)
    for file in folder.glob("small/small.int8*"):
        file.unlink()
    found = search(trt, folder)
    assert found.record.chosen == "fp16" and "make calibrate VARIANT=small" in found.record.why


def test_the_command_searches_once_and_infer_takes_what_it_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trt = install("10.3.0", monkeypatch)
    monkeypatch.setattr(generations, "installed", lambda name: name == "tensorrt")
    trt.layer_time = times(0.25, 2.0)
    arguments = ("--variant", "small", "--batch", "1,2,4")
    done = called(command.main, *arguments)
    assert done.status == 0 and "int8, depthwise layers in FP16 is kept for NVIDIA Fake 4090: " in done.out, done.err
    assert "agreement with FP32 98.5 % (INT8 before TensorRT 10.15)" in done.out and "int8 as calibrated: " in done.err
    trt.calls.clear()
    again = called(command.main, *arguments)
    assert "up to date; --force" in again.out and ("Builder", "__init__") not in trt.calls
    (folder / "latest").unlink()  # as if another network had been exported since
    with Classifier(variant="small") as classifier:
        assert classifier.artifact.precision == "int8" and classifier.backend.name == "tensorrt"
    told = capsys.readouterr().err
    assert "small.int8.onnx: int8, depthwise layers in FP16, " in told and "measured on this NVIDIA Fake 4090" in told
    with Classifier(variant="small", precision="fp16") as classifier:
        assert classifier.artifact.precision == "fp16"
    with Classifier(variant="small", backend="onnxruntime") as classifier:
        assert classifier.artifact.precision == "fp32"  # no engine: nothing was measured about that
    assert "measured on" not in capsys.readouterr().err


def test_after_an_update_the_same_layers_are_put_back_and_the_next_search_begins_with_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install("10.16.1", monkeypatch)
    trt.layer_time = times(0.25, 2.0)
    found = search(trt, folder)
    write_engine(found.engine.path, found.engine.path.read_bytes(), found.manifest._replace(version="10.15.0"))
    engine = engine_of(read_artifact(folder / "small" / "small.fp16.onnx"), open_site("tensorrt"), "int8")
    engine.fitting()  # built anew, as infer does it
    manifest = read_manifest(engine.path)
    assert manifest.version == "10.16.1" and tuple(manifest.put_back) == DEPTHWISE and manifest.tuning
    trt.layer_time = times(0.25, 0.25)  # the update has made depthwise layers faster
    again = search(trt, folder)
    assert names(again)[2:4] == ["int8 as it was chosen last", "int8 as calibrated"]
    assert again.record.chosen == "int8 as calibrated"


@pytest.mark.parametrize(
    "damage", [{}, {"chosen": "x"}, {"candidates": [{"name": "x", "milliseconds": "soon"}]}, {"why": ["\x1b[2J"]}]
)
def test_a_record_that_somebody_changed_is_none(
    damage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trt = install("11.4.0", monkeypatch)
    monkeypatch.setattr(generations, "installed", lambda name: name == "tensorrt")
    trt.layer_time = times(0.25, 0.25)
    found = search(trt, folder)
    record = {**found.record.as_dict(), **damage} if damage else {}
    found.engine.remember(found.manifest._replace(tuning=record), {})
    spoilt = isinstance(damage.get("why"), list) or "candidates" in damage or not damage
    with Classifier(variant="small") as classifier:
        assert classifier.artifact.precision == ("fp32" if spoilt else "int8")
    assert "\x1b" not in capsys.readouterr().err
    assert (before(found.engine.source, found.engine.site, BuildOptions("fp16", Batch(1, 2, 4))) is None) == spoilt


@pytest.mark.parametrize(("version", "back"), [("8.5.3", 2), ("10.3.0", 2), ("10.16.1", 0), ("11.4.0", 0)])
def test_without_a_search_the_generation_decides(
    version: str, back: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(version, monkeypatch)
    engine = engine_of(read_artifact(folder / "small" / "small.fp16.onnx"), open_site("tensorrt"), "int8")
    manifest = engine.build(BuildOptions("int8"))
    assert tuple(manifest.put_back) == DEPTHWISE[:back] and manifest.options.higher is None


def test_the_interval_of_a_speedup() -> None:
    random = np.random.default_rng(0)
    slow, fast = random.normal(1.02, 0.05, 100), random.normal(1.0, 0.05, 100)
    speedup, at_least = faster(list(slow), list(fast))
    assert at_least < 1.02 < speedup + 0.03  # noise of 5 % does not prove 2 %
    assert faster([1.0] * 100, [0.5] * 100) == (2.0, 2.0)


def test_layers_that_were_put_back_are_named_in_the_onnx_file(artifacts: Path) -> None:
    graph = onnx.load(artifacts / "small" / "small.int8-fp16.onnx").graph
    assert {*DEPTHWISE} < {node.name for node in graph.node}
