"""Writes a model repository that Triton loads as it is: a folder for each model, with its config.pbtxt and its versions.

A server may be reading it meanwhile. A version appears by one rename, whole, and what has not changed is left alone; so a
server that polls the repository, or is told to load a model again, changes over without losing a request.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from PIL import Image

from ..artifacts.artifact import Artifact, find_artifact, read_artifact, sealed
from ..artifacts.onnx_metadata import verify
from ..backends.tensorrt.manifest import manifest_path, read_engine, read_manifest, require_current
from ..digest import sha256_of
from ..errors import UserError
from ..sweep.rows import Report
from ..whole_file import write_whole
from . import config
from .batching import Batching, batching_of
from .config import Signature
from .model import METADATA

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
KINDS = ("python", "onnxruntime", "tensorrt", "ensemble")  # of models, of each variant
KEPT = 2  # versions: the newest, and the one to go back to
_SUMS = "SHA256SUMS"
_NO_GRAPH = b"\x3a\x00"  # a ModelProto whose field 7, the graph, is empty: what carries metadata alone

Content = Union[bytes, Path]  # a file's bytes, or the file it is a copy of


class Model(NamedTuple):
    """One folder of the repository."""

    name: str
    config: str  # config.pbtxt
    batching: Batching
    version: Dict[str, Content]  # path below the version's folder -> content
    beside: Dict[str, bytes]  # path beside config.pbtxt -> content


class Wanted(NamedTuple):
    """What is to be served, and how."""

    kinds: Tuple[str, ...] = KINDS
    device: str = "gpu"  # one of config.DEVICES
    backend: str = "auto"  # of the python model
    instances: Optional[int] = None  # of the python model and of preprocessing; None: config.INSTANCES
    sweep: Optional[Report] = None


class Written(NamedTuple):
    """What became of a model: its newest version, and whether that is new."""

    name: str
    version: int
    new: bool
    batching: str  # why it is as it is; "" where there is none


def write_repository(variants: Sequence[str], precision: str, folder: Path, wanted: Wanted) -> Iterator[Written]:
    """Writes the models of `variants` into `folder`. Raises UserError before anything is written if one can't be made."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder for the repository.")
    models = [model for variant in variants for model in models_of(variant, precision, wanted)]
    for model in models:
        version, new = write_model(model, folder)
        yield Written(model.name, version, new, f"Batching: {model.batching.why}." if model.batching.why else "")


def models_of(variant: str, precision: str, wanted: Wanted) -> List[Model]:
    """The models of one variant, those first that others need."""
    artifact = read_artifact(find_artifact(variant, precision))
    if not artifact.classes:
        raise UserError(f"{artifact.path} has no classes to serve: export the variant with its classifier.")
    verify(artifact.path)
    kinds = wanted.kinds
    models: List[Model] = []
    if {"onnxruntime", "tensorrt", "ensemble"} & set(kinds):
        network = _signature_of(artifact)
        on = _of_network(network, wanted)
        if "tensorrt" in kinds and wanted.device == "gpu":
            models.append(_tensorrt(network, on("tensorrt", "tensorrt_rtx")))
        if "onnxruntime" in kinds:
            batching = on("onnxruntime_cuda" if wanted.device == "gpu" else "onnxruntime")
            file: Dict[str, Content] = {"model.onnx": artifact.path}
            text = config.onnxruntime(network, wanted.device, batching)
            models.append(_model(artifact, "onnxruntime", text, file, _labels(artifact), batching))
        if "ensemble" in kinds:
            if not models:
                raise UserError(
                    "An ensemble chains a network of Triton's: add onnxruntime, or tensorrt on a GPU, to --models."
                )
            kind, most = models[0].name[len(artifact.variant) + 1 :], models[0].batching.most
            models += _ensemble(network, kind, most, wanted)
    if "python" in kinds:
        auto = {"gpu": ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda"), "cpu": ("onnxruntime", "openvino")}[
            wanted.device
        ]
        backends = auto if wanted.backend == "auto" else (wanted.backend,)
        batching = batching_of(wanted.sweep, artifact.variant, artifact.precision, backends, network=False)
        text = config.classify(artifact, wanted.device, batching, wanted.backend, wanted.instances)
        models.append(_model(artifact, "python", text, {**_code(), **_for_backends(artifact)}, _warmup(), batching))
    return models


def write_model(model: Model, folder: Path) -> Tuple[int, bool]:
    """(version, whether it is new). The same content as the newest version's makes no other."""
    target = folder / model.name
    versions = versions_of(target)
    sums = "".join(f"{_sha256(content)}  {path}\n" for path, content in sorted(model.version.items()))
    newest = versions[-1] if versions else 0
    with contextlib.suppress(OSError):
        if versions and (target / str(newest) / _SUMS).read_text(encoding="utf-8") == sums:
            _write_beside(model, target)
            return newest, False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the repository, not in it: a server that polls would take it for a model.
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=str(folder.parent)))
        try:
            temporary.chmod(0o755)
            for path, content in {**model.version, _SUMS: sums.encode()}.items():
                _place(content, temporary / path)
            _write_beside(model, target)
            os.replace(str(temporary), str(target / str(newest + 1)))
        finally:
            shutil.rmtree(str(temporary), ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{target} can't be written: {error.strerror}. Free some space or choose another folder."
        ) from None
    for old in versions[: 1 - KEPT]:
        shutil.rmtree(str(target / str(old)), ignore_errors=True)
    return newest + 1, True


def versions_of(model: Path) -> List[int]:
    """The versions that lie in a model's folder, oldest first."""
    return sorted(int(each.name) for each in model.glob("*") if each.name.isdigit() and each.is_dir())


