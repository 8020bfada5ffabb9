"""Artifacts: the facts they carry, which files are refused, and how they are found."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional

import numpy as np
import pytest

from runtime.artifacts.artifact import (
    PRECISIONS,
    PROJECT,
    Artifact,
    artifact_path,
    artifacts_folder,
    find_artifact,
    read_artifact,
    sealed,
    set_latest,
)
from runtime.artifacts.facts import facts_of
from runtime.artifacts.onnx_metadata import verify, with_metadata
from runtime.errors import UserError
from runtime.images.preprocess import Preprocessing

GRAPH = b"\x08\x08\x3a\x03abc"  # ir_version 8, and a graph of three bytes: ONNX as far as the wire format goes
FACTS = {
    "variant": "b1",
    "weights": "somebody's, found in the attic",
    "weights_sha256": "ab" * 32,
    "resolution": "240",
    "crop": "0.882",
    "interpolation": "bicubic",
    "mean": "[0.485, 0.456, 0.406]",
    "std": "[0.229, 0.224, 0.225]",
    "classes": "3",
    "labels": '["Käfer", "甲虫", "a \\"beetle\\", or two"]',
    "tools": "{}",
}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "b1.int8.onnx"
    if path.exists():
        path.unlink()  # some file systems wait for the disk where a file is overwritten
    path.write_bytes(content)
    return path


def with_facts(folder: Path, **changed: Optional[str]) -> Path:
    """An artifact with FACTS, some of them `changed` (None: left out)."""
    facts: Dict[str, str] = {k: v for k, v in {**FACTS, **changed}.items() if v is not None}
    return written(folder, sealed(GRAPH, "int8", facts)[0])


def test_facts_come_back(tmp_path: Path) -> None:
    path = with_facts(tmp_path)
    artifact = read_artifact(path)
    assert artifact == Artifact(
        path=path,
        variant="b1",
        precision="int8",
        preprocessing=Preprocessing(240, 0.882, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        classes=3,
        labels=["Käfer", "甲虫", 'a "beetle", or two'],
        weights="somebody's, found in the attic",
        weights_sha256="ab" * 32,
        more={"tools": "{}"},
        metadata=artifact.metadata,
    )
    assert artifact.metadata == {
        "project": PROJECT,
        "schema": "1",
        "precision": "int8",
        **FACTS,
        "sha256": verify(path),
    }
    assert not artifact.random
    assert read_artifact(str(path)) == artifact


def test_facts_of_an_export(model: Path) -> None:
    artifact = read_artifact(model)
    half = (0.5, 0.5, 0.5)
    assert artifact.preprocessing == Preprocessing(224, 0.875, "bicubic", half, half)
    assert (artifact.variant, artifact.precision, artifact.classes, artifact.random) == ("lite0", "fp32", 1000, False)
    assert artifact.labels[264] == "Cardigan, Cardigan Welsh corgi" and len(artifact.labels) == 1000
    assert artifact.metadata["sha256"] == verify(model)


def test_random_weights(tmp_path: Path) -> None:
    assert read_artifact(with_facts(tmp_path, weights_sha256="")).random


def test_uint8_input(tmp_path: Path) -> None:
    """The network takes pixels as they are. A runtime older than that must not read the file: it has another schema."""
    artifact = read_artifact(with_facts(tmp_path, input="uint8"))
    assert artifact.preprocessing.input == "uint8" and artifact.metadata["schema"] == "2"
    batch = artifact.preprocessing.empty(5)
    assert batch.shape == (5, 240, 240, 3) and batch.dtype == np.uint8
    artifact = read_artifact(with_facts(tmp_path, input="float32"))
    assert artifact.preprocessing.input == "float32" and artifact.metadata["schema"] == "1"
    batch = artifact.preprocessing.empty(5)
    assert batch.shape == (5, 3, 240, 240) and batch.dtype == np.float32


def test_scores_that_are_no_softmax(tmp_path: Path) -> None:
    """A runtime of before would show a softmax of them: it must not read the file. Nor is one cut short just there softmax."""
    artifact = read_artifact(with_facts(tmp_path, activation="sigmoid"))
    assert artifact.activation == "sigmoid" and artifact.metadata["schema"] == "4"
    assert facts_of(artifact.metadata).as_metadata()["activation"] == "sigmoid"
    facts = {**FACTS, "project": PROJECT, "precision": "int8", "schema": "4"}
    for changed in ({}, {"activation": "relu"}):
        with pytest.raises(UserError, match="damaged metadata"):
            read_artifact(written(tmp_path, with_metadata(GRAPH, {**facts, **changed})[0]))


def test_uint8_input_without_its_fact(tmp_path: Path) -> None:
    """A file cut short just there is not one of float32."""
    facts = {**FACTS, "project": PROJECT, "precision": "int8", "schema": "2"}
    with pytest.raises(UserError, match="damaged metadata"):
        read_artifact(written(tmp_path, with_metadata(GRAPH, facts)[0]))


def test_sealed_replaces_what_belongs_to_one_file(tmp_path: Path) -> None:
    """A stage passes on the metadata of the artifact it was given."""
    first = read_artifact(with_facts(tmp_path))
    content, digest = sealed(GRAPH + b"\x08\x08", "fp16", {**first.metadata, "made_from": "int8"})
    second = read_artifact(written(tmp_path, content))
    changed = {"precision": "fp16", "made_from": "int8", "sha256": digest}
    assert second.metadata == {**first.metadata, **changed}
    assert digest == verify(second.path) != first.metadata["sha256"]
    assert content.count(b"sha256") == 2  # of the weights, and one checksum: keys that come twice are no ONNX


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file .*gone.onnx"):
        read_artifact(tmp_path / "gone.onnx")
    with pytest.raises(UserError, match="can't be read"):
        read_artifact(tmp_path)
    for content in (b"", b"a text\n", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        with pytest.raises(UserError, match="not an ONNX file|is empty"):
            read_artifact(written(tmp_path, content))
    for content in (GRAPH, with_metadata(GRAPH, {"author": "somebody else"})[0]):
        with pytest.raises(UserError, match="not one that this project exported.*make export"):
            read_artifact(written(tmp_path, content))
    with pytest.raises(UserError, match="another version of this project .schema 5"):
        read_artifact(written(tmp_path, with_metadata(GRAPH, {**FACTS, "project": PROJECT, "schema": "5"})[0]))


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        *((fact, None) for fact in FACTS if fact != "tools"),
        *(("resolution", value) for value in ("", "0", "-224", "224.0", "many", "9" * 30)),
        *(("crop", value) for value in ("", "0", "-1", "nan", "inf")),
        *(("mean", value) for value in ("", "5", "null", "[1, 2]", "[1, 2, 3, 4]", "[NaN, 0, 0]", '["", 0, 0]')),
        *(("std", value) for value in ("[0, 1, 1]", "[-1, 1, 1]", "[1, 1, Infinity]", "{}")),
        *(("labels", value) for value in ("", "[", "5", "[" * 100_000)),
        *(("input", value) for value in ("", "int8", "UINT8", "float64")),
        ("classes", "three"),
    ],
)
def test_damaged_facts_are_refused(tmp_path: Path, fact: str, value: Optional[str]) -> None:
    with pytest.raises(UserError, match="b1.int8.onnx has damaged metadata.*export it again"):
        read_artifact(with_facts(tmp_path, **{fact: value}))


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = with_facts(tmp_path)
    whole = read_artifact(path)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(UserError):
            cut = read_artifact(path)  # if anything, then the truth
            assert replace(cut, metadata={}, more={}) == replace(whole, metadata={}, more={})
            verify(path)


def test_truncated_export(model: Path, tmp_path: Path) -> None:
    path, generator = tmp_path / "lite0.fp32.onnx", random.Random(0)
    shutil.copy(str(model), str(path))
    size = path.stat().st_size
    cuts = [size - 1, size - 72, size - 1000, size - 20_000, *(generator.randrange(size) for _ in range(30)), 1]
    for cut in sorted(cuts, reverse=True):
        os.truncate(path, cut)
        with pytest.raises(UserError):
            read_artifact(path)
            verify(path)


def test_random_bytes(tmp_path: Path) -> None:
    """Whatever a file holds, the worst that reading it does is to refuse it."""
    generator, refused = random.Random(0), 0
    good = with_facts(tmp_path).read_bytes()
    for attempt in range(1000):
        if attempt % 2:
            content = bytearray(good)
            for _ in range(generator.randint(1, 8)):
                content[generator.randrange(len(content))] = generator.randrange(256)
        else:
            content = bytearray(generator.randrange(256) for _ in range(generator.randint(0, 60)))
            content[:0] = generator.choice((b"", GRAPH, b"\x72", GRAPH + b"\x72"))
        path = written(tmp_path, bytes(content))
        for reader in (read_artifact, verify):
            try:
                reader(path)
            except UserError:
                refused += 1
            else:
                assert reader is read_artifact or content == good
    assert refused > 1000


def test_find_artifact(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model in .* yet: run 'make export VARIANT=b0', or .* --model"):
        find_artifact(folder=tmp_path / "none")
    with pytest.raises(UserError, match="make export VARIANT=b2'.$"):
        find_artifact("b2", folder=tmp_path)
    for variant, precision in (("b1", "fp32"), ("b1", "fp16"), ("lite0", "fp32")):
        path = artifact_path(variant, precision, tmp_path)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    set_latest("b1", tmp_path)
    assert find_artifact(folder=tmp_path) == tmp_path / "b1" / "b1.fp32.onnx"
    set_latest("lite0", tmp_path)
    assert find_artifact(folder=tmp_path) == tmp_path / "lite0" / "lite0.fp32.onnx"
    assert find_artifact("b1", "fp16", tmp_path) == tmp_path / "b1" / "b1.fp16.onnx"
    set_latest("b1", tmp_path, "fp16")
    assert find_artifact(folder=tmp_path) == find_artifact("b1", folder=tmp_path) == tmp_path / "b1" / "b1.fp16.onnx"
    assert (
        find_artifact("b1", "fp32", tmp_path)
        == find_artifact(None, "fp32", tmp_path)
        == tmp_path / "b1" / "b1.fp32.onnx"
    )
    assert (
        find_artifact("lite0", folder=tmp_path) == tmp_path / "lite0" / "lite0.fp32.onnx"
    )  # of another: nothing was said
    with pytest.raises(UserError, match="make calibrate VARIANT=b1.*b1.fp16.onnx, b1.fp32.onnx, lite0.fp32.onnx"):
        find_artifact("b1", "int8", tmp_path)
    with pytest.raises(UserError, match=f"no precision 'f16': choose {', '.join(PRECISIONS)}"):
        find_artifact("b1", "f16", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00"])
def test_damaged_latest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "latest").write_bytes(content)
    with pytest.raises(UserError, match="make export"):
        find_artifact(folder=tmp_path)


def test_artifacts_folder(monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> None:
    monkeypatch.delenv("EFFICIENTNET_ARTIFACTS", raising=False)
    assert artifacts_folder() == Path("artifacts")
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(artifacts))
    assert artifacts_folder() == artifacts
    assert json.loads(read_artifact(find_artifact()).metadata["tools"])["onnx"]
