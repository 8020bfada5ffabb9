"""What is fed with damaged files: a row for each kind, and a function that must return or raise UserError."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from calibration.collect.images import read_folder
from models.labels import read_labels
from models.network import EfficientNet
from models.reader import CheckpointFile, classes_of, load_into, own_recipe, read_checkpoint
from runtime.artifacts.artifact import Artifact, read_artifact
from runtime.artifacts.onnx_metadata import read_metadata, require_one_file, verify
from runtime.backends.tensorrt.engine import artifact_of
from runtime.backends.tensorrt.manifest import Wanted, checked_engine, manifest_path, read_manifest
from runtime.errors import UserError
from runtime.images.decode import Decoding
from runtime.images.preprocess import Preprocessing, preprocess
from runtime.measure import dataset
from runtime.networks.classifier import Classifier
from tests.calibration.small_network import PREPROCESSING
from tests.fuzz import cases

Target = Callable[[bytes, Path], None]  # the damaged bytes, and a folder for files
_RECIPE = Preprocessing(64, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Small images go in, so what a header says beyond these is a lie that must be noticed before memory is spent on it.
FAST, EXACT = (Decoding(exact=exact, max_pixels=8_000_000, max_seconds=5) for exact in (False, True))


def picture(content: bytes, folder: Path) -> None:
    refused = []
    for decoding in (FAST, EXACT):
        try:
            tensor = preprocess(content, _RECIPE, "case", decoding)
            assert tensor.shape == (3, 64, 64)
        except UserError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def onnx_file(content: bytes, folder: Path) -> None:
    """All that reads one, up to onnxruntime, which gets to see what an artifact's checksum vouches for."""
    path = folder / "small.fp32.onnx"
    path.write_bytes(content)
    refused = []
    for read in (read_metadata, require_one_file, read_artifact, verify, _classify):
        try:
            read(path)
        except UserError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _classify(path: Path, backend: str = "onnxruntime") -> None:
    with Classifier(path, backend=backend, threads=1) as classify:
        classify(cases.PHOTOGRAPH)


def on_openvino(content: bytes, folder: Path) -> None:
    path = folder / "small.fp32.onnx"
    path.write_bytes(content)
    _classify(path, "openvino")


def manifest(content: bytes, folder: Path) -> None:
    engine = folder / "small.fp32.orin-sm87.engine"
    engine.write_bytes(b"no engine")
    (folder / "small.fp32.onnx").write_bytes(cases.onnx_files()[0])
    manifest_path(engine).write_bytes(content)
    refused = []
    wanted = Wanted(folder / "small.fp32.onnx", "1" * 64, "tensorrt", "10.3.0", "sm_87")
    for read in (artifact_of, read_manifest, lambda path: checked_engine(path, wanted)):
        try:
            read(engine)
        except UserError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def label_file(content: bytes, folder: Path) -> None:
    path = folder / "labels.txt"
    path.write_bytes(content)
    assert len(read_labels(path, 10)) == 10


def data_set(content: bytes, folder: Path) -> None:
    path = folder / "labels.csv"
    path.write_bytes(content)
    for i in range(9):
        (folder / f"{i}.png").write_bytes(_PNG)
    refused = []
    for read in (_samples, lambda path: read_folder(path.parent, PREPROCESSING, 10)):
        try:
            read(path)
        except UserError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _samples(path: Path) -> None:
    metadata = dict(cases.METADATA)
    labels = json.loads(metadata["labels"])
    artifact = Artifact("small", PREPROCESSING, "", "", 10, labels, path=Path("small.fp32.onnx"), metadata=metadata)
    for sample in dataset.read_dataset(path.parent, artifact, path):
        assert sample.label is None or 0 <= sample.label < 10
        found = Path(sample.path).resolve()
        assert path.parent in (found, *found.parents)  # an empty name is the folder itself: reported as no image


def checkpoint(suffix: str) -> Target:
    def read(content: bytes, folder: Path) -> None:
        path = folder / f"lite0{suffix}"
        path.write_bytes(content)
        file = read_checkpoint(path)
        own_recipe(file)
        load_into(_network(classes_of(file)), file)

    return read


@lru_cache(4)
def _network(classes: int) -> EfficientNet:
    return EfficientNet(cases.SMALL, classes)


def _warm_torch() -> None:
    load_into(_network(3), CheckpointFile(Path("none"), "", "ours", cases.state(), {}))


torch.set_num_threads(1)  # threads do not survive a fork
_small = io.BytesIO()
cases._picture(40).save(_small, "PNG")
_PNG = _small.getvalue()


@dataclass(frozen=True)
class Kind:
    whole: cases.Whole
    target: Target
    mend: cases.Mend = cases.as_it_is
    warm: Callable[[], object] = lambda: None  # once before the processes fork: slow imports at first use


KINDS = {
    "jpeg": Kind(cases.jpegs, picture),
    "png": Kind(cases.pngs, picture, cases.png_checksums),
    "webp": Kind(cases.webps, picture),
    "bmp": Kind(cases.bmps, picture),
    "gif": Kind(cases.gifs, picture),
    "tiff": Kind(cases.tiffs, picture),
    "onnx": Kind(cases.onnx_files, onnx_file),
    "onnx-resealed": Kind(cases.onnx_graphs, onnx_file, cases.resealed),
    "onnx-openvino": Kind(cases.onnx_graphs, on_openvino, cases.resealed),
    "manifest": Kind(cases.manifests, manifest),
    "labels": Kind(cases.label_files, label_file),
    "labels-csv": Kind(cases.data_set_labels, data_set),
    "pth": Kind(cases.torch_files, checkpoint(".pth"), warm=_warm_torch),
    "pth-pickle": Kind(cases.pickles, checkpoint(".pth"), cases.repacked, _warm_torch),
    "safetensors": Kind(cases.safetensors_files, checkpoint(".safetensors"), cases.safetensors_length, _warm_torch),
}
