"""One name, one network: what was made from another one is refused by every command, with the command that remakes it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List
from unittest import mock

import pytest

from runtime.artifacts.artifact import (
    StaleError,
    artifact_path,
    find_artifact,
    read_artifact,
    sealed,
    set_latest,
)
from runtime.artifacts.facts import facts_of
from runtime.artifacts.identity import REMEDIES
from runtime.artifacts.onnx_metadata import verify
from runtime.artifacts.write import Graph, require_same_weights, write
from runtime.backends.tensorrt.manifest import Manifest, write_engine
from runtime.backends.tensorrt.options import BuildOptions
from runtime.errors import UserError
from tests.in_process import Done, called
from tests.runtime.artifacts.changed_artifacts import unsealed

# What lies under the name now, where INT8 was made from lite0 as it was.
REPLACED: Dict[str, Dict[str, str]] = {
    "other weights": {"weights_sha256": "1" * 64, "tensors_sha256": "2" * 64},
    "other resolution": {"resolution": "192"},
    "other classes": {"labels": json.dumps([f"class {i}" for i in range(1000)])},
}

# Every command that reads artifacts: module and arguments, {images} is a folder of images.
READERS: Dict[str, List[str]] = {
    "infer": ["{images}", "--variant", "lite0", "--precision", "int8"],
    "infer --model": ["{images}", "--model", "{folder}/lite0/lite0.int8.onnx"],
    "watch": ["{images}", "--existing", "--count", "1", "--variant", "lite0", "--precision", "int8"],
    "serve": ["--variant", "lite0", "--precision", "int8", "--port", "0"],
    "evaluate": ["--data", "{images}", "--variant", "lite0", "--precision", "int8"],
    "evaluate --reference": ["--data", "{images}", "--variant", "lite0", "--reference", "int8"],
    "bench": ["--variant", "lite0", "--precisions", "int8", "--seconds", "0.1"],
    "sweep": ["--variants", "lite0", "--precisions", "int8", "--seconds", "0.1", "--name", "stale"],
    "serving": ["--variants", "lite0", "--precision", "int8", "--device", "cpu", "--repository", "{images}/triton"],
    "embed": ["{images}", "--variant", "lite0", "--precision", "int8"],
    "engine": ["--variant", "lite0", "--precision", "int8", "--target", "sm_89", "--backend", "tensorrt_rtx"],
    "bundle": ["--variant", "lite0", "--precision", "int8"],
    "infer --ray": ["{images}", "--variant", "lite0", "--precision", "int8", "--ray"],
    "evaluate --ray": ["--data", "{images}", "--variant", "lite0", "--precision", "int8", "--ray"],
}
MODULES = {name: f"runtime.{name}.__main__" for name in ("sweep", "serving", "serve")}
MODULES["bundle"] = "export.bundle"


def network(folder: Path, small_model: Path, **changes: str) -> None:
    """lite0, with `changes` in its metadata, as the FP32 artifact in `folder`."""
    graph, metadata = unsealed(small_model)
    path = artifact_path("lite0", "fp32", folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed(graph, "fp32", {**metadata, **changes})[0])


def derived(folder: Path, small_model: Path, precision: str) -> Path:
    """What calibration or export writes from the network in `folder` (its graph is FP32's: nobody gets to run it)."""
    fp32 = artifact_path("lite0", "fp32", folder)
    path = artifact_path("lite0", precision, folder)
    path.write_bytes(
        sealed(unsealed(small_model)[0], precision, {**read_artifact(fp32).metadata, "fp32_sha256": verify(fp32)})[0]
    )
    return path


@pytest.fixture
def folder(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Artifacts of lite0 in FP32 and INT8, those that commands take here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path / "artifacts"))
    network(tmp_path / "artifacts", small_model)
    for precision in ("int8", "int8-fp16"):
        derived(tmp_path / "artifacts", small_model, precision)
    (tmp_path / "images").mkdir()
    corgi = Path(__file__).parents[2] / "data" / "corgi.jpg"
    (tmp_path / "images" / "corgi.jpg").write_bytes(corgi.read_bytes())
    return tmp_path / "artifacts"


def run(reader: str, folder: Path) -> Done:
    name = reader.split()[0]
    module = MODULES.get(name, f"runtime.{name}")
    if name == "bundle" and sys.version_info < (3, 10):
        pytest.skip("export/ needs Python 3.10")
    if name == "engine":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    try:
        main: Callable[[Any], int] = importlib.import_module(module).main
    except ImportError as error:
        pytest.skip(str(error))
    arguments = [word.format(images=folder.parent / "images", folder=folder) for word in READERS[reader]]
    return called(main, *arguments)


