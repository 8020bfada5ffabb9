"""The engine for an artifact on this machine's GPU: found and checked, or built anew from the ONNX file beside it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Tuple

from ...artifacts.artifact import Artifact, artifact_path, read_artifact
from ...artifacts.onnx_metadata import verify
from ...errors import UserError
from ..cuda.driver import Gpu, gpus
from .builder_process import build_engine
from .generations import Generation, load
from .log import log_of
from .manifest import (
    Manifest,
    Wanted,
    engine_path,
    mismatch,
    read_engine,
    read_manifest,
)
from .options import BuildOptions

Say = Callable[[str], None]


class Site(NamedTuple):
    """What builds engines, and the GPU they are for."""

    trt: Any  # the module
    generation: Generation
    capability: str  # "sm_89"
    gpu: Optional[Gpu]  # None: builds for one that is not here

    @property
    def slug(self) -> str:
        """Part of an engine's name. TensorRT-RTX's engines fit every GPU of an architecture, TensorRT's one model."""
        if self.generation.module == "tensorrt_rtx" or self.gpu is None:
            return f"rtx-{self.capability.replace('_', '')}"
        return self.gpu.slug


def open_site(module: str, target: Optional[str] = None, index: int = 0) -> Site:
    """Raises UserError if there is no such module or, without a `target`, no GPU: the driver is asked, since some
    versions of TensorRT crash where there is none."""
    trt, row = load(module)
    if target is not None:
        return Site(trt, row, target, None)
    found, why, _ = gpus()
    if len(found) <= index:
        rtx = " With TensorRT-RTX, TARGET=sm_89 builds for another machine's." if row.targets else ""
        raise UserError(f"{module} needs an NVIDIA GPU, and there is none. {why.rstrip('.')}.{rtx}")
    return Site(trt, row, found[index].sm, found[index])


def source_of(artifact: Artifact, site: Site, precision: str) -> Artifact:
    """The artifact beside `artifact` that an engine in `precision` is built from. Raises UserError if it isn't there."""
    wanted = site.generation.sources[precision]
    if artifact.precision == wanted:
        return artifact
    path = artifact.path.with_name(f"{artifact.variant}.{wanted}.onnx")
    if not path.is_file():
        make = "export" if wanted in ("fp32", "fp16") else "calibrate"
        raise UserError(
            f"{site.generation.module} {site.trt.__version__} builds {precision} from {path}, which is not there: "
            f"run 'make {make} VARIANT={artifact.variant}', and copy the file if this is another machine."
        )
    return read_artifact(path)


def precision_of(artifact: Artifact) -> str:
    """What an artifact is built to: fp32, fp16 or int8."""
    return "int8" if artifact.precision.startswith("int8") else artifact.precision


def wanted_of(source: Artifact, site: Site) -> Wanted:
    version = str(site.trt.__version__)
    return Wanted(source.path, source.metadata.get("sha256", ""), site.generation.module, version, site.capability)


def make_engine(artifact: Artifact, site: Site, options: BuildOptions, verbose: bool = False) -> Tuple[Path, Manifest]:
    """Builds the engine of `artifact`'s network in `options.precision`, whatever was there before.

    Raises UserError if the artifact is missing or damaged, BuildError if TensorRT refuses it.
    """
    source = source_of(artifact, site, options.precision)
    verify(source.path)
    path = engine_path(source.path, source.variant, options.precision, site.slug)
    # Timings hold for one TensorRT on one GPU, and serve all networks.
    cache = path.parent.parent / f"timing.{site.slug}.{site.trt.__version__}.cache"
    name = site.gpu.name if site.gpu else ""
    return path, build_engine(path, wanted_of(source, site), options, name, cache, verbose)


def existing_engine(artifact: Artifact, site: Site) -> Optional[Path]:
    """The engine of `artifact` that was built for this GPU, fitting or not."""
    path = engine_path(artifact.path, artifact.variant, precision_of(artifact), site.slug)
    return path if path.is_file() else None


def fitting_engine(
    artifact: Artifact, site: Site, rebuild: bool = True, trust: bool = False, say: Say = lambda _: None
) -> Tuple[Path, bytes]:
    """Path and bytes of an engine of `artifact` that fits this TensorRT, this GPU and the ONNX file, built if need be.

    `rebuild=False`: raises UserError instead of building. `trust`: takes an engine that has no manifest as it is.
    """
    precision = precision_of(artifact)
    source = source_of(artifact, site, precision)
    path, options = engine_path(source.path, source.variant, precision, site.slug), BuildOptions(precision)
    if path.is_file():
        try:
            return path, checked_engine(path, wanted_of(source, site), trust)
        except UserError as error:
            reason = str(error)
            with contextlib.suppress(UserError):  # without a manifest it is built as usual
                options = read_manifest(path).options._replace(target=None)
    else:
        reason = f"{path} is not there yet"
    if not rebuild:
        raise UserError(f"{reason.rstrip('.')}. --no-rebuild forbids building it; 'python -m runtime.engine' does it.")
    say(f"building {path.name}: {reason}")
    path, manifest = make_engine(artifact, site, options)
    return path, read_engine(path, manifest)


def checked_engine(path: Path, wanted: Wanted, trust: bool = False) -> bytes:
    """The bytes of the engine `path`. Raises UserError, before TensorRT sees them, if they don't fit `wanted`."""
    try:
        manifest: Optional[Manifest] = read_manifest(path)
    except UserError:
        if not trust:
            raise
        manifest = None
    if manifest is not None:
        why = mismatch(manifest, wanted)
        if why:
            raise UserError(f"{path.name} does not fit: {why}")
    return read_engine(path, manifest)


class Loaded(NamedTuple):
    """An engine in TensorRT's hands. A tuple lets go of its last item first: the engine, its runtime, its log."""

    log: Any
    runtime: Any
    engine: Any


def deserialize(site: Site, content: bytes, path: Path) -> Loaded:
    """The GPU's context must be current. Raises UserError with what TensorRT says if it refuses."""
    log = log_of(site.trt)
    runtime = site.trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise UserError(f"TensorRT {site.trt.__version__} refuses {path.name}. It says: {log.said()[:400]}")
    return Loaded(log, runtime, engine)


def artifact_of(engine: Path) -> Artifact:
    """The artifact that the engine `engine` was built from, by its manifest, or by its name where it has none.

    Raises UserError if it isn't beside it.
    """
    try:
        name = read_manifest(engine).onnx
    except UserError:
        variant, _, rest = engine.name.partition(".")
        name = artifact_path(variant, rest.partition(".")[0]).name
    path = engine.parent / Path(name).name
    if not path.is_file():
        raise UserError(f"{path}, from which {engine.name} was built, is not beside it: it says what the classes are.")
    return read_artifact(path)
