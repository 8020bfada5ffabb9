"""A FAKE TensorRT: for tests of our own logic where there is neither.

`fake_module("10.3.0")` stands in for `import tensorrt`. Every class is made from tests/data/tensorrt_api.tsv, which lists
what the real bindings of that version have: another name is an AttributeError, a wrong argument a TypeError, and what
the fake does not imitate a NotImplementedError. "Engines" hold the ONNX and run in onnxruntime. Nothing here says
anything about speed, memory, or which layers the real one supports.

How they refuse is in fake_bindings.py, how engines run in fake_engine.py, and the FAKE GPU that they run on in
fake_cuda.py.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from tests.runtime.artifacts.onnx_bytes import Node, constants, nodes
from tests.runtime.backends.fake_bindings import Dims, Fake, class_of, enum_of, log_error
from tests.runtime.backends.fake_engine import (
    DTYPES,
    HEADER,
    FakeCudaEngine,
    FakeEngineInspector,
    FakeExecutionContext,
    FakeRuntime,
    FakeRuntimeCache,
    FakeRuntimeConfig,
    session_of,
)

TABLE = Path(__file__).resolve().parents[2] / "data" / "tensorrt_api.tsv"
VERSIONS = ("8.5.3", "10.3.0", "10.13.3", "10.16.1", "11.4.0", "rtx-1.7.1")
CACHE = b"FAKE TIMING CACHE\n"
_LAYERS = {
    "Conv": "CONVOLUTION",
    "Relu": "ACTIVATION",
    "Clip": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "Add": "ELEMENTWISE",
    "Mul": "ELEMENTWISE",
    "GlobalAveragePool": "REDUCE",
    "ReduceMean": "REDUCE",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Flatten": "SHUFFLE",
    "Reshape": "SHUFFLE",
    "Constant": "CONSTANT",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Transpose": "SHUFFLE",
}
_ON_DLA = {"CONVOLUTION", "ACTIVATION", "ELEMENTWISE", "POOLING"}


def fake_module(version: str) -> Any:
    """A module like `tensorrt` (or `tensorrt_rtx`) of `version`, one of VERSIONS. What tests may read and set on it:

    calls: every (class, member) used. faults: {"Class.method": text}: that method logs the text as an error and fails.
    layer_time: what milliseconds a layer takes, given {"name", "kind", "int8", "count"}; None: no time passes.
    gpu: the "SM89" that engines are built for and run on. dla_cores. capturable_after: executions of a context before
    it can be captured, None for never. device: the FAKE driver on which it runs, current wherever the real one needs a GPU.
    timed: the layers of the last build that no timing cache held. compiled: runs for which
    TensorRT-RTX compiled kernels. living: [class] -> how many objects exist.
    """
    column = VERSIONS.index(version)
    number = version[4:] if version.startswith("rtx-") else version
    module: Any = types.ModuleType("tensorrt_rtx" if version.startswith("rtx-") else "tensorrt")
    module.__version__ = {"8.5.3": "8.5.3.1", "1.7.1": "1.7.1.116"}.get(number, number)
    module.calls, module.faults, module.living = [], {}, {}
    module.gpu, module.dla_cores, module.capturable_after, module.device = "SM89", 0, 0, None
    module.timed = module.compiled = 0
    module.layer_time = None
    module._major = int(number.split(".")[0]) if module.__name__ == "tensorrt" else 0
    module._strong = version in ("11.4.0", "rtx-1.7.1")  # always strongly typed
    module._errors = None  # the logger that was handed over last
    rows: Dict[str, Dict[str, str]] = {}
    for line in TABLE.read_text().splitlines()[2:]:
        name, member, mask, arguments = line.split("\t")
        if mask[column] == "x":
            rows.setdefault(name, {})[member] = arguments
    module._classes = rows
    for name, members in rows.items():
        enum = all(arguments == "=" for arguments in members.values())
        behaviour = BEHAVIOURS.get(name.lstrip("I"), Fake)
        setattr(module, name, enum_of(name, members) if enum else class_of(module, name, members, behaviour))
    severities = ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
    module.ILogger.Severity = module.Logger.Severity = enum_of("Severity", severities, ordered=True)
    for name in severities:
        setattr(module.ILogger, name, getattr(module.ILogger.Severity, name))
        setattr(module.Logger, name, getattr(module.ILogger.Severity, name))
    module.volume = lambda shape: int(np.prod(tuple(shape)))
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    return module


class FakeLogger(Fake):
    min_severity: Any = None

    def start(self, min_severity: Any = None) -> None:
        self.__dict__["_min_severity"] = min_severity or self._trt.ILogger.WARNING

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self.__dict__["_min_severity"]:
            print(f"[FakeTRT] [{severity.name[0]}] {msg}")


class FakeHostMemory(Fake):
    def start(self) -> None:
        self.extend(self.__dict__["_content"])  # type: ignore[attr-defined]

    @property
    def nbytes(self) -> int:
        return len(self.__dict__["_content"])

    def __len__(self) -> int:
        raise TypeError("object of type 'tensorrt.IHostMemory' has no len()")

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("nbytes", "dtype", "extend"):
            raise AttributeError(f"'IHostMemory' object has no attribute '{name}'")
        return object.__getattribute__(self, name)


class FakeBuilder(Fake):
    max_DLA_batch_size, max_threads, platform_has_fast_fp16, platform_has_fast_int8, platform_has_tf32 = (
        4096,
        1,
        True,
        True,
        True,
    )

    def start(self, logger: Any) -> None:
        if not isinstance(logger, (self._trt.ILogger, self._trt.Logger)):
            raise TypeError("Builder: incompatible constructor arguments")
        self._trt._errors = logger
        self.__dict__["_logger"] = logger

    @property
    def num_DLA_cores(self) -> int:
        return self._trt.dla_cores

    def create_network(self, flags: int = 0) -> Any:
        if not isinstance(flags, int):
            raise TypeError("create_network(): incompatible function arguments")
        return self._new("INetworkDefinition", flags=flags, layers=[], inputs=[], outputs=[], onnx=None)

    def create_builder_config(self) -> Any:
        return self._new("IBuilderConfig", set=set(), pools={}, profiles=[], devices={}, targets={}, cache=None)

    def create_optimization_profile(self) -> Any:
        return self._new("IOptimizationProfile", shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        trt = self._trt
        problem = _build_problem(trt, network, config)
        if problem:
            log_error(trt, problem)
            return None
        names, held = [layer._name_ for layer in network._layers], set()
        if config._cache is not None and "DISABLE_TIMING_CACHE" not in config._set:
            held, config._cache._layers = config._cache._layers, config._cache._layers | set(names)
        trt.timed = len([name for name in names if name not in held])
        monitor = config.__dict__.get("_progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 2)
            monitor.phase_start("Timing", "Building Engine", len(names))
            going = all(monitor.step_complete("Timing", step) for step in range(len(names)))
            monitor.phase_finish("Timing")
            going = going and monitor.step_complete("Building Engine", 0)
            monitor.phase_finish("Building Engine")
            if not going:
                log_error(trt, "Build was cancelled by the progress monitor")
                return None
        targets = [target.name for target in config._targets.values() if target.name not in ("NONE", "CURRENT")]
        header = {
            "version": trt.__version__,
            "targets": targets or [trt.gpu],
            "flags": sorted(config._set),
            "level": config.__dict__.get("_builder_optimization_level", 3),
            "detailed": getattr(config.__dict__.get("_profiling_verbosity"), "name", "") in ("DETAILED", "VERBOSE"),
            "layers": _made(network, flags=config._set),
            "profiles": [profile._shapes for profile in config._profiles],
        }
        return self._new("IHostMemory", content=HEADER + json.dumps(header).encode() + b"\n" + network._onnx)


def _made(network: Any, flags: Any) -> List[Dict[str, Any]]:
    """What becomes of the layers that lead to an output: name, kind, whether it computes in INT8, number of weights."""
    made_by = {id(layer._output): layer for layer in network._layers}
    names, found = {tensor._name_ for tensor in network._outputs}, []
    left, seen = [layer for layer in network._layers if layer._output._name_ in names], set()
    while left:
        layer = left.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            left += [made_by[id(tensor)] for tensor in layer._inputs if id(tensor) in made_by]
    quantised = any(layer._type == "QUANTIZE" for layer in network._layers)
    for layer in network._layers:
        if id(layer) not in seen or layer._type == "CONSTANT":
            continue
        before = made_by.get(id(layer._inputs[0])) if layer._inputs else None
        int8 = before is not None and before._type == "DEQUANTIZE" or "INT8" in flags and not quantised
        count = int(np.prod(layer._weights_shape)) if layer._type == "CONVOLUTION" else 0
        found.append({"name": layer._name_, "kind": layer._type, "int8": bool(int8 and count), "count": count})
    return found


def _build_problem(trt: Any, network: Any, config: Any) -> str:
    """What the real builder would log before it returns None, or ""."""
    kinds, flags = {layer._type for layer in network._layers}, config._set
    strong = trt._strong or bool(network._flags & _bit(trt, "STRONGLY_TYPED"))
    if network._onnx is None:
        return "Network must have at least one output"
    if strong and flags & {"FP16", "INT8", "BF16", "FP8"}:
        return f"Error Code 4: API Usage Error (kSTRONGLY_TYPED network with {', '.join(sorted(flags))} flag set)"
    if not strong and "QUANTIZE" in kinds and "INT8" not in flags:
        return "Error Code 4: Internal Error (Q/DQ layers need the INT8 builder flag)"
    for tensor in network._inputs:
        if -1 in tensor._shape and not any(tensor._name_ in profile._shapes for profile in config._profiles):
            text = "Network has dynamic or shape inputs, but no optimization profile has been defined."
            return f"Error Code 4: Internal Error ({text})"
    for profile in config._profiles:
        if not all(a <= b <= c for shapes in profile._shapes.values() for a, b, c in zip(*shapes)):
            return "Error Code 4: Internal Error (Profile 0: minimum, optimum and maximum are not in this order)"
    if getattr(config.__dict__.get("_default_device_type"), "name", "GPU") == "DLA":
        alone = [layer._name_ for layer in network._layers if layer._type not in _ON_DLA]
        if not trt.dla_cores:
            return "Error Code 3: API Usage Error (no DLA core on this platform)"
        if alone and "GPU_FALLBACK" not in flags:
            return f"Error Code 4: Internal Error ({alone[0]}: cannot run on DLA and GPU fallback is off)"
    return ""


def _bit(trt: Any, flag: str) -> int:
    member = getattr(trt.NetworkDefinitionCreationFlag, flag, None)
    return 0 if member is None else 1 << int(member)


class FakeBuilderConfig(Fake):
    builder_optimization_level, num_compute_capabilities, avg_timing_iterations = 3, 0, 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def flags(self) -> int:
        return sum(1 << int(getattr(self._trt.BuilderFlag, name)) for name in self._set)

    def set_flag(self, flag: Any) -> None:
        self._set.add(_of(flag, self._trt.BuilderFlag).name)

    def clear_flag(self, flag: Any) -> None:
        self._set.discard(_of(flag, self._trt.BuilderFlag).name)

    def get_flag(self, flag: Any) -> bool:
        return _of(flag, self._trt.BuilderFlag).name in self._set

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[_of(pool, self._trt.MemoryPoolType)] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(_of(pool, self._trt.MemoryPoolType), 1 << 34)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self.__dict__["_sources"] = int(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        return self.__dict__.get("_sources", 31)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        content = bytes(memoryview(serialized_timing_cache))
        mine = CACHE + self._trt.__version__.encode() + b"\n"
        if content and not content.startswith(mine):
            log_error(self._trt, "Error Code 1: Serialization (timing cache of another version, or damaged)")
            return None
        return self._new("ITimingCache", layers=set(json.loads(content[len(mine) :] or b"[]")))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.__dict__["_cache"] = _of(cache, self._trt.ITimingCache)
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer._type in _ON_DLA

    def set_device_type(self, layer: Any, device_type: Any) -> None:
        self._devices[layer._name_] = _of(device_type, self._trt.DeviceType)

    def get_device_type(self, layer: Any) -> Any:
        default = self.__dict__.get("_default_device_type", self._trt.DeviceType.GPU)
        return self._devices.get(layer._name_, default)

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        if index >= self.__dict__.get("_num_compute_capabilities", 0):
            log_error(self._trt, "Error Code 3: API Usage Error (index beyond num_compute_capabilities)")
            return False
        self._targets[index] = _of(compute_capability, self._trt.ComputeCapability)
        return True

    def get_compute_capability(self, index: int) -> Any:
        return self._targets[index]


def _at(things: List[Any], index: int) -> Any:
    return things[index] if 0 <= index < len(things) else None


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"incompatible function arguments: {value!r} is no {kind.__name__}")
    return value


class FakeTimingCache(Fake):
    def serialize(self) -> Any:
        content = CACHE + self._trt.__version__.encode() + b"\n" + json.dumps(sorted(self._layers)).encode()
        return self._new("IHostMemory", content=content)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._layers.update(input_cache._layers)
        return True

    def reset(self) -> bool:
        self._layers.clear()
        return True


class FakeOptimizationProfile(Fake):
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]

    def get_shape(self, input: str) -> Any:
        return [Dims(shape) for shape in self._shapes[input]]


class FakeNetworkDefinition(Fake):
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))
    flags = property(lambda self: self.__dict__["_flags"])

    def get_input(self, index: int) -> Any:
        return _at(self._inputs, index)

    def get_output(self, index: int) -> Any:
        return _at(self._outputs, index)

    def get_layer(self, index: int) -> Any:
        return _at(self._layers, index)

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def add_constant(self, shape: Any, weights: Any) -> Any:
        assert tuple(shape) == weights.shape
        name = f"(Unnamed Layer* {len(self._layers)}) [Constant]"
        layer = _layer_of(self, name, "CONSTANT", [], f"{name}_output", weights.shape)
        layer.__dict__["_weights"] = weights
        return layer


def _layer_of(network: Any, name: str, kind: str, inputs: List[Any], result: str, shape: Any, **state: Any) -> Any:
    """A layer of `network` with one output."""
    output = network._new("ITensor", name_=result, shape=shape, kind="FLOAT", input=False)
    layer = network._new("ILayer", name_=name, type=kind, inputs=inputs, output=output, **state)
    network._layers.append(layer)
    return layer


class FakeTensor(Fake):
    name = property(lambda self: self._name_)
    shape = property(lambda self: Dims(self._shape))
    dtype = property(lambda self: getattr(self._trt.DataType, self._kind))
    is_network_input = property(lambda self: self._input)

    def set_dynamic_range(self, min: float, max: float) -> bool:
        self.__dict__["_range"] = (min, max)
        return True


class FakeLayer(Fake):
    name = property(lambda self: self._name_)
    type = property(lambda self: getattr(self._trt.LayerType, self._type))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = 1

    def get_input(self, index: int) -> Any:
        return _at(self._inputs, index)

    def get_output(self, index: int) -> Any:
        return self._output if index == 0 else None

    def set_input(self, index: int, tensor: Any) -> None:
        self._inputs[index] = _of(tensor, self._trt.ITensor)


class FakeConvolutionLayer(FakeLayer):
    kernel_size_nd = property(lambda self: Dims(self._weights_shape[2:]))
    num_groups = property(lambda self: self._groups)
    num_output_maps = property(lambda self: self._weights_shape[0])


class FakeConstantLayer(FakeLayer):
    shape = property(lambda self: Dims(self._weights.shape))
    weights = property(lambda self: self._weights)


class FakeOnnxParser(Fake):
    num_errors = property(lambda self: len(self._found))

    def start(self, network: Any, logger: Any) -> None:
        self._trt._errors = logger
        self.__dict__.update(_network=network, _found=[])

    def parse(self, model: Any, path: Any = None) -> bool:
        content, network, trt = bytes(memoryview(model)), self._network, self._trt
        if 8 <= trt._major < 10 and not network._flags & _bit(trt, "EXPLICIT_BATCH"):
            return self._fail("UNSUPPORTED_GRAPH", "the ONNX parser needs a network with an explicit batch dimension")
        try:
            session = session_of(content)
        except Exception as error:
            return self._fail("MODEL_DESERIALIZE_FAILED", str(error).splitlines()[0])
        pixels = [each.name for each in session.get_inputs() if each.type == "tensor(uint8)"]
        for node in nodes(content):
            if set(node.inputs) & set(pixels) and node.operator != "Cast":  # in the real one's words
                return self._fail(
                    "INVALID_NODE", f"{node.name}: first input has type UInt8 but must have type Float, Half, or Bool"
                )
        for found, target in ((session.get_inputs(), network._inputs), (session.get_outputs(), network._outputs)):
            for tensor in found:
                shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
                source = found[0].name == session.get_inputs()[0].name
                target.append(
                    self._new("ITensor", name_=tensor.name, shape=shape, kind=DTYPES[tensor.type], input=source)
                )
        _Graph(network, content)
        network.__dict__["_onnx"] = content
        return True

    def _fail(self, code: str, text: str) -> bool:
        self._found.append(self._new("ParserError", code=getattr(self._trt.ErrorCode, code), text=text))
        log_error(self._trt, text)
        return False

    def get_error(self, index: int) -> Any:
        return _at(self._found, index)

    def clear_errors(self) -> None:
        self._found.clear()


class _Graph:
    """Makes the layers of `network` from the nodes of an ONNX file. Maps have as many channels as weights say, and no size:
    1 x 1."""

    def __init__(self, network: Any, content: bytes) -> None:
        self.network, self.values = network, constants(content)
        self.tensors = {tensor._name_: tensor for tensor in network._inputs}
        for node in nodes(content):
            self.add(node)

    def add(self, node: Node) -> None:
        kind, inputs, state = _LAYERS.get(node.operator, "IDENTITY"), list(node.inputs), {}
        channels = next((self.tensors[name]._shape[1] for name in inputs if name in self.tensors), 1)
        if kind == "CONVOLUTION":
            held = self.values.get(inputs[1])
            shape = held.shape if held is not None else self.tensors[inputs[1]]._shape
            inputs = inputs[:1] if held is not None else inputs[:2]  # a bias is never an input, weights only behind DQ
            state = {"weights_shape": tuple(shape), "groups": node.integers.get("group", 1)}
            channels = shape[0]
        if kind in ("QUANTIZE", "DEQUANTIZE"):
            for name in inputs:
                self.hold(name)
        there = [self.tensors[name] for name in inputs if name in self.tensors]
        shape = there[0]._shape if kind in ("QUANTIZE", "DEQUANTIZE") else (-1, channels, 1, 1)
        layer = _layer_of(self.network, node.name, kind, there, node.outputs[0], shape, **state)
        self.tensors[node.outputs[0]] = layer._output

    def hold(self, name: str) -> None:
        if name in self.values and name not in self.tensors:
            layer = _layer_of(self.network, name, "CONSTANT", [], f"{name}_output", self.values[name].shape)
            layer.__dict__["_weights"] = self.values[name]
            self.tensors[name] = layer._output


class FakeParserError(Fake):
    def code(self) -> Any:
        return self._code

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return -1

    def node_name(self) -> str:
        return ""

    def node_operator(self) -> str:
        return ""

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return "parse"

    def line(self) -> int:
        return 1


BEHAVIOURS = {
    behaviour.__name__[len("Fake") :]: behaviour
    for behaviour in (
        FakeLogger,
        FakeHostMemory,
        FakeBuilder,
        FakeBuilderConfig,
        FakeTimingCache,
        FakeOptimizationProfile,
        FakeNetworkDefinition,
        FakeTensor,
        FakeLayer,
        FakeConvolutionLayer,
        FakeConstantLayer,
        FakeOnnxParser,
        FakeParserError,
        FakeRuntime,
        FakeCudaEngine,
        FakeEngineInspector,
        FakeExecutionContext,
        FakeRuntimeConfig,
        FakeRuntimeCache,
    )
}


def build(
    trt: Any, onnx: bytes, batch: Tuple[int, int, int] = (1, 8, 32), logger: Any = None, profiles: int = 1
) -> bytes:
    """The shortest way to an engine: `onnx` built by the fake `trt` for these batch sizes (min, opt, max)."""
    builder = trt.Builder(logger or trt.Logger())
    network = builder.create_network(_bit(trt, "EXPLICIT_BATCH"))
    parser = trt.OnnxParser(network, logger or trt.Logger())
    assert parser.parse(onnx), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(network.get_input(0).name, *((size, *shape) for size in batch))
    for _ in range(profiles):
        config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))