@pytest.mark.parametrize("reader", READERS)
def test_every_command_refuses_int8_of_another_network(
    reader: str, folder: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--ray" in reader:  # which would come after the artifact
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        monkeypatch.setattr(
            importlib.import_module(f"runtime.{reader.split()[0]}"), "require_ray", lambda address: None
        )
        if importlib.util.find_spec("ray") is None:
            monkeypatch.setitem(sys.modules, "ray", mock.MagicMock())
    changes = list(REPLACED)[: 1 if reader == "sweep" else None]  # whose processes take seconds
    for change in changes:
        network(folder, small_model, **REPLACED[change])
        done = run(reader, folder)
        if "aiohttp" in done.err and "pip install" in done.err:
            pytest.skip(done.err)
        assert done.status in ((1,) if reader == "sweep" else (2,)), change + done.out + done.err
        assert re.search(r"lite0\.int8(-fp16)?\.onnx is stale", done.out + done.err), change + done.out + done.err
        assert "make calibrate VARIANT=lite0" in done.out + done.err


@pytest.mark.parametrize("change", REPLACED)
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_whatever_has_changed(folder: Path, small_model: Path, change: str, precision: str) -> None:
    derived(folder, small_model, precision)
    assert read_artifact(find_artifact("lite0", precision)).precision == precision
    network(folder, small_model, **REPLACED[change])
    with pytest.raises(StaleError, match=REMEDIES[precision].format("lite0")):
        read_artifact(find_artifact("lite0", precision))


def test_without_the_fp32_file_nothing_can_be_stale(folder: Path) -> None:
    artifact_path("lite0", "fp32", folder).unlink()
    assert read_artifact(find_artifact("lite0", "int8")).precision == "int8"


def test_a_new_network_moves_aside_what_was_made_from_the_one_before(folder: Path, small_model: Path) -> None:
    home, old = folder / "lite0", verify(artifact_path("lite0", "fp32", folder))
    for name in ("lite0.int8.rtx-sm89.engine", "lite0.int8.rtx-sm89.engine.json", "lite0.calibration.html", "mine.txt"):
        (home / name).write_text("{}")
    graph, metadata = unsealed(small_model)
    facts = facts_of({**metadata, "schema": "1", **REPLACED["other weights"]})
    written = write(facts, {"fp32": Graph(graph), "fp16": Graph(graph)}, "request", folder)
    aside = home / f"replaced-{old[:8]}"
    assert written.replaced is not None and written.replaced.folder == aside
    assert sorted(path.name for path in aside.iterdir()) == [
        *("lite0.calibration.html", "lite0.int8-fp16.onnx", "lite0.int8.onnx"),
        *("lite0.int8.rtx-sm89.engine", "lite0.int8.rtx-sm89.engine.json"),
    ]
    assert sorted(path.name for path in home.iterdir() if path.is_file()) == [
        "lite0.fp16.onnx",
        "lite0.fp32.onnx",
        "mine.txt",
    ]
    again = write(facts, {"fp32": Graph(graph), "fp16": Graph(graph)}, "request", folder)
    assert again.replaced is None  # the same network


def test_other_weights_are_asked_for_a_name(folder: Path) -> None:
    there = read_artifact(artifact_path("lite0", "fp32", folder))
    require_same_weights("lite0", there.weights_sha256, folder)
    require_same_weights("birds", "1" * 64, folder)
    for weights in ("1" * 64, None):
        with pytest.raises(UserError, match=r"holds another network: .*lite0.*NAME=birds.*FORCE=1"):
            require_same_weights("lite0", weights, folder)


def test_the_embedding_of_other_weights_is_stale(folder: Path, small_model: Path) -> None:
    """Vectors of lite0 as it was are not those of lite0."""
    graph, metadata = unsealed(small_model)
    path = artifact_path("lite0-embedding", "fp32", folder)
    path.parent.mkdir()
    outputs = json.dumps([{"name": "embedding", "channels": 1280, "stride": 0}])
    facts = {**metadata, "variant": "lite0-embedding", "head": "embedding", "outputs": outputs, "labels": "[]"}
    path.write_bytes(sealed(graph, "fp32", facts)[0])
    assert read_artifact(path).head == "embedding"
    with pytest.raises(UserError, match=r"artifacts/lite0 holds another network"):
        require_same_weights("lite0-features", "1" * 64, folder)
    network(folder, small_model, **REPLACED["other weights"])
    with pytest.raises(StaleError, match="make export VARIANT=lite0 HEAD=embedding"):
        read_artifact(path)
    network(folder, small_model, **REPLACED["other resolution"])
    assert read_artifact(path).head == "embedding"


def test_the_table_says_what_is_there(folder: Path, small_model: Path) -> None:
    main = importlib.import_module("runtime.artifacts.__main__").main
    set_latest("lite0", folder, "int8")
    home, sha256 = folder / "lite0", verify(artifact_path("lite0", "int8", folder))
    for name, onnx_sha256 in (("a", sha256), ("b", "0" * 64)):
        built = BuildOptions("int8"), 1.0, 0, {}
        manifest = Manifest("", 6, "lite0.int8.onnx", onnx_sha256, "tensorrt", "10.3.0", "sm_87", "Orin", *built)
        write_engine(home / f"lite0.int8.{name}.engine", b"engine", manifest)
    report = folder.parent / "reports" / "mine" / "sweep.json"
    report.parent.mkdir(parents=True)
    rows = [{"sha256": sha256, "batch": 1, "top1": 88.8, "agreement": 99.1, "total": {"p50": 4.25}}]
    report.write_text(json.dumps({"rows": rows}))
    done = called(main)
    (int8,) = (line for line in done.out.splitlines() if " int8 " in line)
    assert int8.startswith("*") and re.search(r"1000 +88\.8 +99\.1 +4\.2 +efficientnet-lite0", int8), done.out
    assert "int8.a.engine  " in done.out and "int8.b.engine STALE" in done.out and "int8.b.engine is stale" in done.err
    assert "STALE" not in int8 and done.status == 0
    network(folder, small_model, **REPLACED["other resolution"])
    done = called(main)
    assert "int8 STALE" in done.out and "lite0.int8.onnx is stale" in done.err
    assert called(main, "--artifacts", folder / "none").status == 2
