"""The whole stage on a small network: what it writes, when it does nothing, where it picks up, what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import calibration.__main__
import calibration.report.judge
import calibration.search.fitting
import calibration.search.predicted
import calibration.stage
from calibration.budget import Budget
from calibration.collect.images import CalibrationImages, read_folder
from calibration.layer_graph import logits_of, open_session, sqnr
from calibration.quantise.prepare import Prepared
from calibration.report.speed import Speed
from calibration.search.sensitivity import simulate
from calibration.stage import Request, calibrate, read_network, up_to_date
from calibration.train.training import Schedule
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact
from runtime.artifacts.onnx_metadata import verify
from runtime.errors import UserError
from runtime.measure.bound import kernels_in
from tests.calibration.quantise.test_blocks import assert_fuses
from tests.calibration.small_network import CLASSES, PREPROCESSING, small_model, write_artifact, write_images
from tests.in_process import Done, called

BUDGET = Budget(sqnr=20)


@pytest.fixture
def images(tmp_path: Path) -> CalibrationImages:
    return read_folder(write_images(tmp_path / "photos", 16), PREPROCESSING, CLASSES)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_artifact(tmp_path / "artifacts", small_model())


def command(folder: Path, *arguments: str | Path) -> Done:
    words = ("--variant", "small", "--artifacts", folder, "--threads", 1)
    return called(calibration.__main__.main, *words, *arguments)


def changed(name: str, value: np.ndarray) -> onnx.ModelProto:
    model = small_model()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def test_artifacts_carry_their_facts_and_the_report_its_numbers(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    result = calibrate(Request(artifact, images, budget=BUDGET), folder, 1)
    assert result.met and result.best.sqnr >= 20
    for precision in ("int8", "int8-fp16"):
        written = read_artifact(artifact_path("small", precision, folder))
        verify(written.path)
        assert written.precision == precision and written.preprocessing == PREPROCESSING
        facts = json.loads(written.metadata["calibration"])
        assert facts["pictures"] == 16 and facts["target"] == "tensorrt"
        assert written.metadata["fp32_sha256"] == verify(artifact.path)
        assert any(kernel.int8 for kernel in kernels_in(written.metadata))
    report = json.loads((folder / "small" / "small.calibration.json").read_text())
    assert [score["name"] for score in report["scores"]] == [
        "FP32",
        "INT8, min-max",
        "INT8, chain",
        "INT8 before TensorRT 10.15",
        "INT8, calibrated",
    ]
    moved = {score["name"]: score["moved"] for score in report["scores"]}
    assert moved["INT8, chain"] <= moved["INT8, calibrated"] < moved["INT8 before TensorRT 10.15"]
    assert len(report["layers"]) == 8 and report["multiply_adds_in_int8"] == result.best.share
    page = (folder / "small" / "small.calibration.html").read_text()
    assert "<svg" in page and "INT8, calibrated" in page and "http" not in page and "nan" not in page.lower()
    (ours,) = re.findall(r'<tr class="ours">(.*?)</tr>', page.partition("Predicted cost")[2])  # of the frontier
    assert f">{result.best.activations:.3f}<" in ours and f">{result.best.sqnr:.1f} dB<" in ours
    assert "least entropy" in page
    assert not any(
        float(level) > 150 for level in re.findall(r">([\d.]+) dB</text>", page)
    )  # FP32's are not on the axis


@pytest.mark.parametrize("form", ["chain", "pointwise", "project"])
def test_a_placement_that_was_asked_for_is_what_is_written(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "artifacts"
    result = calibrate(Request(artifact, images, placement=form), folder, 1)
    searched = Request(artifact, images)
    assert not up_to_date(searched, folder) and up_to_date(Request(artifact, images, placement=form), folder)
    model = onnx.load(artifact_path("small", "int8", folder))
    assert assert_fuses(model) == (2 if form == "chain" else 0), "depthwise layers in INT8"
    facts = json.loads(read_artifact(artifact_path("small", "int8", folder)).metadata["calibration"])
    assert facts["placement"] == form and facts["scores"][-1]["name"] == f"INT8, {form}"
    assert facts["scores"][-1]["sqnr"] == pytest.approx(result.best.sqnr, abs=0.01)
    assert not result.asked and "No goal was set" in (folder / "small" / "small.calibration.html").read_text()


def test_a_graph_whose_sizes_are_unknown_is_calibrated_all_the_same(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise ValueError("the size of x is unknown")

    for module in (calibration.search.predicted, calibration.report.judge):
        monkeypatch.setattr(module, "cost", unknown)
    result = calibrate(Request(artifact, images, budget=BUDGET), tmp_path, 1)
    assert result.met and result.best.activations == 1.0 and result.scores[-1].moved is None


def test_another_target_or_form_reuses_the_long_steps(artifact: Artifact, images: CalibrationImages) -> None:
    first, *others = (
        Request(artifact, images),
        Request(artifact, images, target="cpu"),
        Request(artifact, images, placement="chain"),
    )
    assert all(other.steps == first.steps and other.digest != first.digest for other in others)


def test_judged_on_images_that_nothing_was_fitted_on(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path
) -> None:
    result = calibrate(Request(artifact, images, budget=BUDGET), tmp_path, 1)
    fit, held_out = np.arange(16)[np.arange(16) % 4 != 3], np.arange(3, 16, 4)
    got = simulate(onnx.load(artifact_path("small", "int8", tmp_path)), images.batches(), 1)
    expected = logits_of(open_session(onnx.load(artifact.path), 1), images.batches())
    assert result.scores[-1].sqnr == pytest.approx(sqnr(expected[held_out], got[held_out]), abs=0.01)
    assert result.best.sqnr == pytest.approx(result.scores[-1].sqnr, abs=0.01)
    assert result.scores[-1].sqnr != pytest.approx(sqnr(expected[fit], got[fit]), abs=0.1)
    other = read_folder(write_images(tmp_path / "other", 5), PREPROCESSING, CLASSES)
    judged = calibrate(Request(artifact, images, other, BUDGET), tmp_path, 1)
    assert judged.judged_on == "5 images of other" and "4 images held out of photos" in result.judged_on


def test_training_leaves_no_layer_in_higher_precision_and_says_what_it_did(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With its ranges tried in chain, so small a network leaves training nothing to gain.
    monkeypatch.setattr(calibration.search.fitting, "fit_chains", lambda *_: None)
    arguments = ["--calib", str(tmp_path / "photos"), "--qat", "--epochs", "2"]
    done = command(tmp_path / "artifacts", *arguments)
    assert done.status == 0, done.err
    written = read_artifact(artifact_path("small", "int8", tmp_path / "artifacts"))
    facts = json.loads(written.metadata["calibration"])
    assert facts["kept_in_float"] == [] and facts["training"]["epochs"] == 2
    names = [score["name"] for score in facts["scores"]]
    assert facts["trained"] and names[:3] == ["FP32", "INT8, min-max", "INT8, calibrated"]
    assert names[3:] == ["INT8 before TensorRT 10.15", "INT8, trained"]
    assert "all layers trained, 2 epochs" in done.out
    assert "trained for 2 epochs" in (written.path.parent / "small.calibration.html").read_text()
    assert "calibrated already" in command(tmp_path / "artifacts", *arguments).out
    assert "calibrated already" not in command(tmp_path / "artifacts", *arguments[:2]).out  # another request
    assert command(tmp_path / "artifacts", "--epochs", "2").status == 2


def test_for_the_cpu_what_openvino_answers_is_judged_too(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine whose arithmetic loses classes, as on processors without VNNI, is not called worth it."""
    monkeypatch.setattr(
        calibration.report.judge, "openvino_logits", lambda model, batches, like: -simulate(model, batches)
    )
    monkeypatch.setattr(
        calibration.stage, "measure_speed", lambda *_: [Speed("FP32, onnxruntime", 9, 1), Speed("INT8, OpenVINO", 3, 3)]
    )
    result = calibrate(Request(artifact, images, target="cpu"), tmp_path, 1)
    assert result.budget == Budget(sqnr=25), "a processor's own"
    assert [score.name for score in result.scores][-2:] == ["INT8, OpenVINO", "INT8, calibrated"]
    assert result.speeds[1].lost > 50 and result.speeds[0].lost == 0
    page = (tmp_path / "small" / "small.calibration.html").read_text()
    assert "not worth it" in page and "OpenVINO with VNNI and AMX, as a share of FP32" in page


