"""Third-party models: taken as artifacts, and run in pieces where they take one number of images only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Set

import numpy as np
import pytest

from runtime import bench
from runtime.artifacts.artifact import artifact_path, read_artifact
from runtime.artifacts.onnx_metadata import read_metadata, with_metadata
from runtime.artifacts.third_party import NO_OVERRIDES, Overrides, Shape, import_onnx, name_of, shape_of
from runtime.backends.backend import in_pieces
from runtime.errors import UserError
from runtime.measure.cold import Cold
from runtime.networks.classifier import Classifier
from tests.runtime.artifacts.changed_artifacts import unsealed


def of_batch(content: bytes, batch: int) -> bytes:
    """The graph with its open batch "N" set to `batch`: a dimension of as many bytes, by a number written in two."""
    return content.replace(b"\x0a\x03\x12\x01N", bytes([0x0A, 3, 8, batch | 0x80, 0]))


@pytest.fixture(scope="module")
def pairs(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lite0 as a file that says nothing of itself and takes two images at a time."""
    path = tmp_path_factory.mktemp("pairs") / "in pairs.onnx"
    path.write_bytes(of_batch(unsealed(small_model)[0], 2))
    return path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_batch_that_the_graph_does_not_take_is_run_in_pieces(
    backend: str, small_model: Path, pairs: Path, photographs: Dict[Path, Set[int]], tmp_path: Path
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    lite0 = read_artifact(small_model).preprocessing
    overrides = Overrides(crop=lite0.crop, interpolation=lite0.interpolation, mean=lite0.mean, std=lite0.std)
    artifact = import_onnx(pairs, tmp_path, overrides=overrides)
    assert shape_of(pairs) == Shape(224, 1000, 2) and artifact.variant == "in-pairs"
    assert artifact.preprocessing == lite0
    pictures = (list(photographs) * 3)[:5]
    with Classifier(small_model, backend=backend, threads=1) as ours, Classifier(
        artifact.path, backend=backend, threads=1
    ) as theirs:
        assert theirs.backend.batch == 2
        batch = ours.preprocess(pictures)
        expected = ours.logits(batch)
        np.testing.assert_allclose(theirs.logits(batch), expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(theirs.logits(batch[:1]), expected[:1], rtol=1e-3, atol=1e-3)
        assert theirs.logits(batch[:0]).shape == (0, 1000)


def test_pieces_are_whole_and_the_last_is_filled_up() -> None:
    seen = []

    def run(images: np.ndarray) -> np.ndarray:
        seen.append(images.copy())
        return images * 10

    images = np.arange(1, 6, dtype=np.float32).reshape(5, 1)
    np.testing.assert_array_equal(in_pieces(run, images, 2), images * 10)
    np.testing.assert_array_equal(np.concatenate(seen).ravel(), [1, 2, 3, 4, 5, 0])
    seen.clear()
    in_pieces(run, images, None)
    assert len(seen) == 1


def test_bench_says_so(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "cold_start", lambda *_: Cold(2.0, 3.0, None))
    command = [
        "bench",
        "--foreign",
        str(pairs),
        "--batch",
        "2,3",
        "--seconds",
        "0.05",
        "--threads",
        "1",
        "--json",
        "b.json",
    ]
    monkeypatch.setattr("sys.argv", command)
    assert bench.main() == 0
    result = json.loads((tmp_path / "b.json").read_text())
    assert [(row["variant"], row["batch"]) for row in result["rows"]] == [("in-pairs", 2), ("in-pairs", 3)]
    (said,) = [text for text in result["warnings"] if "at a time" in text]
    assert "batch of 3 is 2 runs of 2" in said and said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]  # no artifact is left behind


def test_what_another_project_wrote_into_the_file_is_not_taken_for_ours(small_model: Path, tmp_path: Path) -> None:
    graph = unsealed(small_model)[0]
    path = tmp_path / "theirs.onnx"
    theirs = {"input": "uint8", "published_top1": "99.9", "project": "another", "author": "somebody"}
    path.write_bytes(with_metadata(graph, theirs)[0])
    artifact = import_onnx(path, tmp_path / "networks")
    assert artifact.preprocessing.input == "float32" and not {"published_top1", "author"} & set(artifact.metadata)
    with Classifier(artifact.path, backend="onnxruntime", threads=1) as classify:
        assert classify.logits(artifact.preprocessing.empty(1)).shape == (1, 1000)


def test_it_is_made_again_only_if_something_changed(small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(unsealed(small_model)[0])

    def made(overrides: Overrides = NO_OVERRIDES) -> int:
        artifact = import_onnx(path, tmp_path / "networks", overrides=overrides)
        assert artifact.preprocessing.crop == (overrides.crop or 0.875)
        return artifact.path.stat().st_ino  # a file that is written anew is another one

    first = made()
    assert made() == first and not read_metadata(path)
    file = artifact_path("theirs", "fp32", tmp_path / "networks")
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    assert made() != first  # it was damaged
    second = made()
    half = artifact_path("theirs", "fp16", tmp_path / "networks")
    half.write_bytes(b"of another network")
    assert made() == second
    assert made(Overrides(crop=0.9)) != second and not half.exists()


def test_an_artifact_of_ours_keeps_what_it_says_of_itself(small_model: Path, tmp_path: Path) -> None:
    """It was 47 % instead of 96 % when its preprocessing was dropped."""
    lite0 = read_artifact(small_model)
    again = import_onnx(small_model, tmp_path, "copy")
    assert (again.variant, again.preprocessing, again.labels) == ("copy", lite0.preprocessing, lite0.labels)
    assert again.third_party and again.wnids == lite0.wnids
    assert import_onnx(
        small_model, tmp_path, "copy", Overrides(crop=0.5)
    ).preprocessing == lite0.preprocessing._replace(crop=0.5)
    with pytest.raises(UserError, match="takes images of 224 px, not of 192"):
        import_onnx(small_model, tmp_path, "copy", Overrides(resolution=192))


def test_names(tmp_path: Path) -> None:
    assert name_of(Path("nets/My Net (v2).onnx")) == "My-Net-v2-"
    assert name_of(Path("..hidden.onnx")) == "hidden"
    with pytest.raises(UserError, match="give it one of letters"):
        name_of(Path("….onnx"))


def test_pictures_of_another_size(small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(unsealed(small_model)[0])
    with pytest.raises(UserError, match=r"theirs\.onnx takes images of 224 px, not of 256"):
        import_onnx(path, tmp_path / "networks", overrides=Overrides(resolution=256))
    assert not (tmp_path / "networks").exists()
