"""A FAKE TensorRT: for tests of our own logic where there is neither.

`fake_module("10.3.0")` stands in for `import tensorrt`. Every class is made from tests/data/tensorrt_api.tsv, which lists
what the real bindings of that version have: another name is an AttributeError, a wrong argument a TypeError, and what
the fake does not imitate a NotImplementedError. "Engines" hold the ONNX and run in onnxruntime. Nothing here says
anything about speed, memory, or which layers the real one supports.

The FAKE GPU that they run on is in fake_device.py.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import types
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from tests.runtime.fake_device import STREAMS
from tests.runtime.onnx_bytes import nodes

TABLE = Path(__file__).resolve().parents[1] / "data" / "tensorrt_api.tsv"
VERSIONS = ("8.5.3", "10.3.0", "10.13.3", "10.16.1", "11.4.0", "rtx-1.7.1")
HEADER = b"FAKE TENSORRT ENGINE\n"
CACHE = b"FAKE TIMING CACHE\n"
_DTYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8"}
_SIZES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}
_LAYERS = {
    "Conv": "CONVOLUTION", "Relu": "ACTIVATION", "Clip": "ACTIVATION", "Sigmoid": "ACTIVATION", "Add": "ELEMENTWISE",
    "Mul": "ELEMENTWISE", "GlobalAveragePool": "REDUCE", "ReduceMean": "REDUCE", "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY", "Flatten": "SHUFFLE", "Reshape": "SHUFFLE", "Constant": "CONSTANT",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Transpose": "SHUFFLE",
}  # fmt: skip
_ON_DLA = {"CONVOLUTION", "ACTIVATION", "ELEMENTWISE", "POOLING"}


def fake_module(version: str) -> Any:
    """A module like `tensorrt` (or `tensorrt_rtx`) of `version`, one of VERSIONS. What tests may read and set on it:

    calls: every (class, member) used. faults: {"Class.method": text}: that method logs the text as an error and fails.
    gpu: the "SM89" that engines are built for and run on. dla_cores. capturable_after: executions of a context before
    it can be captured, None for never. device: a FakeDevice that must be current wherever the real one needs a GPU.
    timed: the layers of the last build that no timing cache held. living: [class] -> how many objects exist.
    """
    column = VERSIONS.index(version)
    number = version[4:] if version.startswith("rtx-") else version
    module: Any = types.ModuleType("tensorrt_rtx" if version.startswith("rtx-") else "tensorrt")
    module.__version__ = {"8.5.3": "8.5.3.1", "1.7.1": "1.7.1.116"}.get(number, number)
    module.calls, module.faults, module.living = [], {}, {}
    module.gpu, module.dla_cores, module.capturable_after, module.device, module.timed = "SM89", 0, 0, None, 0
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
        setattr(module, name, _enum(name, members) if enum else _class(module, name, members))
    severities = ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
    module.ILogger.Severity = module.Logger.Severity = _enum("Severity", severities, ordered=True)
    for name in severities:
        setattr(module.ILogger, name, getattr(module.ILogger.Severity, name))
        setattr(module.Logger, name, getattr(module.ILogger.Severity, name))
    module.volume = lambda shape: int(np.prod(tuple(shape)))
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    return module


# The bindings' manners ------------------------------------------------------------------------------------------------


def _enum(name: str, members: Any, ordered: bool = False) -> Any:
    """Like pybind11's: int() and == work, arithmetic does not."""

    def __init__(self: Any, value: int) -> None:
        self.value, self.name = value, list(members)[value]

    space = {
        "__init__": __init__,
        "__int__": lambda self: self.value,
        "__index__": lambda self: self.value,
        "__eq__": lambda self, other: type(self) is type(other) and self.value == other.value,
        "__hash__": lambda self: hash((name, self.value)),
        "__repr__": lambda self: f"<{name}.{self.name}: {self.value}>",
        "__str__": lambda self: f"{name}.{self.name}",
    }
    if ordered:
        space["__lt__"] = lambda self, other: int(self) < int(other)
        space["__le__"] = lambda self, other: int(self) <= int(other)
    made = type(name, (), space)
    for value, member in enumerate(members):
        setattr(made, member, made(value))
    made.__members__ = {member: getattr(made, member) for member in members}  # type: ignore[attr-defined]
    return made


