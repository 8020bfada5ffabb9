"""What the builder made of an artifact, beside what it made of the same network in FP16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...artifacts.artifact import Artifact
from ...errors import UserError
from ...table import aligned
from ...whole_file import write_together
from ..cuda import open_device
from .compare import noise, running
from .engine import Engine, engine_of
from .layers import Cost, Layer, from_json
from .layers_page import layers_page
from .manifest import Manifest
from .options import BuildOptions
from .site import Site

ROUNDS, WARM = 50, 10
SCHEMA = 1


class Explained(NamedTuple):
    """An engine that is there, and its kernels."""

    manifest: Manifest
    layers: List[Layer]

    @property
    def cost(self) -> Cost:
        return Cost.of(self.layers)


def explain(
    artifact: Artifact, site: Site, options: BuildOptions, verbose: bool = False, anew: bool = False
) -> List[str]:
    """Lines that compare the engine of `options.precision` with FP16's of the same network, and say which files hold the rest.

    Builds what is not there, or all of it `anew`. Raises UserError where an artifact is missing or TensorRT tells nothing of
    the layers.
    """
    found = _both(artifact, site, options, verbose, anew)
    costs = {precision: each.cost for precision, each in found.items()}
    said = advice(costs)
    path = engine_of(artifact, site, options.precision).path
    page = page_path(path)
    title = f"{artifact.variant} {options.precision} in {site.library} for {site.capability}"
    write_together({page: layers_page(title, found[options.precision].layers, costs, said).encode()})
    return [*rows(costs), *([said] if said else []), f"every kernel: {page}, and as JSON {layers_path(path)}"]


def comparison(artifact: Artifact, site: Site, options: BuildOptions) -> Tuple[List[str], str]:
    """The rows of `explain` and what follows from them. Raises UserError as that does."""
    costs = {precision: each.cost for precision, each in _both(artifact, site, options).items()}
    return rows(costs), advice(costs)


def _both(
    artifact: Artifact, site: Site, options: BuildOptions, verbose: bool = False, anew: bool = False
) -> Dict[str, Explained]:
    """By precision: FP16, and that of `options`."""
    wanted = {name: engine_of(artifact, site, name) for name in dict.fromkeys(("fp16", options.precision))}
    return {name: explained(engine, options._replace(precision=name), verbose, anew) for name, engine in wanted.items()}


def explained(engine: Engine, options: BuildOptions, verbose: bool = False, anew: bool = False) -> Explained:
    """`engine` with its kernels, as they were kept beside it, or built `anew` and asked."""
    manifest = None if anew else engine.current(options)
    layers = _read(layers_path(engine.path), manifest)
    if manifest is None or layers is None:
        manifest, told = engine.build_telling(options, verbose)
        layers = told.layers
        if engine.site.gpu is not None:
            layers = asked(engine, options.batch.best, layers, told.macs)
        if not layers:
            raise UserError(f"{engine.site.library} told nothing of the layers of {engine.path.name}.")
        manifest = manifest._replace(cost=Cost.of(layers))
        values: Dict[str, Any] = {"schema": SCHEMA, "engine_sha256": manifest.engine_sha256}
        values.update(cost=manifest.cost._asdict() if manifest.cost else None, batch=options.batch.best)
        values["layers"] = [layer._asdict() for layer in layers]
        engine.remember(manifest, {layers_path(engine.path): (json.dumps(values, indent=1) + "\n").encode()})
    return Explained(manifest, layers)


def layers_path(engine: Path) -> Path:
    return engine.with_suffix(".layers.json")


def page_path(engine: Path) -> Path:
    return engine.with_suffix(".layers.html")


def rows(costs: Mapping[str, Cost]) -> List[str]:
    """A table, a row for each precision."""
    timed = any(cost.milliseconds is not None for cost in costs.values())
    heads = ["", "kernels", "MB of activations", "MB of weights", "MACs in INT8", "conversions"]
    table = [heads + ["ms, kernel by kernel"] * timed]
    for name, cost in costs.items():
        cells = [name, str(cost.kernels), f"{cost.activation_bytes / 1e6:.1f}", f"{cost.weight_bytes / 1e6:.1f}"]
        cells += [f"{cost.int8_macs:.0%}", str(cost.reformats)]
        cells += [f"{cost.milliseconds:.3f}" if cost.milliseconds is not None else ""] * timed
        table.append(cells)
    return aligned(table, right=range(1, len(table[0]))).splitlines()


def advice(costs: Mapping[str, Cost]) -> str:
    """What the rows of INT8 and FP16 say about INT8; "" without both."""
    if not {"int8", "fp16"} <= set(costs):
        return ""
    int8, fp16 = costs["int8"], costs["fp16"]
    bytes_, more = int8.activation_bytes / fp16.activation_bytes, int8.kernels - fp16.kernels
    kernels = f"in {abs(more)} {'more' if more > 0 else 'fewer'} kernels" if more else "in as many kernels"
    said = f"INT8 moves {bytes_:.2f} times the bytes of FP16's activations, {kernels}"
    if bytes_ >= 1 and more >= 0:
        return f"{said}, and is not more accurate: use PRECISION=fp16 here."
    return f"{said}. Which of the two is faster, only a measurement on the GPU says."


def asked(engine: Engine, batch: int, layers: Sequence[Layer], macs: Mapping[str, int]) -> List[Layer]:
    """What a loaded engine tells on its GPU, with the time of each layer; `layers` instead, where the log listed them. Raises
    UserError if it tells too little."""
    told = "" if layers else _inspected(engine, batch)
    with running({"": engine}) as runners:
        times = runners[""].profiled(noise(engine.source.preprocessing, batch), ROUNDS, WARM)
    if layers:
        return [layer._replace(milliseconds=times.get(layer.name)) for layer in layers]
    try:
        return from_json(told, macs, batch, times)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{engine.site.library} tells too little of {engine.path.name}'s layers: {error}.") from None


def _inspected(engine: Engine, batch: int) -> str:
    """JSON. With an execution context whose shapes are set: without one, types and sizes are "N/A due to dynamic shapes"."""
    device = open_device()
    try:
        with device:
            loaded: Any = engine.load(engine.content())
            context, inspector = loaded.new_context(), loaded.engine.create_engine_inspector()
            name = loaded.engine.get_tensor_name(0)
            context.set_input_shape(name, (batch, *tuple(loaded.engine.get_tensor_shape(name))[1:]))
            inspector.execution_context = context
            told = str(inspector.get_engine_information(engine.site.trt.LayerInformationFormat.JSON))
            del inspector
            del context
            loaded = None
            return told
    finally:
        device.close()


def _read(path: Path, manifest: Optional[Manifest]) -> Optional[List[Layer]]:
    """The rows that were kept of just this engine; None if there are none."""
    try:
        values = json.loads(path.read_bytes())
        if manifest is None or (values["schema"], values["engine_sha256"]) != (SCHEMA, manifest.engine_sha256):
            return None
        return [Layer(**{**each, "nodes": tuple(each["nodes"])}) for each in values["layers"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
