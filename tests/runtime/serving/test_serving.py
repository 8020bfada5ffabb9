"""The model repository for Triton: what is written, when it changes, and that Triton's own schema reads it. The real server
is in tests/serving."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from runtime.artifacts.artifact import read_artifact, sealed
from runtime.backends.tensorrt.manifest import Manifest, manifest_path, read_manifest
from runtime.backends.tensorrt.options import Batch, BuildOptions
from runtime.errors import UserError
from runtime.serving.__main__ import main
from runtime.serving.batching import DEFAULT, batching_of
from runtime.serving.repository import Wanted, models_of, write_repository
from runtime.sweep.rows import Row
from tests.in_process import called
from tests.runtime.artifacts.changed_artifacts import unsealed
from tests.runtime.sweep.sweep_rows import report, row, summary


@pytest.fixture
def folder(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like artifacts/ that may be changed, with lite0 in it."""
    target = tmp_path / "artifacts" / "lite0"
    target.mkdir(parents=True)
    (target / small_model.name).symlink_to(small_model)
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(target.parent))
    return target.parent


ALL = Wanted()


def write(folder: Path, wanted: Wanted = ALL) -> Dict[str, Any]:
    return {each.name: each for each in write_repository(["lite0"], "fp32", folder / "triton", wanted)}