class _Checked(type):
    """Refuses to make what the real bindings have no constructor for, and subclasses that forget the base's __init__."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        made = super().__call__(*arguments, **named)
        if "_ready" not in made.__dict__:
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


def _class(module: Any, name: str, members: Dict[str, str]) -> Any:
    """The class `name` of the table: the members it lists, with `_Fake<name>`'s behaviour where there is one."""
    behaviour: Any = globals().get("_Fake" + name.lstrip("I") if name != "ILogger" else "_FakeLogger", _Fake)
    space: Dict[str, Any] = {"_trt": module, "_name": name}
    for base in reversed(behaviour.__mro__[:-1]):
        space.update({key: value for key, value in vars(base).items() if key.startswith("_") and key not in _PLUMBING})
    for member, arguments in members.items():
        if member == "__init__":
            space[member] = _constructor(name, arguments, getattr(behaviour, "start", None))
        elif arguments:
            space[member] = _method(name, member, arguments, getattr(behaviour, member, None))
        else:
            space[member] = _attribute(name, member, getattr(behaviour, member, None))
    made = _Checked(name, (bytearray,) if name == "IHostMemory" else (), space)

    def __setattr__(self: Any, key: str, value: Any) -> None:
        if type(self) is made and not key.startswith("_") and key not in members:
            raise AttributeError(f"'{name}' object has no attribute '{key}'")
        object.__setattr__(self, key, value)

    made.__setattr__ = __setattr__  # type: ignore[method-assign, assignment]
    return made


_PLUMBING = {"__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__init__", "__annotations__"}
_PLUMBING |= {"__firstlineno__", "__static_attributes__"}


def _signature(arguments: str) -> Optional[inspect.Signature]:
    if arguments == "(*)":
        return None
    names = [name for name in arguments.strip("()").split(",") if name]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    last = max((i for i, name in enumerate(names) if not name.endswith("?")), default=-1)
    return inspect.Signature(
        [
            inspect.Parameter(
                name.rstrip("?"), kind, default=None if name.endswith("?") and i > last else inspect._empty
            )
            for i, name in enumerate(names)
        ]
    )


def _constructor(name: str, arguments: str, start: Any) -> Any:
    signature = _signature(arguments)

    def __init__(self: Any, *given: Any, **named: Any) -> None:
        state = named.pop("_made", None)  # by another of the fake's objects, as the real ones are made in C++
        if state is None and signature is None:
            raise TypeError(f"{name}: No constructor defined!")
        bound = {} if state is not None or signature is None else signature.bind(*given, **named).arguments
        self.__dict__["_ready"] = True
        self.__dict__.update(state or {})
        self._trt.calls.append((name, "__init__"))
        self._trt.living[name] = self._trt.living.get(name, 0) + 1
        if start is not None:
            start(self, **bound)

    return __init__


def _method(name: str, member: str, arguments: str, function: Any) -> Any:
    signature = _signature(arguments)

    def call(self: Any, *given: Any, **named: Any) -> Any:
        if signature is not None:
            signature.bind(*given, **named)
        self._trt.calls.append((name, member))
        if f"{name}.{member}" in self._trt.faults:
            _error(self._trt, self._trt.faults[f"{name}.{member}"])
            return False if getattr(function, "__annotations__", {}).get("return") == "bool" else None
        if function is None:
            raise NotImplementedError(f"the fake does not imitate {name}.{member}")
        return function(self, *given, **named)

    return call


def _attribute(name: str, member: str, prop: Any) -> property:
    def get(self: Any) -> Any:
        self._trt.calls.append((name, member))
        return prop.fget(self) if isinstance(prop, property) else self.__dict__.get("_" + member, prop)

    def put(self: Any, value: Any) -> None:
        self._trt.calls.append((name, member))
        if isinstance(prop, property):
            if prop.fset is None:
                raise AttributeError(f"can't set attribute {name}.{member}")
            prop.fset(self, value)
        self.__dict__["_" + member] = value

    return property(get, put)


