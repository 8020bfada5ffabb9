"""An artifact's engine: where it lies, whether it fits, and how it is built from the ONNX file beside it and loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Tuple

from ...artifacts.artifact import Artifact, artifact_path, read_artifact
from ...artifacts.onnx_metadata import verify
from ...errors import UserError
from ...invocation import typed
from ...lock import locked
from ...whole_file import write_together
from ..backend import Say
from .builder_process import Told, build_engine
from .kernel_cache import KernelCache
from .log import log_of
from .manifest import Manifest, Wanted, checked_engine, engine_path, manifest_path, read_engine, read_manifest
from .options import ANY, BuildOptions
from .site import Site


class Engine(NamedTuple):
    """One network in one precision on one site. There need not be a file yet."""

    site: Site
    source: Artifact  # what it is built from
    precision: str  # as it is asked for: "fp32", "fp16" or "int8"
    path: Path

    @property
    def wanted(self) -> Wanted:
        """What the file must be to run here."""
        site, sha256 = self.site, self.source.metadata.get("sha256", "")
        return Wanted(self.source.path, sha256, site.generation.module, str(site.trt.__version__), site.capability)

    def content(self, trust: bool = False) -> bytes:
        """Its bytes. Raises UserError if it isn't there or does not fit; `trust`: one without a manifest is taken as it is."""
        return checked_engine(self.path, self.wanted, trust)

    def current(self, options: BuildOptions) -> Optional[Manifest]:
        """Its manifest, if it is there, fits and was built with just `options`."""
        with contextlib.suppress(UserError):  # not there, damaged, made by hand, or of another TensorRT
            self.content()
            manifest = read_manifest(self.path)
            if manifest.options == options:
                return manifest
        return None

    def build(self, options: BuildOptions, verbose: bool = False) -> Manifest:
        """Builds it, whatever was there before. Raises UserError if the artifact is damaged, BuildError if TensorRT refuses."""
        return self._build(options, verbose)[0]

    def build_telling(self, options: BuildOptions, verbose: bool = False) -> Tuple[Manifest, Told]:
        """The same; the engine can be asked what its layers are, if the builder does not tell."""
        return self._build(options, verbose, details=True)

    def remember(self, manifest: Manifest, files: Mapping[Path, bytes]) -> None:
        """Writes `manifest`, which knows more than the one that is there, and `files` of its engine beside it."""
        with locked(self.path.parent):
            write_together({manifest_path(self.path): manifest.to_json(), **files})

    def _build(self, options: BuildOptions, verbose: bool = False, details: bool = False) -> Tuple[Manifest, Told]:
        verify(self.source.path)
        # Timings hold for one TensorRT on one GPU, and serve all networks.
        cache = self.path.parent.parent / f"timing.{self.site.slug}.{self.site.trt.__version__}.cache"
        gpu = self.site.gpu.name if self.site.gpu else ""
        if self.site.generation.targets:  # or TensorRT-RTX builds for every GPU since Ampere
            building = options._replace(target=self.site.capability)
        else:
            building = options
        return build_engine(self.path, self.wanted, options, building, gpu, cache, verbose, details)

    def fitting(self, rebuild: bool = True, trust: bool = False, say: Say = lambda _: None) -> bytes:
        """The bytes of one that fits this TensorRT, this GPU and the ONNX file, built if need be.

        `rebuild=False`: raises UserError instead of building. `trust`: takes one that has no manifest as it is.
        """
        options, tuning = BuildOptions(self.precision), None
        if self.path.is_file():
            try:
                return self.content(trust)
            except UserError as error:
                reason = str(error)
                with contextlib.suppress(UserError):  # without a manifest it is built as usual
                    before = read_manifest(self.path)
                    options, tuning = before.options._replace(target=None), before.tuning
        else:
            reason = f"{self.path} is not there yet"
        if not rebuild:
            raise UserError(f"{reason.rstrip('.')}. --no-rebuild forbids building it; '{typed('engine')}' does it.")
        say(f"building {self.path.name}: {reason}")
        manifest = self.build(options)
        if tuning is not None:  # the layers that were put back are put back again: the next search begins with them
            manifest = manifest._replace(tuning=tuning)
            self.remember(manifest, {})
        return read_engine(self.path, manifest)

    def load(self, content: bytes) -> Loaded:
        """`content` in TensorRT's hands. The GPU's context must be current. Raises UserError if TensorRT refuses it."""
        log = log_of(self.site.trt)
        runtime = self.site.trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise UserError(f"{self.site.library} refuses {self.path.name}. It says: {log.said()[:400]}")
        kernels = None
        if self.site.generation.kernel_cache and self.site.gpu is not None:
            kernels = KernelCache(engine, self.path, content, self.site.library, self.site.gpu)
        return Loaded(log, runtime, engine, kernels)


class Loaded(NamedTuple):
    """An engine in TensorRT's hands. A tuple lets go of its last item first, and each of these needs those before it."""

    log: Any
    runtime: Any
    engine: Any
    kernels: Optional[KernelCache]  # of TensorRT-RTX

    def new_context(self) -> Any:
        """An execution context; None where TensorRT refuses."""
        if self.kernels is not None:
            return self.engine.create_execution_context(self.kernels.new_config())
        return self.engine.create_execution_context()


def engine_of(artifact: Artifact, site: Site, precision: Optional[str] = None) -> Engine:
    """The engine of `artifact`'s network on `site`, in `precision` or that of the artifact.

    Raises UserError if the artifact that it is built from isn't beside it.
    """
    precision = precision or artifact.asked
    source = _source(artifact, site, precision)
    path = engine_path(source.path, source.variant, precision, site.slug)
    portable = engine_path(source.path, source.variant, precision, f"rtx-{ANY}")
    if site.generation.targets and not path.is_file() and portable.is_file():
        path = portable
    return Engine(site, source, precision, path)


def _source(artifact: Artifact, site: Site, precision: str) -> Artifact:
    wanted = site.generation.source(precision)
    if artifact.precision == wanted:
        return artifact
    path = artifact.path.with_name(f"{artifact.variant}.{wanted}.onnx")
    if not path.is_file():
        make = "export" if wanted in ("fp32", "fp16") else "calibrate"
        raise UserError(
            f"{site.library} builds {precision} from {path}, which is not there: run 'make {make} "
            f"VARIANT={artifact.variant}', and copy the file if this is another machine."
        )
    return read_artifact(path)


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
