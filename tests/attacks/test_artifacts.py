"""Artifacts and engines made by somebody else: names that lead elsewhere, manifests of another engine."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from export.bundle import bundle
from runtime.artifacts.artifact import Artifact, find_artifact, read_artifact, sealed
from runtime.backends.backend import Engines
from runtime.backends.tensorrt.engine import artifact_of
from runtime.backends.tensorrt.manifest import (
    Manifest,
    Wanted,
    checked_engine,
    manifest_path,
    read_manifest,
    write_engine,
)
from runtime.backends.tensorrt.options import BuildOptions
from runtime.errors import UserError
from runtime.networks.classifier import Classifier
from tests.calibration.small_network import small_model
from tests.warm import command

ELSEWHERE = [
    "../../../outside/b0",
    "/outside",
    "..",
    ".",
    "",
    ".hidden",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "x" * 300,
    "-rf",
    "a b",
]


def as_variant(artifact: Artifact, name: str, precision: str = "fp32") -> None:
    metadata = {**artifact.metadata, "variant": name}
    artifact.path.write_bytes(sealed(small_model().SerializeToString(), precision, metadata)[0])


@pytest.mark.parametrize("name", ELSEWHERE, ids=repr)
def test_a_variant_whose_files_would_lie_elsewhere(name: str, artifact: Artifact, canary: Path, inside: Path) -> None:
    """Calibration, engines and bundles are written under the name that the artifact gives itself."""
    as_variant(artifact, name)
    folder = inside / "artifacts"
    for door in (
        lambda: read_artifact(artifact.path),
        lambda: bundle("small", "fp32", folder),
        lambda: Classifier(artifact.path),
    ):
        with pytest.raises(UserError, match="damaged metadata"):
            door()
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["small.fp32.onnx"]


def test_from_the_command_line(artifact: Artifact, canary: Path, inside: Path) -> None:
    as_variant(artifact, ELSEWHERE[0])
    for module, arguments in (
        ("calibration", ("--variant", "small", "--calib", "tests/data")),
        ("export.bundle", ("--variant", "small", "--precision", "fp32")),
        ("runtime.engine", ("--variant", "small", "--precision", "fp32", "--target", "sm_89")),
    ):
        ended = command(module, *arguments, "--artifacts", inside / "artifacts")
        assert ended.status == 2 and "Traceback" not in ended.text, ended.text


def test_a_precision_that_is_none(artifact: Artifact) -> None:
    as_variant(artifact, "small", "../fp32")
    with pytest.raises(UserError, match="damaged metadata"):
        read_artifact(artifact.path)


def test_every_member_of_a_bundle_stays_in_its_folder(artifact: Artifact, inside: Path) -> None:
    packed = bundle("small", "fp32", inside / "artifacts").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive.getmembers():
            assert member.isfile() and member.name.startswith("small-fp32/") and ".." not in Path(member.name).parts
            assert member.mode == 0o644


@pytest.mark.parametrize("content", [b"../../outside/canary\n", b"/etc/passwd fp32\n", b"\xff\n", b"small ../../x\n"])
def test_latest_that_leads_elsewhere(content: bytes, artifact: Artifact, canary: Path, inside: Path) -> None:
    (inside / "artifacts" / "latest").write_bytes(content)
    with pytest.raises(UserError):
        find_artifact(folder=inside / "artifacts")


def engine(artifact: Artifact, **changed: object) -> Path:
    content = b"\x7fELF: code that must not run"
    path = artifact.path.with_name("small.fp32.orin-sm87.engine")
    made = Manifest(
        hashlib.sha256(content).hexdigest(),
        len(content),
        artifact.path.name,
        artifact.metadata["sha256"],
        "tensorrt",
        "10.3.0",
        "sm_87",
        "Orin",
        BuildOptions("fp32"),
        1.0,
        1,
        {},
    )
    write_engine(path, content, made._replace(**changed))  # type: ignore[arg-type]
    return path


def wanted(artifact: Artifact) -> Wanted:
    return Wanted(artifact.path, artifact.metadata["sha256"], "tensorrt", "10.3.0", "sm_87")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"engine_sha256": "0" * 64}, "is not what its manifest says"),
        ({"onnx_sha256": "0" * 64}, "has changed since"),
        ({"version": "8.5.3"}, "was built by TensorRT 8.5.3"),
        ({"module": "tensorrt_rtx"}, "was built by TensorRT-RTX"),
        ({"capability": "sm_89"}, "was built for sm_89"),
        ({"module": "os"}, "was built by os"),
        ({"engine_sha256": None}, "is damaged"),
        ({"version": ["10.3.0"]}, "is damaged"),
    ],
)
def test_an_engine_with_a_foreign_manifest(changed: dict[str, object], sentence: str, artifact: Artifact) -> None:
    """The manifest of another engine, GPU, TensorRT or network; TensorRT's own code never sees the bytes."""
    assert checked_engine(engine(artifact), wanted(artifact))
    with pytest.raises(UserError, match=sentence):
        checked_engine(engine(artifact, **changed), wanted(artifact))


def test_an_engine_beside_another_engines_manifest(artifact: Artifact) -> None:
    path = engine(artifact)
    path.write_bytes(b"another engine")
    with pytest.raises(UserError, match="is not what its manifest says"):
        checked_engine(path, wanted(artifact))
    with pytest.raises(UserError):
        Classifier(path, engines=Engines(rebuild=False))
    manifest_path(path).unlink()
    with pytest.raises(UserError, match="nobody knows what code it holds"):
        checked_engine(path, wanted(artifact))


@pytest.mark.parametrize("name", ["../../../outside/canary", "/etc/passwd", "..", "", "small.fp32.onnx/.."])
def test_a_manifest_whose_artifact_lies_elsewhere(name: str, artifact: Artifact, canary: Path) -> None:
    path = engine(artifact, onnx=name)
    with pytest.raises(UserError, match="is not beside it|can't be read|not an ONNX file"):
        artifact_of(path)


def test_a_manifest_of_a_gigabyte_and_one_nested_beyond_measure(artifact: Artifact) -> None:
    path = engine(artifact)
    manifest_path(path).write_bytes(b'{"schema":' + b"[" * 1_000_000)
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(path)
    with manifest_path(path).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="is damaged|can't be read"):
        read_manifest(path)
