"""Artifacts that were written together fit together; anything else is made again, and moves aside what it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

import pytest

from runtime.artifacts.artifact import artifact_path, read_artifact
from runtime.artifacts.facts import Facts
from runtime.artifacts.write import Graph, Written, fitting, write
from runtime.images.preprocess import Preprocessing

GRAPH = b"\x08\x08\x3a\x03abc"  # ONNX as far as the wire format goes
RECIPE = Preprocessing(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def export(
    folder: Path, made_from: str = "a", precisions: Sequence[str] = ("fp32", "fp16"), sha256: str = "1"
) -> Written:
    """Writes small's artifacts below `folder`, of weights with `sha256`."""
    facts = Facts("small", RECIPE, "somebody's", sha256 * 64, 1, ["cat"])
    return write(facts, dict.fromkeys(precisions, Graph(GRAPH)), made_from, folder)


def calibrate(folder: Path) -> None:
    fp32 = read_artifact(artifact_path("small", "fp32", folder))
    write(fp32, {"int8": Graph(GRAPH), "int8-fp16": Graph(GRAPH)}, "int8 of it", folder, fp32.metadata["sha256"])


def fits(folder: Path, made_from: str = "a", precision: str = "fp32") -> Optional[str]:
    found = fitting("small", folder, made_from, (precision,))
    return found and found.precision


def test_what_was_written_together_fits_and_no_other_request(tmp_path: Path) -> None:
    assert fits(tmp_path) is None
    export(tmp_path)
    calibrate(tmp_path)
    assert fits(tmp_path) == "fp32" and fits(tmp_path, "int8 of it", "int8") == "int8"
    assert fits(tmp_path, "b") is None and fits(tmp_path, "a", "int8") is None


@pytest.mark.parametrize("lost", ["fp32", "fp16"])
def test_half_of_an_export_does_not_fit(lost: str, tmp_path: Path) -> None:
    export(tmp_path)
    artifact_path("small", lost, tmp_path).unlink()
    assert fitting("small", tmp_path, "a", ("fp32", "fp16")) is None


@pytest.mark.parametrize("damaged", ["fp32", "fp16"])
def test_a_damaged_artifact_does_not_fit(damaged: str, tmp_path: Path) -> None:
    path = export(tmp_path).files[damaged]
    path.write_bytes(path.read_bytes().replace(b"abc", b"abd"))
    assert fits(tmp_path) is None


def test_files_of_two_networks_do_not_fit_together(tmp_path: Path) -> None:
    """Each by itself is whole and made from the same, and no FP32 file tells: INT8 files copied from two machines, say."""
    for folder, sha256 in ((tmp_path, "1"), (tmp_path / "other", "2")):
        export(folder, sha256=sha256)
        calibrate(folder)
        artifact_path("small", "fp32", folder).unlink()
    assert fits(tmp_path, "int8 of it", "int8") == "int8"
    half, other = (artifact_path("small", "int8-fp16", folder) for folder in (tmp_path, tmp_path / "other"))
    half.write_bytes(other.read_bytes())
    assert fits(tmp_path, "int8 of it", "int8") is None


def test_the_same_network_again_keeps_what_was_made_from_it(tmp_path: Path) -> None:
    export(tmp_path)
    calibrate(tmp_path)
    assert export(tmp_path).replaced is None and fits(tmp_path, "int8 of it", "int8") == "int8"
    again = export(tmp_path, sha256="2")
    assert again.replaced is not None and again.replaced.files == ["small.int8-fp16.onnx", "small.int8.onnx"]
    assert fits(tmp_path, "int8 of it", "int8") is None
