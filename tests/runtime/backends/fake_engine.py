"""The half of the FAKE TensorRT that runs engines: each holds the ONNX that it was built from, and onnxruntime runs that."""

from __future__ import annotations

import ctypes
import json
from typing import Any, List, Tuple

import numpy as np

from tests.runtime.backends.fake_bindings import Dims, Fake, log_error, needs_gpu

HEADER = b"FAKE TENSORRT ENGINE\n"
KERNELS = b"FAKE KERNELS\n"
DTYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8"}
SIZES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


class FakeRuntime(Fake):
    max_threads, engine_host_code_allowed = 1, False

    def start(self, logger: Any) -> None:
        self._trt._errors = logger
        self.__dict__["_logger"] = logger

    @property
    def num_DLA_cores(self) -> int:
        return self._trt.dla_cores

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        trt, content = self._trt, bytes(memoryview(serialized_engine))
        needs_gpu(trt, "deserialize_cuda_engine")
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
                "ICudaEngine", header=header, session=session_of(onnx), runtime=self, content=content, taken={}
            )
        log_error(trt, problem)
        return None


class FakeCudaEngine(Fake):
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
        return getattr(self._trt.DataType, DTYPES[self._tensor(name).type])

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        return [Dims(shape) for shape in self._header["profiles"][profile_index][name]]

    def create_runtime_config(self) -> Any:
        return self._new("IRuntimeConfig", cache=None)

    def create_execution_context(self, config: Any = None) -> Any:
        needs_gpu(self._trt, "create_execution_context")
        cache = config._cache if isinstance(config, getattr(self._trt, "IRuntimeConfig", ())) else None
        context = self._new("IExecutionContext", owner=self, shapes={}, addresses={}, executed=0, cache=cache)
        context._take(0)
        return context

    def create_engine_inspector(self) -> Any:
        return self._new("EngineInspector", owner=self)

    def serialize(self) -> Any:
        return self._new("IHostMemory", content=self._content)


class FakeRuntimeConfig(Fake):
    def create_runtime_cache(self) -> Any:
        return self._new("IRuntimeCache", shapes=[])

    def set_runtime_cache(self, cache: Any = None) -> bool:
        self.__dict__["_cache"] = cache
        return True

    def get_runtime_cache(self) -> Any:
        return self._cache


class FakeRuntimeCache(Fake):
    """Holds the shapes for which kernels were compiled."""

    def serialize(self) -> Any:
        return self._new("IHostMemory", content=KERNELS + json.dumps(self._shapes).encode())

    def deserialize(self, blob: Any) -> bool:
        content = bytes(memoryview(blob))
        if not content.startswith(KERNELS):
            log_error(self._trt, "Error Code 1: Serialization (runtime cache of another version, or damaged)")
            return False
        self.__dict__["_shapes"] = json.loads(content[len(KERNELS) :])
        return True


class FakeEngineInspector(Fake):
    execution_context = None

    def get_engine_information(self, format: Any) -> str:
        header, context = self._owner._header, self.execution_context
        shaped = context is not None and context._shapes
        layers: List[Any] = [layer["name"] for layer in header["layers"]]
        if header["detailed"]:
            layers = [self._told(layer, next(iter(shaped.values()))[0] if shaped else 0) for layer in header["layers"]]
        if format == self._trt.LayerInformationFormat.JSON:
            return json.dumps({"Layers": layers, "Bindings": ["images", "logits"]})
        return "\n".join(map(str, layers))

    def _told(self, layer: Any, batch: int) -> Any:
        """In the form of NVIDIA's trt-engine-explorer's test inputs; every tensor has 8 x 2 x 2 elements."""
        types = {True: "Thirty-two wide channel vectorized row major Int8 format", False: "Row major linear FP16"}
        kind = types[layer["int8"]] if batch else "N/A due to dynamic shapes"
        tensor = {"Name": "x", "Location": "Device", "Dimensions": [batch or -1, 8, 2, 2], "Format/Datatype": kind}
        told = {"Name": layer["name"], "LayerType": layer["kind"], "Inputs": [tensor], "Outputs": [tensor]}
        if layer["count"]:
            told.update(LayerType="CaskConvolution", ParameterType="Convolution", TacticValue="0x0", Metadata="")
            told["Weights"] = {"Type": "Int8" if layer["int8"] else "Half", "Count": layer["count"]}
            told["Metadata"] = f"[ONNX Layer: {layer['name']}]"
        if layer["kind"] in ("QUANTIZE", "DEQUANTIZE"):
            told.update(LayerType="Reformat", ParameterType="Reformat", Origin="QDQ")
        return told


