"""From an ONNX file to an engine: one builder for all generations of TensorRT. Precision comes from the graph.

It runs in a process of its own (see `builder_process`), so that the memory it took is free again before the engine
runs, and so that being killed for memory, or TensorRT crashing, ends in a sentence.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from ...errors import UserError
from ...invocation import install
from ...peak_memory import peak_bytes
from ...whole_file import write_whole
from .generations import NAMES, Generation, compute_capability, load
from .layers import Layer, from_log
from .log import log_of
from .network import Product, any_ranges, products_of, put_back
from .options import ANY, BuildOptions

MEMORY_HINT = (
    "give kernels less (WORKSPACE=256M), build for fewer images at once (BATCH=1), close other programs, or add swap"
)
# What TensorRT's own errors mean for whoever reads them. The first that fits counts.
REASONS = (
    (r"insufficient memory|out of memory|bad_alloc|failed_allocation", f"there was not enough memory: {MEMORY_HINT}"),
    (r"(?:no importer registered for op|unsupported operator|cannot find operator)\W*(\w*)", r"it has no operator \1"),
    (r"plugin not found|createPlugin", "the graph has an operator that it doesn't know"),
    (r"failed to parse the onnx model|deserialize_failed", "the ONNX file is damaged: export it again"),
    (
        r"opset.{0,40}(?:not supported|greater)",
        "the file's opset is newer than it reads: export with this project's own",
    ),
    (r"no optimization profile", "the network's batch size is open and no profile was given for it"),
    (
        r"turing.*fp32 gemm|fp32 gemm.*not supported",
        "FP32 classifiers need a GPU newer than Turing: choose fp16 or int8",
    ),
    (r"no cuda-capable device|cuda initialization fail|insufficient driver", "it found no GPU that works"),
    (
        r"could not find any implementation for node",
        f"no kernel fits a layer, most often for want of memory: {MEMORY_HINT}",
    ),
)
_LIBRARIES = ("CUBLAS", "CUBLAS_LT", "CUDNN")


class BuildError(UserError):
    """TensorRT refused the network, or could not be run."""

    def __init__(self, text: str, status: int = 1, products: Optional[Dict[str, Product]] = None) -> None:
        """`products`: what is known of the network, see products_of."""
        super().__init__(text)
        self.status, self.products = status, products or {}


class Built(NamedTuple):
    engine: bytes
    timing_cache: bytes  # b"" where there is none
    fallbacks: Dict[str, str]  # with DLA: layers that run on the GPU, and their kind
    products: Dict[str, Product]  # by node, as the file has them
    put_back: List[str]  # the INT8 layers of them that are FP16 in the engine
    layers: List[Layer]  # where the log tells them


Progress = Callable[[str, int, int], None]  # phase, steps done, of


def build(
    trt: Any,
    generation: Generation,
    onnx: bytes,
    options: BuildOptions,
    timing_cache: bytes = b"",
    verbose: bool = False,
    progress: Progress = lambda *_: None,
    details: bool = False,
) -> Built:
    """An engine for the network in `onnx`, an artifact that fits `generation` (see Generation.source).

    `details`: the engine can tell its layers. Where the log does (Generation.layer_log), they are always read from it.

    Raises UserError for options that this generation can't do, BuildError with TensorRT's reason if it refuses.
    """
    _check(generation, options)
    log = log_of(trt, verbose)
    builder = trt.Builder(log)
    flags = 0
    if generation.explicit_batch:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    # DLA chooses kernels by flags, and takes no strongly typed network.
    typed = generation.strongly_typed and options.dla is None and not options.implicit
    if typed:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise BuildError(_sentence("can't read the network", " ".join([*errors, log.said()])))
    products = products_of(trt, network)
    back = _higher(generation, options, products)
    held = put_back(trt, network, back) if back else []  # arrays that the network refers to until it is built
    config = builder.create_builder_config()
    if not typed:
        if options.precision != "fp32":
            config.set_flag(trt.BuilderFlag.FP16)
        if options.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    if options.implicit:
        any_ranges(network)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.target not in (None, ANY):
        config.num_compute_capabilities = 1
        config.set_compute_capability(compute_capability(trt, str(options.target)), 0)
    if verbose or details or generation.layer_log:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if generation.libraries:
        _without_libraries(trt, config)
    if generation.progress:
        config.progress_monitor = _monitor(trt, progress)
    image = network.get_input(0)
    for _ in range(generation.profiles):
        profile = builder.create_optimization_profile()
        own, *rest = tuple(image.shape)
        batch = options.batch if own < 0 else (own,) * 3  # a third-party network may take one number of images only
        profile.set_shape(image.name, *[(count, *rest) for count in batch])
        config.add_optimization_profile(profile)
    fallbacks = {} if options.dla is None else _use_dla(trt, builder, network, config, options.dla)
    if generation.timing_cache:
        _use_timing_cache(config, timing_cache)

    serialized = builder.build_serialized_network(network, config)
    del held
    if serialized is None:
        raise BuildError(_sentence("can't build the network", log.said()), products=products)
    cache = config.get_timing_cache() if generation.timing_cache else None
    return Built(
        bytes(serialized),
        bytes(cache.serialize()) if cache is not None else b"",
        fallbacks,
        products,
        back,
        from_log(log.layers, {name: each.macs for name, each in products.items()}) if generation.layer_log else [],
    )


def _higher(generation: Generation, options: BuildOptions, products: Dict[str, Product]) -> List[str]:
    """The INT8 layers that are put back: those that were asked for, or, if nobody asked, depthwise ones with SiLU where there
    is no INT8 kernel for the two."""
    if options.higher is not None:
        return [name for name in options.higher if name in products and products[name].int8]
    if generation.depthwise_silu:
        return []
    return [name for name, each in products.items() if each.int8 and each.depthwise and each.silu]


def _check(generation: Generation, options: BuildOptions) -> None:
    name = f"{generation.module} {generation.since[0]}"
    if options.target is not None and not generation.targets:
        raise UserError(
            f"{name} builds only for the GPU of the machine it runs on, so GPU={options.target} needs TensorRT-RTX: "
            f"{install('tensorrt-rtx')}, and BACKEND=tensorrt_rtx."
        )
    if options.opt_level is not None and not 0 <= options.opt_level <= 5:
        raise UserError(f"There is no optimisation level {options.opt_level}: choose 0 (quick) to 5 (thorough).")
    if options.opt_level is not None and not generation.opt_level:
        raise UserError("TensorRT 8.5 has no optimisation levels: leave OPT_LEVEL out.")
    if options.dla is None:
        return
    if not generation.dla:
        raise UserError(f"{name} has no DLA: leave DLA out.")
    if options.precision != "fp16":
        raise UserError(
            "DLA takes no Q/DQ networks and no FP32, so DLA= needs PRECISION=fp16 (INT8 there would need TensorRT's own "
            "calibrators, which later versions dropped)."
        )
    if len(set(options.batch)) > 1:
        raise UserError(f"DLA needs one batch size: BATCH={options.batch.best} instead of {options.batch}.")


def _without_libraries(trt: Any, config: Any) -> None:
    """No network of this project needs cuBLAS or cuDNN, and loading them takes hundreds of MB on a Jetson."""
    sources = config.get_tactic_sources()
    for name in _LIBRARIES:
        sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    config.set_tactic_sources(sources)


def _use_dla(trt: Any, builder: Any, network: Any, config: Any, core: int) -> Dict[str, str]:
    if not 0 <= core < builder.num_DLA_cores:
        have = f"{builder.num_DLA_cores} cores, counted from 0" if builder.num_DLA_cores else "none"
        raise UserError(f"There is no DLA core {core}: this machine has {have}.")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = (network.get_layer(i) for i in range(network.num_layers))
    return {layer.name: layer.type.name for layer in layers if not config.can_run_on_DLA(layer)}


def _use_timing_cache(config: Any, content: bytes) -> None:
    """Kernels that were timed in an earlier build, for the same TensorRT and GPU, aren't timed again. One of another
    machine is refused by TensorRT itself, and an empty one takes its place."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _sentence(what: str, said: str) -> str:
    for pattern, meaning in REASONS:
        found = re.search(pattern, said, re.IGNORECASE)
        if found:
            return f"TensorRT {what}: {found.expand(meaning)}.\nIt says: {said[:400]}"
    return f"TensorRT {what}. It says: {said[:600]}"


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Passes on each phase with its steps; phases nest, and the innermost is what is going on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: Dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