def _error(trt: Any, text: str) -> None:
    if trt._errors is not None:
        trt._errors.log(trt.ILogger.ERROR, text)


def _needs_gpu(trt: Any, what: str) -> None:
    if trt.device is not None:
        trt.device.check(what)


class Dims:
    """A shape: no tuple, but indexed, compared and measured like one."""

    def __init__(self, sizes: Any) -> None:
        self._sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __eq__(self, other: Any) -> bool:
        return self._sizes == tuple(other)

    def __repr__(self) -> str:
        return repr(self._sizes)


# What the classes do --------------------------------------------------------------------------------------------------


class _Fake:
    _trt: Any
    _name: str

    def _new(self, name: str, **state: Any) -> Any:
        return getattr(self._trt, name)(_made={"_" + key: value for key, value in state.items()})

    def __del__(self) -> None:
        if "_ready" in self.__dict__:
            self._trt.living[self._name] -= 1
            if self._name in ("IExecutionContext", "ICudaEngine") and self._trt.device is not None:
                self._trt.device.destroyed(self._name)


class _FakeLogger(_Fake):
    min_severity: Any = None

    def start(self, min_severity: Any = None) -> None:
        self.__dict__["_min_severity"] = min_severity or self._trt.ILogger.WARNING

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self.__dict__["_min_severity"]:
            print(f"[FakeTRT] [{severity.name[0]}] {msg}")


class _FakeHostMemory(_Fake):
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


class _FakeBuilder(_Fake):
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
            _error(trt, problem)
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
                _error(trt, "Build was cancelled by the progress monitor")
                return None
        targets = [target.name for target in config._targets.values() if target.name not in ("NONE", "CURRENT")]
        header = {
            "version": trt.__version__,
            "targets": targets or [trt.gpu],
            "flags": sorted(config._set),
            "level": config.__dict__.get("_builder_optimization_level", 3),
            "detailed": getattr(config.__dict__.get("_profiling_verbosity"), "name", "") in ("DETAILED", "VERBOSE"),
            "layers": [[layer._name_, layer._type] for layer in network._layers],
            "profiles": [profile._shapes for profile in config._profiles],
        }
        return self._new("IHostMemory", content=HEADER + json.dumps(header).encode() + b"\n" + network._onnx)


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


class _FakeBuilderConfig(_Fake):
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
            _error(self._trt, "Error Code 1: Serialization (timing cache of another version, or damaged)")
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
            _error(self._trt, "Error Code 3: API Usage Error (index beyond num_compute_capabilities)")
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


class _FakeTimingCache(_Fake):
    def serialize(self) -> Any:
        content = CACHE + self._trt.__version__.encode() + b"\n" + json.dumps(sorted(self._layers)).encode()
        return self._new("IHostMemory", content=content)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._layers.update(input_cache._layers)
        return True

    def reset(self) -> bool:
        self._layers.clear()
        return True


class _FakeOptimizationProfile(_Fake):
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]

    def get_shape(self, input: str) -> Any:
        return [Dims(shape) for shape in self._shapes[input]]


class _FakeNetworkDefinition(_Fake):
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


class _FakeTensor(_Fake):
    name = property(lambda self: self._name_)
    shape = property(lambda self: Dims(self._shape))
    dtype = property(lambda self: getattr(self._trt.DataType, self._kind))
    is_network_input = property(lambda self: self._input)


class _FakeLayer(_Fake):
    name = property(lambda self: self._name_)
    type = property(lambda self: getattr(self._trt.LayerType, self._type))
    num_outputs = 1


