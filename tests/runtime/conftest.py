"""The exported model and the images that the runtime's tests use. They need numpy, Pillow, onnxruntime and pytest."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Dict, Optional, Set

import numpy as np
import pytest

from runtime.artifacts.artifact import read_artifact, sealed
from tests.runtime.artifacts.changed_artifacts import unsealed
from tests.runtime.artifacts.onnx_bytes import small_network, taking_pixels

DATA = Path(__file__).resolve().parents[1] / "data"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> Optional[bool]:
    """`-m smoke` loads the files that have smoke tests, and not sixty others."""
    test = config.option.markexpr == "smoke" and collection_path.match("test_*.py")
    return True if test and "pytest.mark.smoke" not in collection_path.read_text(encoding="utf-8") else None


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """A folder like artifacts/, into which lite0 was exported."""
    folder = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to run (make test sets it)")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def model(artifacts: Path) -> Path:
    """lite0 in FP32, with real weights."""
    return artifacts / "lite0" / "lite0.fp32.onnx"


@pytest.fixture(scope="session")
def small_artifacts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like `artifacts`, where lite0's metadata stand over the few layers of small_network: for tests that need an
    artifact, and not lite0's own answers. It is opened and run in milliseconds. FP16 is FP32 with
    rounded weights; other precisions are in the metadata alone."""
    folder = tmp_path_factory.mktemp("small")
    write_small(model, folder / "lite0", "fp32", "fp16")
    (folder / "latest").write_text("lite0\n")
    return folder


@pytest.fixture(scope="session")
def precisions(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network in each precision."""
    folder = tmp_path_factory.mktemp("precisions") / "lite0"
    write_small(model, folder, "fp32", "fp16", "int8", "int8-fp16")
    return folder


def write_small(model: Path, folder: Path, *precisions: str) -> None:
    folder.mkdir()
    metadata = unsealed(model)[1]
    for precision in precisions:
        graph = small_network(rounded=np.float16 if precision == "fp16" else np.float32)
        (folder / f"lite0.{precision}.onnx").write_bytes(sealed(graph, precision, metadata)[0])


@pytest.fixture(scope="session")
def small_model(small_artifacts: Path) -> Path:
    return small_artifacts / "lite0" / "lite0.fp32.onnx"


@pytest.fixture(scope="session")
def random_model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, by its metadata one whose weights are random."""
    graph, metadata = unsealed(small_model)
    path = tmp_path_factory.mktemp("random") / "lite0.fp32.onnx"
    path.write_bytes(sealed(graph, "fp32", {**metadata, "weights": "random", "weights_sha256": ""})[0])
    return path


@pytest.fixture(scope="session")
def pixel_model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as `make export INPUT=uint8` writes it: takes pixels and normalises them itself."""
    graph, metadata = unsealed(small_model)
    path = tmp_path_factory.mktemp("pixels") / "lite0.fp32.onnx"
    content = taking_pixels(graph, read_artifact(small_model).preprocessing)
    path.write_bytes(sealed(content, "fp32", {**metadata, "input": "uint8"})[0])
    return path


@pytest.fixture(scope="session")
def photographs() -> Dict[Path, Set[int]]:
    """Images and the ImageNet classes that are right for each: ours, and scikit-image's where that is installed."""
    known = {DATA / "corgi.jpg": {264}, DATA / "lighthouse.jpg": {437}}
    spec = importlib.util.find_spec("skimage")  # finds the folder without running the package
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "data"
        samples = {"chelsea.png": {281, 282, 285}, "coffee.png": {967, 504, 968}, "rocket.jpg": {657, 744}}
        known.update({folder / name: right for name, right in samples.items() if (folder / name).is_file()})
    return known