# In the builder's process: a request as JSON on its standard input; the answer a line of JSON for progress, and one at the end.


def answer(request: Dict[str, Any], say: Callable[..., None]) -> int:
    """Builds what `request` says: {"module", "onnx", "engine", "timing_cache", "options", "verbose", "details"}. The exit
    status. `say` gets {"phase", "done", "of"} now and then, at last {"error", "status", "products"} or {"version", "fallbacks",
    "peak_memory", "products", "put_back", "layers"}."""
    last = 0.0

    def progress(phase: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2 or not done:
            last = time.monotonic()
            say(phase=phase, done=done, of=of)

    try:
        trt, row = load(request["module"])
        cache = Path(request["timing_cache"])
        try:
            content = cache.read_bytes()
        except OSError:
            content = b""
        options = BuildOptions.from_dict(request["options"])
        onnx = Path(request["onnx"]).read_bytes()
        built = build(trt, row, onnx, options, content, request["verbose"], progress, request["details"])
        write_whole(Path(request["engine"]), built.engine)
        if built.timing_cache and built.timing_cache != content:
            write_whole(cache, built.timing_cache)
    except UserError as error:
        say(error=str(error), status=error.status, products=getattr(error, "products", {}))
        return error.status
    except (
        Exception
    ) as error:  # a binding that does not fit its libraries raises anything; the traceback is for --verbose
        if request["verbose"]:
            traceback.print_exc()
        said = " ".join(str(error).split())[:300]
        say(error=f"{NAMES[request['module']]} failed while building ({type(error).__name__}: {said}).", status=1)
        return 1
    say(
        version=str(trt.__version__),
        fallbacks=built.fallbacks,
        peak_memory=peak_bytes() or 0,
        products=built.products,
        put_back=built.put_back,
        layers=[layer._asdict() for layer in built.layers],
    )
    return 0


def main() -> int:
    """One request and its answer. The answer has a descriptor of its own: what native libraries print on standard output, where
    they please, goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            request = json.load(sys.stdin)
        except ValueError:
            return 1  # whoever asked is gone
        return answer(request, lambda **values: print(json.dumps(values), file=out, flush=True))


if __name__ == "__main__":
    sys.exit(main())