def _write_beside(model: Model, target: Path) -> None:
    """config.pbtxt, labels and warm-up data; what is as it should be is not touched, since a server goes by times."""
    for name, content in {**model.beside, "config.pbtxt": model.config.encode()}.items():
        path = target / name
        if not path.is_file() or path.read_bytes() != content:
            write_whole(path, content)


def _place(content: Content, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    try:
        os.link(str(content), str(path))  # artifacts are replaced, never written into
    except OSError:  # another disk, or one without links
        shutil.copyfile(str(content), str(path))


def _sha256(content: Content) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)


def _model(
    artifact: Artifact,
    kind: str,
    text: str,
    version: Dict[str, Content],
    beside: Dict[str, bytes],
    batching: Batching,
) -> Model:
    return Model(config.name_of(artifact.variant, kind), text, batching, version, beside)


def _signature_of(artifact: Artifact) -> Signature:
    """Raises UserError for a graph whose number of images is fixed: Triton can't batch for it."""
    from ..artifacts.third_party import ends_of

    inputs, outputs = ends_of(artifact.path)
    batch = inputs[0].shape[0]
    if isinstance(batch, int):
        raise UserError(
            f"{artifact.path} takes just {batch} at once, and Triton can't batch for it: --models python serves it."
        )
    return Signature(inputs[0].name, outputs[0].name, artifact)


def _of_network(network: Signature, wanted: Wanted) -> Callable[..., Batching]:
    artifact = network.artifact
    return lambda *backends: batching_of(wanted.sweep, artifact.variant, artifact.precision, backends, network=True)


def _tensorrt(network: Signature, batching: Batching) -> Model:
    """From the engine beside the artifact, else from the artifact."""
    artifact = network.artifact
    found = []
    for engine in sorted(artifact.path.parent.glob(f"{artifact.variant}.{artifact.asked}.*.engine")):
        manifest = read_manifest(engine)
        if manifest.module == "tensorrt":  # Triton loads none of TensorRT-RTX
            found.append((engine, manifest))
    if len(found) > 1:
        names = ", ".join(engine.name for engine, _ in found)
        raise UserError(
            f"{artifact.path.parent} has engines for several GPUs ({names}): leave the one to be served, move the others."
        )
    if not found:
        text = config.tensorrt_onnx(network, batching)
        return _model(artifact, "tensorrt", text, {"model.onnx": artifact.path}, _labels(artifact), batching)
    engine, manifest = found[0]
    read_engine(engine, manifest)
    require_current(engine, manifest)
    least, best, most = manifest.options.batch
    if least != 1:
        raise UserError(f"{engine} takes no less than {least} images at once: build it with BATCH=1,8,32.")
    preferred = tuple(size for size in batching.preferred if size <= most) or ((best,) if best > 1 else ())
    batching = batching._replace(most=most, preferred=preferred, why=f"{batching.why}; the engine takes at most {most}")
    told = f"TensorRT {manifest.version}, {manifest.gpu}, {manifest.capability}, batch {manifest.options.batch}"
    text = config.tensorrt_plan(network, batching, told)
    return _model(artifact, "tensorrt", text, {"model.plan": engine}, _labels(artifact), batching)


def _ensemble(network: Signature, kind: str, most: int, wanted: Wanted) -> List[Model]:
    artifact = network.artifact
    batching = Batching(most, (), 0, False, "")
    files: Dict[str, Content] = {**_code(), METADATA: sealed(_NO_GRAPH, artifact.precision, artifact.metadata)[0]}
    before = config.preprocess(network, wanted.device, batching, wanted.instances)
    return [
        _model(artifact, "preprocess", before, files, _warmup(), batching),
        _model(artifact, "postprocess", config.postprocess(network, batching, kind), files, {}, batching),
        _model(artifact, "ensemble", config.ensemble(network, batching, kind), {}, {}, batching),
    ]


def _code() -> Dict[str, Content]:
    """model.py, and runtime/ as it is here, so that the server needs nothing of this project."""
    files: Dict[str, Content] = {"model.py": _MODEL.encode()}
    for path in sorted(PACKAGE_FOLDER.rglob("*.py")):
        files[f"runtime/{path.relative_to(PACKAGE_FOLDER).as_posix()}"] = path.read_bytes()
    return files


_MODEL = '''\
"""Triton imports this file; all else is in runtime/serving/model.py beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from runtime.serving.model import TritonPythonModel  # noqa: E402, F401
'''


def _for_backends(artifact: Artifact) -> Dict[str, Content]:
    """The artifact, and what else a backend may want of its network: the source of strongly typed engines, and engines."""
    files: Dict[str, Content] = {artifact.path.name: artifact.path}
    folder, stem = artifact.path.parent, f"{artifact.variant}.{artifact.asked}"
    beside = [folder / f"{stem}-fp16.onnx"] if artifact.precision == "int8" else []
    for engine in sorted(folder.glob(f"{stem}.*.engine")):
        require_current(engine, read_manifest(engine))
        beside += [engine, manifest_path(engine)]
    files.update({path.name: path for path in beside if path.is_file()})
    return files


def _labels(artifact: Artifact) -> Dict[str, bytes]:
    """labels.txt, by which Triton names classes for clients that ask for its classification extension."""
    return {"labels.txt": "".join(f"{' '.join(label.split())}\n" for label in artifact.labels).encode()}


def _warmup() -> Dict[str, bytes]:
    """A JPEG of no image, as Triton's warm-up reads strings: length in four bytes, then content."""
    ramp = Image.linear_gradient("L").resize((640, 480))
    encoded = io.BytesIO()
    Image.merge("RGB", [ramp, ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ramp]).save(encoded, "JPEG", quality=90)
    return {"warmup/picture": struct.pack("<I", len(encoded.getvalue())) + encoded.getvalue()}
