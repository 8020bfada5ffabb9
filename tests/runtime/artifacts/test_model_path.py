"""What --model takes besides a file: folders and packed bundles; and what it refuses."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Dict

import pytest

from runtime.artifacts.artifact import set_latest
from runtime.artifacts.model_path import model_file
from runtime.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a network")
    return path


def packed(path: Path, files: Dict[str, bytes]) -> Path:
    with tarfile.open(str(path), "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_a_folder_of_one_network(tmp_path: Path) -> None:
    home = tmp_path / "b1-on-the-edge"
    half, full = put(home / "b1.fp16.onnx"), put(home / "b1.int8.onnx")
    put(home / "other.onnx")  # none of this project's names
    assert model_file(home) == half  # fp32 first, then in this order
    assert model_file(str(home), "int8") == full
    fp32 = put(home / "b1.fp32.onnx")
    assert model_file(home) == fp32 == model_file(fp32)
    with pytest.raises(UserError, match=r"has no int8-fp16 of b1. There are: fp16, fp32, int8\."):
        model_file(home, "int8-fp16")
    put(home / "b2.fp32.onnx")
    with pytest.raises(UserError, match=r"several networks \(b1, b2\)"):
        model_file(home)
    with pytest.raises(UserError, match="holds no artifacts"):
        model_file(tmp_path)
    with pytest.raises(UserError, match="--precision goes with"):
        model_file(fp32, "int8")


def test_a_folder_of_artifacts_and_an_unpacked_bundle_say_which_answers(tmp_path: Path) -> None:
    int8 = put(tmp_path / "artifacts" / "b1" / "b1.int8.onnx")
    put(tmp_path / "artifacts" / "b0" / "b0.fp32.onnx")
    set_latest("b1", tmp_path / "artifacts", "int8")
    assert model_file(tmp_path) == int8 == model_file(tmp_path / "artifacts")


def test_a_name_is_what_was_exported_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    fp32, int8 = (put(tmp_path / "artifacts" / "birds" / f"birds.{precision}.onnx") for precision in ("fp32", "int8"))
    assert (model_file("birds"), model_file("birds", "int8")) == (fp32, int8)
    assert model_file("cats") == Path("cats")  # which whoever opens it does not find
    assert model_file(put(tmp_path / "birds")) == tmp_path / "birds"  # a file of that name


def test_a_packed_bundle_is_unpacked_once_and_nothing_beside_it(tmp_path: Path, cache: Path) -> None:
    files = {
        "b1-int8/artifacts/latest": b"b1 int8\n",
        "b1-int8/artifacts/b1/b1.int8.onnx": b"a network",
        "b1-int8/artifacts/../../../stolen": b"",
        "/artifacts/b1/stolen": b"",
        "b1-int8/runtime/infer.py": b"code",
    }
    archive = packed(tmp_path / "b1.int8.bundle.tar.gz", files)
    path = model_file(archive)
    assert path.read_bytes() == b"a network" and cache in path.parents
    path.with_suffix(".engine").write_bytes(b"built for it")
    assert model_file(archive) == path and path.with_suffix(".engine").is_file()
    names = {each.name for each in tmp_path.rglob("*") if each.is_file()}
    assert names == {archive.name, "latest", "b1.int8.onnx", "b1.int8.engine"}


def test_what_is_no_bundle_leaves_nothing_and_is_a_sentence(tmp_path: Path, cache: Path) -> None:
    archive = packed(tmp_path / "photos.tar.gz", {"photos/a.jpg": b"an image"})
    with pytest.raises(UserError, match="no bundle of this project"):
        model_file(archive)
    whole = packed(tmp_path / "b1.tar.gz", {"b1/artifacts/b1/b1.fp32.onnx": bytes(range(256)) * 100}).read_bytes()
    for content in (whole[: len(whole) // 2], b"not gzip", b""):
        (tmp_path / "damaged.tar.gz").write_bytes(content)
        with pytest.raises(UserError, match="can't be unpacked|no bundle"):
            model_file(tmp_path / "damaged.tar.gz")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