class _FakeOnnxParser(_Fake):
    num_errors = property(lambda self: len(self._found))

    def start(self, network: Any, logger: Any) -> None:
        self._trt._errors = logger
        self.__dict__.update(_network=network, _found=[])

    def parse(self, model: Any, path: Any = None) -> bool:
        content, network, trt = bytes(memoryview(model)), self._network, self._trt
        if 8 <= trt._major < 10 and not network._flags & _bit(trt, "EXPLICIT_BATCH"):
            return self._fail("UNSUPPORTED_GRAPH", "the ONNX parser needs a network with an explicit batch dimension")
        try:
            session = _session(content)
        except Exception as error:
            return self._fail("MODEL_DESERIALIZE_FAILED", str(error).splitlines()[0])
        pixels = [each.name for each in session.get_inputs() if each.type == "tensor(uint8)"]
        for name, kind, inputs in nodes(content):
            if set(inputs) & set(pixels) and kind != "Cast":  # in the real one's words
                return self._fail("INVALID_NODE", f"{name}: first input has type UInt8 but must have type Float, Half, or Bool")
            network._layers.append(self._new("ILayer", name_=name, type=_LAYERS.get(kind, "IDENTITY")))
        for found, target in ((session.get_inputs(), network._inputs), (session.get_outputs(), network._outputs)):
            for tensor in found:
                shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
                source = found[0].name == session.get_inputs()[0].name
                target.append(
                    self._new("ITensor", name_=tensor.name, shape=shape, kind=_DTYPES[tensor.type], input=source)
                )
        network.__dict__["_onnx"] = content
        return True

    def _fail(self, code: str, text: str) -> bool:
        self._found.append(self._new("ParserError", code=getattr(self._trt.ErrorCode, code), text=text))
        _error(self._trt, text)
        return False

    def get_error(self, index: int) -> Any:
        return _at(self._found, index)

    def clear_errors(self) -> None:
        self._found.clear()


class _FakeParserError(_Fake):
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


class _FakeRuntime(_Fake):
    max_threads, engine_host_code_allowed = 1, False

    def start(self, logger: Any) -> None:
        self._trt._errors = logger
        self.__dict__["_logger"] = logger

    @property
    def num_DLA_cores(self) -> int:
        return self._trt.dla_cores

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        trt, content = self._trt, bytes(memoryview(serialized_engine))
        _needs_gpu(trt, "deserialize_cuda_engine")
        try:
            line, onnx = content[len(HEADER) :].split(b"\n", 1)
            header = json.loads(line) if content.startswith(HEADER) else None
        except ValueError:
            header = None
        if header is None:
            problem = "Error Code 1: Serialization (magicTag Assertion failed: not an engine)"
        elif header["version"] != trt.__version__:
            problem = f"Error Code 1: Serialization (version tag does not match: {trt.__version__}, engine {header['version']})"
        elif trt.gpu not in header["targets"]:
            problem = (
                f"Error Code 6: API Usage Error (The engine plan file was built for {header['targets']}, not {trt.gpu})"
            )
        else:
            return self._new(
                "ICudaEngine", header=header, session=_session(onnx), runtime=self, content=content, taken={}
            )
        _error(trt, problem)
        return None


