"""The exported model and the photographs that the runtime's tests use. They need numpy, Pillow, onnxruntime and pytest."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Dict, Set

import pytest

from runtime.artifact import sealed
from runtime.onnx_metadata import read_metadata, with_metadata

DATA = Path(__file__).resolve().parents[1] / "data"


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
def random_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, but by its metadata one whose weights are random."""
    metadata = read_metadata(model)
    del metadata["sha256"]
    tail, _ = with_metadata(b"", metadata)
    content = model.read_bytes()
    graph, end = content[: -len(tail)], content[-len(tail) :]
    assert end[:-64] == tail[:-64]  # all but the checksum: the metadata really stand there
    path = tmp_path_factory.mktemp("random") / "lite0.fp32.onnx"
    path.write_bytes(sealed(graph, "fp32", {**metadata, "weights": "random", "weights_sha256": ""})[0])
    return path


@pytest.fixture(scope="session")
def photographs() -> Dict[Path, Set[int]]:
    """Photographs and the ImageNet classes that are right for each: ours, and scikit-image's where that is installed."""
    known = {DATA / "corgi.jpg": {264}, DATA / "lighthouse.jpg": {437}}
    spec = importlib.util.find_spec("skimage")  # finds the folder without running the package
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "data"
        samples = {"chelsea.png": {281, 282, 285}, "coffee.png": {967, 504, 968}, "rocket.jpg": {657, 744}}
        known.update({folder / name: right for name, right in samples.items() if (folder / name).is_file()})
    return known