def parsed(path: Path) -> Any:
    """config.pbtxt as Triton reads it: a field or name that its schema doesn't have is an error."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(encoding="utf-8"), schema.ModelConfig())


def engine(folder: Path, module: str = "tensorrt", gpu: str = "l4-sm89") -> Path:
    """Something that passes for an engine of lite0, as far as one can tell without a GPU."""
    path = folder / "lite0" / f"lite0.fp32.{gpu}.engine"
    path.write_bytes(b"engine")
    options = BuildOptions("fp32", Batch(1, 8, 32))
    sha256 = hashlib.sha256(b"engine").hexdigest()
    onnx = read_artifact(folder / "lite0" / "lite0.fp32.onnx").metadata["sha256"]
    manifest = Manifest(sha256, 6, "lite0.fp32.onnx", onnx, module, "10.3.0", "sm_89", "L4", options, 1.0, 0, {})
    manifest_path(path).write_bytes(manifest.to_json())
    return path


@pytest.mark.smoke
def test_every_config_is_one_of_tritons_and_names_its_folder(folder: Path) -> None:
    engine(folder)
    for device in ("gpu", "cpu"):
        written = write(folder, Wanted(device=device))
        for name in written:
            config = parsed(folder / "triton" / name / "config.pbtxt")
            assert config.name == name
            for warmup in config.model_warmup:
                for each in warmup.inputs.values():
                    assert (
                        not each.input_data_file
                        or (folder / "triton" / name / "warmup" / each.input_data_file).is_file()
                    )
            for group in config.instance_group:
                assert group.kind in (group.KIND_CPU, group.KIND_GPU if device == "gpu" else group.KIND_CPU)


def test_the_ensemble_chains_what_its_steps_take_and_give(folder: Path) -> None:
    written = write(folder)
    configs = {name: parsed(folder / "triton" / name / "config.pbtxt") for name in written}
    whole = configs["lite0_ensemble"]
    known = {each.name: (each.data_type, list(each.dims)) for each in whole.input}
    for step in whole.ensemble_scheduling.step:
        inner = configs[step.model_name]
        assert inner.max_batch_size == whole.max_batch_size
        assert {each.name for each in inner.input} == set(step.input_map)
        for each in inner.input:
            assert known[step.input_map[each.name]] == (each.data_type, list(each.dims))
        known.update({step.output_map[each.name]: (each.data_type, list(each.dims)) for each in inner.output})
    for each in whole.output:
        assert known[each.name] == (each.data_type, list(each.dims))
    assert [each.name for each in whole.output] == [each.name for each in configs["lite0"].output]


def test_a_network_that_takes_pixels_gets_pixels(folder: Path, pixel_model: Path) -> None:
    (folder / "lite0" / "lite0.fp32.onnx").unlink()
    (folder / "lite0" / "lite0.fp32.onnx").symlink_to(pixel_model)
    write(folder)
    for name, ends in (("lite0_onnxruntime", "input"), ("lite0_preprocess", "output")):
        config = parsed(folder / "triton" / name / "config.pbtxt")
        first = getattr(config, ends)[0]
        assert (type(first).DESCRIPTOR.name, list(first.dims)) == (f"Model{ends.capitalize()}", [224, 224, 3])
        assert first.data_type == 2  # TYPE_UINT8
    network = parsed(folder / "triton" / "lite0_onnxruntime" / "config.pbtxt")
    assert ([each.name for each in network.input], [each.name for each in network.output]) == (["pixels"], ["logits"])
    (step,) = [
        each
        for each in parsed(folder / "triton" / "lite0_ensemble" / "config.pbtxt").ensemble_scheduling.step
        if each.model_name == "lite0_tensorrt"
    ]
    assert list(step.input_map) == ["pixels"]


def test_the_engine_is_served_where_there_is_one(folder: Path) -> None:
    path = engine(folder)
    write(folder)
    config = parsed(folder / "triton" / "lite0_tensorrt" / "config.pbtxt")
    assert (config.backend, config.max_batch_size) == ("tensorrt", 32)
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert (folder / "triton" / "lite0_tensorrt" / "1" / "model.plan").read_bytes() == path.read_bytes()
    assert "TensorRT 10.3.0" in (folder / "triton" / "lite0_tensorrt" / "config.pbtxt").read_text()


@pytest.mark.parametrize("module", [None, "tensorrt_rtx"])
def test_without_one_that_triton_loads_the_accelerator_builds_it(folder: Path, module: str) -> None:
    if module:
        engine(folder, module=module)
    write(folder)
    config = parsed(folder / "triton" / "lite0_tensorrt" / "config.pbtxt")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (config.backend, accelerator.name) == ("onnxruntime", "tensorrt")
    assert accelerator.parameters["trt_profile_max_shapes"] == "images:8x3x224x224"


def test_a_stale_engine_is_not_published(folder: Path) -> None:
    path = engine(folder)
    manifest_path(path).write_bytes(read_manifest(path)._replace(onnx_sha256="0" * 64).to_json())
    for kind in ("tensorrt", "python"):
        with pytest.raises(UserError, match="l4-sm89.engine is stale: lite0.fp32.onnx is not the one"):
            write(folder, Wanted((kind,)))


def test_a_damaged_engine_or_one_of_two_is_refused(folder: Path) -> None:
    path = engine(folder)
    path.write_bytes(b"another")
    with pytest.raises(UserError, match="sha256 differs"):
        write(folder)
    engine(folder)
    engine(folder, gpu="a10-sm86")
    with pytest.raises(UserError, match="several GPUs"):
        write(folder)
    assert not (folder / "triton").exists()


def test_what_has_not_changed_is_not_touched(folder: Path) -> None:
    first = write(folder)
    assert all(each.new and each.version == 1 for each in first.values())
    files = [path for path in sorted((folder / "triton").rglob("*")) if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    second = write(folder)
    assert not any(each.new for each in second.values())
    assert {
        path: path.stat().st_mtime_ns for path in sorted((folder / "triton").rglob("*")) if path.is_file()
    } == before


def test_new_weights_are_a_new_version_and_two_are_kept(folder: Path, small_model: Path) -> None:
    write(folder)
    graph, metadata = unsealed(small_model)
    for version in (2, 3):
        file = folder / "lite0" / "lite0.fp32.onnx"
        file.unlink()
        labels = [f"{version}: {label}" for label in json.loads(metadata["labels"])]
        file.write_bytes(sealed(graph, "fp32", {**metadata, "labels": json.dumps(labels)})[0])
        assert {each.version for each in write(folder).values() if each.name != "lite0_ensemble"} == {version}
    there = sorted(path.name for path in (folder / "triton" / "lite0").iterdir() if path.is_dir())
    assert there == ["2", "3", "warmup"]
    assert not list(folder.glob(".triton*"))


@pytest.mark.smoke
def test_the_repository_holds_all_that_its_models_import(folder: Path) -> None:
    """In a process that sees nothing else of this project."""
    write(folder)
    version = folder / "triton" / "lite0_postprocess" / "1"
    program = f"import runpy; runpy.run_path({str(version / 'model.py')!r}); import runtime.serving.model as m; print(m.__file__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=str(folder), check=True)
    assert done.stdout.startswith(str(version.resolve()))
    assert read_artifact(version / "metadata.onnx").labels == read_artifact(folder / "lite0" / "lite0.fp32.onnx").labels


def test_each_device_has_a_folder_and_what_lay_there_is_named(folder: Path) -> None:
    """A CPU can't serve what is for GPUs."""
    for device in ("gpu", "cpu"):
        done = called(main, "--variants", "lite0", "--device", device, "--models", "python,onnxruntime")
        assert done.status == 0 and "from before" not in done.out, done.err
        text = (folder / f"triton-{device}" / "lite0_onnxruntime" / "config.pbtxt").read_text()
        assert ("KIND_GPU" in text) == (device == "gpu")
    done = called(main, "--variants", "lite0", "--device", "cpu", "--models", "python")
    assert f"also in {folder / 'triton-cpu'}, from before: lite0_onnxruntime" in done.out