class _FakeCudaEngine(_Fake):
    name = "fake"
    num_io_tensors = property(lambda self: 1 + len(self._session.get_outputs()))
    num_layers = property(lambda self: len(self._header["layers"]))
    num_optimization_profiles = property(lambda self: len(self._header["profiles"]))
    device_memory_size = device_memory_size_v2 = property(lambda self: 4096)

    def _tensor(self, name: str) -> Any:
        return {t.name: t for t in self._session.get_inputs() + self._session.get_outputs()}[name]

    def get_tensor_name(self, index: int) -> str:
        return [self._session.get_inputs()[0].name, *(each.name for each in self._session.get_outputs())][index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._trt.TensorIOMode
        return mode.INPUT if name == self._session.get_inputs()[0].name else mode.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return Dims(size if isinstance(size, int) else -1 for size in self._tensor(name).shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, _DTYPES[self._tensor(name).type])

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        return [Dims(shape) for shape in self._header["profiles"][profile_index][name]]

    def create_execution_context(self, *strategy: Any) -> Any:
        _needs_gpu(self._trt, "create_execution_context")
        context = self._new("IExecutionContext", owner=self, shapes={}, addresses={}, executed=0)
        context._take(0)
        return context

    def create_engine_inspector(self) -> Any:
        return self._new("EngineInspector", owner=self)

    def serialize(self) -> Any:
        return self._new("IHostMemory", content=self._content)


class _FakeEngineInspector(_Fake):
    def get_engine_information(self, format: Any) -> str:
        header = self._owner._header
        names = [name for name, _ in header["layers"]]
        layers = [{"Name": name, "LayerType": kind} for name, kind in header["layers"]] if header["detailed"] else names
        if format == self._trt.LayerInformationFormat.JSON:
            return json.dumps({"Layers": layers, "Bindings": ["images", "logits"]})
        return "\n".join(names)


class _FakeExecutionContext(_Fake):
    profiler, enqueue_emits_profile = None, True
    engine = property(lambda self: self._owner)
    active_optimization_profile = property(lambda self: self.__dict__.get("_profile", -1))

    def _take(self, profile: int) -> bool:
        """Before 10.0 no two contexts may hold one profile; the first context made gets profile 0."""
        taken = self._owner._taken
        if 8 <= self._trt._major < 10 and taken.get(profile, id(self)) != id(self):
            return False
        self._let_go()
        taken[profile] = id(self)
        self.__dict__["_profile"] = profile
        return True

    def _let_go(self) -> None:
        if self._owner._taken.get(self.__dict__.get("_profile")) == id(self):
            del self._owner._taken[self._profile]

    def __del__(self) -> None:
        self._let_go()
        _Fake.__del__(self)  # type: ignore[arg-type]

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if profile_index >= len(self._owner._header["profiles"]) or not self._take(profile_index):
            _error(self._trt, f"Error Code 3: API Usage Error (profile {profile_index} is used by another context)")
            return False
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        if self.__dict__.get("_profile", -1) < 0:
            _error(self._trt, "Error Code 3: API Usage Error (no optimization profile is set)")
            return False
        low, _, high = self._owner._header["profiles"][self._profile][name]
        if len(tuple(shape)) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high)):
            _error(self._trt, f"Error Code 3: API Usage Error (set dimensions {tuple(shape)} outside of the profile)")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Any:
        shape = self._owner.get_tensor_shape(name)
        sizes = {size[0] for size in self._shapes.values()}
        return Dims((*sizes, *shape[1:])) if sizes else shape

    def infer_shapes(self) -> List[str]:
        return [t.name for t in self._owner._session.get_inputs() if t.name not in self._shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if type(memory) is not int:
            raise TypeError("set_tensor_address(): incompatible function arguments")
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def is_stream_capturable(self, stream: int) -> bool:
        return self._trt.capturable_after is not None and self._executed >= self._trt.capturable_after

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, owner, stream = self._trt, self._owner, STREAMS.get(stream_handle)
        _needs_gpu(trt, "execute_async_v3")
        source, results = owner._session.get_inputs()[0], owner._session.get_outputs()
        if stream_handle not in (0, *STREAMS):
            raise AssertionError(f"execute_async_v3 on {stream_handle:#x}, which is no stream")
        if source.name not in self._shapes or {source.name, *(each.name for each in results)} - set(self._addresses):
            _error(trt, "Error Code 3: API Usage Error (neither address nor allocator is set, or a shape is missing)")
            return False
        if (
            stream is not None
            and stream.capturing is not None
            and not _FakeExecutionContext.is_stream_capturable(self, 0)
        ):
            _error(trt, "Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)")
            stream.broken = True
            return False
        self.__dict__["_executed"] += 1
        shape = self._shapes[source.name]  # what follows is fixed now and done when the stream gets there
        images = _view(trt, self._addresses[source.name], shape, _SIZES[_DTYPES[source.type]])
        answers = [
            _view(trt, self._addresses[each.name], (shape[0], *each.shape[1:]), _SIZES[_DTYPES[each.type]]) for each in results
        ]
        profiler = self.__dict__.get("_profiler")

        def work() -> None:
            for answer, values in zip(answers, owner._session.run(None, {source.name: images})):
                answer[...] = values
            for name, _ in owner._header["layers"] if profiler is not None else []:
                profiler.report_layer_time(name, 0.01)

        if stream is None:
            work()
        else:
            stream.enqueue(work)
        return True


def _view(trt: Any, address: int, shape: Tuple[int, ...], dtype: Any) -> np.ndarray:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if trt.device is not None:
        trt.device.check_range(address, nbytes)
    return np.frombuffer((ctypes.c_char * nbytes).from_address(address), dtype).reshape(shape)


# ONNX, without the onnx package ---------------------------------------------------------------------------------------


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


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