class FakeExecutionContext(Fake):
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
        Fake.__del__(self)  # type: ignore[arg-type]

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if profile_index >= len(self._owner._header["profiles"]) or not self._take(profile_index):
            log_error(self._trt, f"Error Code 3: API Usage Error (profile {profile_index} is used by another context)")
            return False
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        if self.__dict__.get("_profile", -1) < 0:
            log_error(self._trt, "Error Code 3: API Usage Error (no optimization profile is set)")
            return False
        low, _, high = self._owner._header["profiles"][self._profile][name]
        if len(tuple(shape)) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high)):
            log_error(
                self._trt, f"Error Code 3: API Usage Error (set dimensions {tuple(shape)} outside of the profile)"
            )
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
        trt, owner, gpu = self._trt, self._owner, self._trt.device
        needs_gpu(trt, "execute_async_v3")
        source, results = owner._session.get_inputs()[0], owner._session.get_outputs()
        if source.name not in self._shapes or {source.name, *(each.name for each in results)} - set(self._addresses):
            log_error(
                trt, "Error Code 3: API Usage Error (neither address nor allocator is set, or a shape is missing)"
            )
            return False
        if (
            gpu is not None
            and stream_handle in gpu.capturing
            and not FakeExecutionContext.is_stream_capturable(self, 0)
            or gpu is None
            and _captured(stream_handle)
        ):
            log_error(trt, "Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)")
            if gpu is not None:
                gpu.broken[stream_handle] = True
            return False
        self.__dict__["_executed"] += 1
        cache, key = self.__dict__["_cache"], list(self._shapes[source.name])
        if trt.__name__ == "tensorrt_rtx" and (cache is None or key not in cache._shapes):
            trt.compiled += 1
            if cache is not None:
                cache._shapes.append(key)
        shape = self._shapes[source.name]  # what follows is fixed now and done when the stream gets there
        images = _view(trt, self._addresses[source.name], shape, SIZES[DTYPES[source.type]])
        answers = [
            _view(trt, self._addresses[each.name], (shape[0], *each.shape[1:]), SIZES[DTYPES[each.type]])
            for each in results
        ]
        profiler = self.__dict__.get("_profiler")

        def work() -> None:
            trt.ran = images.copy()
            for answer, values in zip(answers, owner._session.run(None, {source.name: images})):
                answer[...] = values
            for layer in owner._header["layers"]:
                spent = trt.layer_time(layer) if trt.layer_time else 0.01
                if gpu is not None and trt.layer_time:
                    gpu.spent += spent
                if profiler is not None:
                    profiler.report_layer_time(layer["name"], spent)

        if gpu is None:
            work()
        else:
            gpu.enqueue(stream_handle, work)
        return True


def _captured(stream: int) -> bool:
    """Whether the compiled stand-in for the driver captures `stream`: what onnxruntime computes can't be done again by that."""
    try:
        return stream != 0 and ctypes.CDLL("libcuda.so.1").cuStreamSynchronize(ctypes.c_void_p(stream)) == 900
    except OSError:
        return False


def _view(trt: Any, address: int, shape: Tuple[int, ...], dtype: Any) -> np.ndarray:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if trt.device is not None:
        return trt.device.bytes_at(address, nbytes).view(dtype).reshape(shape)
    return np.frombuffer((ctypes.c_char * nbytes).from_address(address), dtype).reshape(shape)


def session_of(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
