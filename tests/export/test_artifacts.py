"""What `python -m export` leaves behind, as onnx, onnxruntime and a second run see it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models.variants import VARIANTS
from runtime.artifacts.artifact import read_artifact
from runtime.artifacts.onnx_metadata import verify
from runtime.errors import UserError
from tests.models.tiny import TINY
from tests.warm import Command

REPOSITORY = Path(__file__).parents[2]
SMALL = ("--variant", "b0", "--weights", "random", "--resolution", "64")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_is_what_tensorrt_and_netron_expect(small, precision):
    path = small / "b0" / f"b0.{precision}.onnx"
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 17}
    assert model.ir_version <= 8
    (images,), (logits,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (images, logits)]
    assert (images.name, logits.name) == ("images", "logits")
    assert shapes == [["N", 3, 64, 64], ["N", 1000]]
    assert images.type.tensor_type.elem_type == logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert set(kinds) <= {"Conv", "Sigmoid", "Mul", "ReduceMean", "Add", "Flatten", "Gemm", "Cast", "Clip"}
    assert kinds["Conv"] == 81 and kinds["Cast"] == (2 if precision == "fp16" else 0)
    weights = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("weight")}
    assert weights == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT}
    assert "stages.1.0.expand.conv.weight" in {tensor.name for tensor in model.graph.initializer}


def test_any_batch_runs_and_a_picture_does_not_mind_its_neighbours(small):
    session = onnxruntime.InferenceSession(str(small / "b0" / "b0.fp32.onnx"), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(5, 3, 64, 64)).astype(np.float32)
    together = session.run(None, {"images": images})[0]
    alone = np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_the_artifact_says_what_it_is(small):
    fp32, fp16 = (read_artifact(small / "b0" / f"b0.{precision}.onnx") for precision in ("fp32", "fp16"))
    assert (fp32.variant, fp32.precision, fp16.precision) == ("b0", "fp32", "fp16")
    assert fp32.random and fp32.weights == "random weights"
    assert fp32.preprocessing.resolution == 64 and fp32.preprocessing == fp16.preprocessing
    assert len(fp32.labels) == fp32.classes == 1000 and fp32.labels[281].startswith("tabby")
    assert fp16.metadata["fp32_sha256"] == verify(fp32.path)
    assert {"torch", "onnx", "onnxsim"} <= set(json.loads(fp32.metadata["tools"]))
    assert json.loads(fp32.metadata["parity"])["relative_error"] < 1e-4


def test_nothing_changed_means_nothing_done_without_importing_torch(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*.onnx")}
    blocked = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('export', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", blocked, *SMALL, "--artifacts", str(small)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "up to date" in done.stdout, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*.onnx")}


@pytest.mark.parametrize("harm", ["flip a bit of fp32", "cut fp16 short", "remove fp16", "fp16 of another fp32"])
def test_what_is_damaged_or_does_not_belong_is_not_up_to_date(small, tmp_path, harm):
    from export.stage import Request, up_to_date
    from models.weights import Weights

    request = Request(VARIANTS["b0"], Weights(None, "random weights"), {"resolution": 64})
    shutil.copytree(small, tmp_path / "a")
    assert up_to_date(request, tmp_path / "a")
    fp32, fp16 = (tmp_path / "a" / "b0" / f"b0.{precision}.onnx" for precision in ("fp32", "fp16"))
    if harm == "flip a bit of fp32":
        content = bytearray(fp32.read_bytes())
        content[len(content) // 2] ^= 1
        fp32.write_bytes(content)
    elif harm == "cut fp16 short":
        os.truncate(fp16, fp16.stat().st_size - 1)
    elif harm == "remove fp16":
        fp16.unlink()
    else:
        from runtime.artifacts.artifact import sealed
        from runtime.artifacts.onnx_metadata import read_metadata

        model = onnx.load(fp16)
        del model.metadata_props[:]
        content, _ = sealed(model.SerializeToString(), "fp16", {**read_metadata(fp16), "fp32_sha256": "0" * 64})
        fp16.write_bytes(content)
    assert not up_to_date(request, tmp_path / "a")
    assert not up_to_date(Request(VARIANTS["b0"], Weights(None, "random weights"), {"resolution": 96}), small)


@pytest.mark.parametrize(
    "file",
    [
        "models/blocks.py",
        "models/imagenet1k.tsv",
        "export/fp16.py",
        "runtime/artifacts/artifact.py",
        "runtime/images/preprocess.py",
    ],
)
def test_an_export_of_older_code_is_not_up_to_date(small, tmp_path, monkeypatch, file):
    import export.stage
    from export.stage import Request, up_to_date
    from models.weights import Weights

    for room in ("models", "export", "runtime"):
        shutil.copytree(REPOSITORY / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(export.stage, "__file__", str(tmp_path / "export" / "stage.py"))
    request = Request(VARIANTS["b0"], Weights(None, "random weights"), {"resolution": 64})
    assert up_to_date(request, small)  # the same code, wherever it lies
    with open(tmp_path / file, "a") as source:
        source.write("\n")
    assert not up_to_date(request, small)


def test_interrupting_leaves_the_old_files_whole(small, tmp_path):
    """A forced export over an existing one, stopped by Ctrl-C; tests/kill kills it at random moments."""
    folder = tmp_path / "a"
    shutil.copytree(small, folder)
    command, deadline = Command("export", *SMALL, "--force", "--artifacts", folder), time.monotonic() + 300
    while b"b0: tracing" not in command.output.read_bytes():
        assert command.process.is_alive() and time.monotonic() < deadline, command.output.read_bytes()
        time.sleep(0.02)
    os.kill(command.process.pid, signal.SIGINT)
    ended = command.wait(300)
    assert "Traceback" not in ended.text
    assert ended.status == 130, ended.text
    for path in folder.rglob("*.onnx"):
        verify(path)
        read_artifact(path)
    assert not list(folder.rglob("*.tmp"))


def test_a_failed_gate_writes_nothing_and_says_where(monkeypatch, tmp_path):
    import export.to_onnx
    from export.parity import ParityError
    from export.stage import Request
    from export.stage import export as export_stage
    from models.weights import Weights

    simplify = export.to_onnx.simplify

    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        simplified = simplify(model)
        for tensor in simplified.graph.initializer:
            if tensor.name == "stages.3.0.depthwise.conv.weight":
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.01, tensor.name))
        return simplified

    monkeypatch.setattr(export.to_onnx, "simplify", wrong)
    with pytest.raises(ParityError, match=r"simplified: .*part first in stages\.3\.0.*Nothing was written"):
        export_stage(Request(TINY, Weights(None, "random weights"), {"resolution": 64}), tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_what_does_not_fit_fp16_is_not_written(monkeypatch, tmp_path):
    import export.stage
    from export.parity import ParityError
    from models.pretrained import load_pretrained
    from models.weights import Weights

    def too_large(*arguments):
        pretrained = load_pretrained(*arguments)
        block = pretrained.network.stages[2][0]
        block.expand.norm.weight.data *= 1e6  # beyond 65504 in FP16, and undone by the next layer in FP32
        block.depthwise.norm.eps = 1e-5
        block.depthwise.norm.running_var *= 1e12
        block.depthwise.norm.running_mean *= 1e6
        return pretrained

    monkeypatch.setattr("models.pretrained.load_pretrained", too_large)
    with pytest.raises(ParityError, match=r"FP16: .*part first in stages\.2\.0"):
        export.stage.export(export.stage.Request(TINY, Weights(None, "random weights"), {"resolution": 64}), tmp_path)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--variant", "b9"], "There is no variant 'b9'"),
        (["--variant", "b0", "--weights", "nowhere.pth"], "There is no checkpoint nowhere.pth"),
        (["--variant", "b0", "--weights", "README.md"], "README.md"),
        (["--variant", "b0", "--weights", "random", "--resolution", "5"], "between 32 and 2048"),
        (["--variant", "v2-b1", "--offline"], "Give WEIGHTS="),
        ([*SMALL, "--labels", "pyproject.toml"], "one name a line"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_status_2(run_export, tmp_path, arguments, sentence):
    done = run_export(*arguments, "--artifacts", tmp_path, TORCH_HOME=str(tmp_path), HF_HOME=str(tmp_path))
    assert done.status == 2
    assert sentence in done.err
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_folder_that_can_not_be_written_is_seen_before_the_work(tmp_path):
    from export.stage import Request, export
    from models.weights import Weights

    (tmp_path / "artifacts").touch()
    steps = []
    with pytest.raises(UserError, match="artifacts/b0 can't be written: Not a directory"):
        export(Request(VARIANTS["b0"], Weights(None, "random weights")), tmp_path / "artifacts", steps.append)
    assert not steps


def test_own_classes_and_their_names(run_export, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "b0", TINY)
    names = tmp_path / "names.txt"
    names.write_text("Löwenzahn\n蒲公英\nweed, other\n", encoding="utf-8")
    done = run_export(*SMALL, "--classes", "3", "--labels", names, "--artifacts", tmp_path / "a")
    assert done.status == 0, done.err
    assert read_artifact(tmp_path / "a" / "b0" / "b0.fp32.onnx").labels == ["Löwenzahn", "蒲公英", "weed, other"]
    names.write_text("one\ntwo\n")
    done = run_export(*SMALL, "--classes", "3", "--labels", names, "--artifacts", tmp_path / "a")
    assert done.status == 2 and "2 lines for 3 classes" in done.err


# Every kind of block, and the depth of 55 blocks, each of which adds to the rounding; the others show nothing new.
SHOWN = {"lite1": VARIANTS["lite1"], "v2-b0": VARIANTS["v2-b0"], "deep": replace(VARIANTS["b7"], width=0.25)}
LONG = [pytest.param(each, id=name, marks=pytest.mark.long) for name, each in VARIANTS.items() if name not in SHOWN]


@pytest.mark.parametrize("variant", [*(pytest.param(each, id=name) for name, each in SHOWN.items()), *LONG])
def test_every_variant_exports_and_runs(tmp_path, variant):
    """At a small size, so that they fit into a test run; `make export WEIGHTS=random` does them at their own."""
    from export.stage import Request, export
    from models.weights import Weights

    exported = export(Request(variant, Weights(None, "random weights"), {"resolution": 64}), tmp_path)
    session = onnxruntime.InferenceSession(str(exported.files["fp16"]), providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": np.zeros((2, 3, 64, 64), np.float32)})[0].shape == (2, 1000)


def test_a_foreign_onnx_is_not_taken_for_an_artifact(tmp_path):
    path = tmp_path / "foreign.onnx"
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), path)
    with pytest.raises(UserError, match="not one that this project exported"):
        read_artifact(path)