def test_mistakes_are_said_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(UserError, match="make export VARIANT=b9"):
        list(write_repository(["lite0", "b9"], "fp32", folder / "triton", Wanted()))
    with pytest.raises(UserError, match="add onnxruntime"):
        models_of("lite0", "fp32", Wanted(kinds=("ensemble",)))
    (folder / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        list(write_repository(["lite0"], "fp32", folder / "file", Wanted()))
    assert not (folder / "triton").exists()


def of_batches(milliseconds: Dict[int, float], **more: Any) -> List[Row]:
    return [row("lite0", "fp32", ms, batch=batch, **more) for batch, ms in milliseconds.items()]


def test_batching_follows_the_sweep() -> None:
    swept = report(of_batches({1: 10.0, 4: 24.0, 8: 40.0, 16: 79.0}))  # 10, 6, 5 and 4.94 ms an image
    found = batching_of(swept, "lite0", "fp32", ("onnxruntime",), network=False)
    assert (found.most, found.preferred, found.delay_us, found.dynamic) == (8, (4, 8), 5000, True)
    assert "trial" in found.why
    assert "8: 5.00" in found.why


def test_where_batches_gain_nothing_none_are_formed() -> None:
    swept = report(of_batches({1: 10.0, 8: 80.0}))
    found = batching_of(swept, "lite0", "fp32", ("onnxruntime",), network=False)
    assert (found.most, found.dynamic) == (8, False)


def test_a_sweep_that_does_not_know_says_so() -> None:
    swept = report(of_batches({1: 10.0}))
    found = batching_of(swept, "lite0", "fp32", ("onnxruntime",), network=False)
    assert found._replace(why="") == DEFAULT._replace(why="")
    assert "no two batch sizes of lite0 fp32 on onnxruntime" in found.why


def test_the_network_alone_is_judged_by_its_own_stages() -> None:
    stages = {"decode": summary(1.0), "compute": summary(72.0)}  # what is gained is gained in decoding
    rows = [*of_batches({1: 10.0}), *of_batches({8: 50.0}, stages=stages)]
    found = batching_of(report(rows), "lite0", "fp32", ("onnxruntime",), network=True)
    assert not found.dynamic


def test_of_two_backends_the_one_with_more_throughput_counts() -> None:
    rows = of_batches({1: 10.0, 8: 40.0}) + of_batches(
        {1: 6.0, 4: 12.0}, backend_name="openvino", backend="OpenVINO, CPU"
    )
    found = batching_of(report(rows), "lite0", "fp32", ("onnxruntime", "openvino"), network=False)
    assert (found.most, found.preferred, found.delay_us) == (4, (4,), 3000)