def test_training_that_does_harm_is_left_out(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harmed(run: object, prepared: Prepared, *_: object) -> Prepared:
        layers = {name: replace(layer, weight=layer.weight // 2) for name, layer in prepared.layers.items()}
        return replace(prepared, layers=layers)

    monkeypatch.setattr(calibration.stage, "_trained", harmed)
    result = calibrate(Request(artifact, images, budget=BUDGET, training=Schedule(epochs=1)), tmp_path, 1)
    assert not result.trained and any("training did harm" in note for note in result.notes)
    assert [score.name for score in result.scores][-3::2] == ["INT8, trained", "INT8, calibrated"]
    assert result.best.sqnr == result.points[0].sqnr > result.points[1].sqnr
    assert "which did harm" in (tmp_path / "small" / "small.calibration.html").read_text()


def test_doing_it_again_changes_nothing_and_another_request_is_noticed(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    request = Request(artifact, images, budget=BUDGET)
    assert not up_to_date(request, folder)
    calibrate(Request(artifact, images, budget=BUDGET), folder, 1)
    first = artifact_path("small", "int8", folder).read_bytes()
    assert up_to_date(request, folder)
    assert not up_to_date(Request(artifact, images, budget=Budget(agreement=1)), folder)
    calibrate(Request(artifact, images, budget=BUDGET), folder, 1)
    strip = len(first) - first.rfind(b"calibration")
    assert artifact_path("small", "int8", folder).read_bytes()[:-strip] == first[:-strip]


def test_an_interrupted_run_goes_on_where_it_stopped(
    artifact: Artifact, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tried, real = tmp_path / "artifacts", [], calibration.search.fitting.damage

    def counted(*arguments):  # type: ignore[no-untyped-def]
        if len(tried) == 4:
            raise KeyboardInterrupt
        tried.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(calibration.search.fitting, "damage", counted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(Request(artifact, images, budget=BUDGET), folder, 1)
    assert not artifact_path("small", "int8", folder).exists()

    def never(*_: object) -> None:
        raise AssertionError("what is known was made again")

    def other(*arguments):  # type: ignore[no-untyped-def]
        again.append(arguments)
        return real(*arguments)

    again: list[tuple] = []
    monkeypatch.setattr(calibration.search.fitting, "damage", other)
    monkeypatch.setattr(calibration.search.fitting, "prepare", never)
    calibrate(Request(artifact, images, budget=BUDGET), folder, 1)
    # stem, first (two forms, without an expansion: two), second (three) and head: what was tried whole is not tried again
    assert 0 < len(again) < len(tried) + len(again) <= 9
    assert artifact_path("small", "int8", folder).exists()


def test_a_dead_channel_and_a_tensor_that_is_always_zero_are_survived(
    images: CalibrationImages, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.3, (32, 8, 1, 1))
    weight[3:6] = 0
    dead = changed("first/expand.weight", weight)
    for tensor in dead.graph.initializer:
        if tensor.name == "second/expand.weight":  # and the bias with it: what follows sees zeros only
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((32, 8, 1, 1), np.float32), tensor.name))
        if tensor.name == "second/expand.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(32, np.float32), tensor.name))
    artifact = write_artifact(tmp_path / "artifacts", dead)
    result = calibrate(Request(artifact, images, budget=Budget(sqnr=15)), tmp_path / "artifacts", 1)
    assert result.best.sqnr > 15
    model = onnx.load(artifact_path("small", "int8", tmp_path / "artifacts"))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        assert values.dtype.kind != "f" or np.isfinite(values).all()
        assert not tensor.name.endswith("_scale") or (values > 0).all()
    assert np.isfinite(logits_of(open_session(model, 1), images.batches())).all()


def test_networks_that_can_not_be_calibrated_are_refused(tmp_path: Path) -> None:
    nan = write_artifact(tmp_path / "nan", changed("head.weight", np.full((32, 8, 1, 1), np.nan)))
    with pytest.raises(UserError, match=r"head\.weight hold NaN"):
        read_network(nan)
    with pytest.raises(UserError, match="int8 already"):
        read_network(write_artifact(tmp_path / "int8", small_model(), "int8"))


def test_command_tells_users_what_is_wrong_and_writes_nothing(artifact: Artifact, tmp_path: Path) -> None:
    folder, texts = tmp_path / "artifacts", tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("words")
    for arguments, words in (
        (("--calib", texts), "holds no images"),
        (("--calib", tmp_path / "absent"), "not a folder"),
        (("--calib", texts, "--budget", "much"), "--budget much"),
    ):
        done = command(folder, *arguments)
        assert done.status == 2 and words in done.err and "Traceback" not in done.err
    foreign = tmp_path / "foreign" / "small" / "small.fp32.onnx"
    foreign.parent.mkdir(parents=True)
    onnx.save(small_model(), foreign)
    done = command(foreign.parents[1], "--calib", write_images(tmp_path / "photos", 4))
    assert done.status == 2 and "not one that this project exported" in done.err
    assert sorted(path.name for path in (folder / "small").iterdir()) == ["small.fp32.onnx"]


def test_command_from_one_image_to_a_second_run(artifact: Artifact, tmp_path: Path) -> None:
    folder, photos = tmp_path / "artifacts", write_images(tmp_path / "photos", 1)
    done = command(folder, "--calib", photos)
    assert done.status == 0, done.err
    assert "WARNING      only 1 images" in done.out and "top-1 agreement" in done.out
    assert "all 1 images of photos, which INT8 was fitted on too" in done.out
    again = command(folder, "--calib", photos)
    assert again.status == 0 and "calibrated already" in again.out
    assert "earlier run" not in command(folder, "--calib", photos, "--force").err
    assert "going on from what an earlier run found" in command(folder, "--calib", photos, "--budget", "1dB").err


def test_sample_images_are_warned_of_in_the_output_the_report_and_the_artifact(
    artifact: Artifact, tmp_path: Path
) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    folder = tmp_path / "artifacts"
    done = command(folder)
    assert done.status == 0, done.err
    assert "WARNING      calibrated on crops of scikit-image's sample images" in done.out
    (warning,) = json.loads(read_artifact(artifact_path("small", "int8", folder)).metadata["calibration"])["warnings"]
    assert "not for a product" in warning
    report = (folder / "small" / "small.calibration.html").read_text()
    assert "WARNING: calibrated on crops" in report
    assert json.loads((folder / "small" / "small.calibration.json").read_text())["warnings"] == [warning]


def test_a_goal_that_is_missed_is_named_and_ends_with_1(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, photos = tmp_path / "artifacts", write_images(tmp_path / "photos", 24)
    monkeypatch.setattr(calibration.stage, "measured", lambda run, budget: lambda model: (0.5, 0.0, 10.0, 24))
    arguments = ["--variant", "small", "--artifacts", str(folder), "--calib", str(photos), "--threads", "1"]
    assert calibration.__main__.main([*arguments, "--budget", "99%"]) == 1
    told = capsys.readouterr()
    assert "MISSED: 99 % top-1 agreement; it is 50.0% agreement on 24 images [31.4, 68.6]" in told.out
    assert "goal was missed: 99 % top-1 agreement" in told.err
    # What it costs is said before it is spent.
    assert "99 % top-1 agreement: from the damage of single blocks, about" in told.err
    page = (folder / "small" / "small.calibration.html").read_text()
    assert "The goal, 99 % top-1 agreement, was missed" in page
    assert artifact_path("small", "int8", folder).is_file()
    assert calibration.__main__.main(arguments) == 0  # nobody asked for the default
    assert "MISSED: 28 dB at the logits" in capsys.readouterr().out


def test_labels_of_other_classes_are_left_unread_with_a_warning(artifact: Artifact, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 8)
    (photos / "labels.csv").write_text(f"file,label\n000.png,{CLASSES}\n")
    done = command(tmp_path / "artifacts", "--calib", photos)
    assert done.status == 0, done.err
    assert "images       8 of" in done.out and "top-1   " not in done.out
    assert f"labels.csv of photos is not used, it has other labels than the network's {CLASSES} classes" in done.out
    done = command(tmp_path / "artifacts", "--calib", photos, "--budget", "0.5")
    assert done.status == 2 and "needs labels" in done.err and "other labels" in done.err
