"""FAKES of pycuda and cuda-bindings, which follow the rules of the real ones, over a FAKE driver.

Their names and argument orders were held against pycuda 2025.1.2 and cuda-bindings 12.9 and 13.5.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import types
from typing import Any, Dict, List, Tuple

import numpy as np

from runtime.backends import cuda
from runtime.backends.cuda import driver

TEXTS = {1: "invalid argument", 2: "out of memory", 201: "invalid device context", 700: "an illegal memory access"}
ROOM = 1 << 20  # bytes the FAKE GPU has


class Library:
    """A FAKE libcuda: what the driver layer calls through ctypes, with what really takes pointers taking pointers."""

    def __init__(self, code: int = 0, count: int = 1) -> None:
        self.code, self.count = code, count
        self.stacks, self.problems = threading.local(), []  # type: Any, List[str]
        self.living: Dict[int, Any] = {}
        self.retained = 0
        self.fail_next = 0  # the code that the next call fails with

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12020
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 7 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"NVIDIA GeForce RTX 4090"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:
        memory._obj.value = 24 << 30
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:
        text._obj.value = TEXTS.get(code, f"text of {code}").encode()
        return 0

    # What the two FAKE packages below do with it

    @property
    def stack(self) -> List[str]:
        if not hasattr(self.stacks, "now"):
            self.stacks.now = []
        return self.stacks.now

    def current(self) -> int:
        failed, self.fail_next = self.fail_next, 0
        return failed or (0 if self.stack and self.stack[-1] == "primary" else 201)

    def make(self, size: int = 0) -> Tuple[int, int]:
        """(code, address) of something new."""
        code = self.current() or (2 if size > ROOM else 0)
        if code:
            return code, 0
        content = np.zeros(max(size, 8), np.uint8)
        self.living[content.ctypes.data] = content
        return 0, content.ctypes.data

    def drop(self, address: int) -> int:
        code = self.current()
        if code == 0 and self.living.pop(address, None) is None:
            self.problems.append("freed twice")
        return code


class Handle:
    def __init__(self, address: int) -> None:
        self.address = address
        self.capturing: Any = None
        self.when = 0.0

    def __int__(self) -> int:
        return self.address


def fake_cuda_bindings(library: Library) -> Dict[str, Any]:
    """The FAKE modules `cuda`, `cuda.bindings` and `cuda.bindings.driver`: functions give (code, results...)."""
    module: Any = types.ModuleType("cuda.bindings.driver")

    def made(size: int = 0) -> Tuple[int, Handle]:
        code, address = library.make(size)
        return code, Handle(address)

    def cuDevicePrimaryCtxRetain(device: int) -> Any:
        library.retained += 1
        return 0, "primary"

    def cuCtxPushCurrent(context: str) -> Any:
        library.stack.append(context)
        return (0,)

    def cuCtxPopCurrent() -> Any:
        return (0, library.stack.pop()) if library.stack else (201, None)

    def cuMemAllocHost(bytesize: int) -> Any:
        return library.make(bytesize)

    def copy(target: int, source: int, size: int, stream: Handle) -> Any:
        code = library.current()
        if stream.capturing is not None:
            stream.capturing.append(lambda: ctypes.memmove(int(target), int(source), size))
        elif code == 0:
            ctypes.memmove(int(target), int(source), size)
        return (code,)

    def cuStreamSynchronize(hStream: Handle) -> Any:
        return (900 if hStream.capturing is not None else library.current(),)

    def cuEventRecord(hEvent: Handle, hStream: Handle) -> Any:
        hEvent.when = len(library.living) + 1.5
        return (library.current(),)

    def cuStreamBeginCapture(hStream: Handle, mode: str) -> Any:
        assert mode == "thread-local"
        hStream.capturing = []
        return (library.current(),)

    def cuStreamEndCapture(hStream: Handle) -> Any:
        code, graph = made()
        graph.capturing, hStream.capturing = hStream.capturing, None
        return code, graph

    def cuGraphInstantiate(hGraph: Handle, flags: int) -> Any:
        code, ready = made()
        ready.capturing = hGraph.capturing
        return code, ready

    def cuGraphLaunch(hGraphExec: Handle, hStream: Handle) -> Any:
        for work in hGraphExec.capturing:
            work()
        return (library.current(),)

    for function in (
        cuDevicePrimaryCtxRetain,
        cuCtxPushCurrent,
        cuCtxPopCurrent,
        cuMemAllocHost,
        cuStreamSynchronize,
        cuEventRecord,
        cuStreamBeginCapture,
        cuStreamEndCapture,
        cuGraphInstantiate,
        cuGraphLaunch,
    ):
        setattr(module, function.__name__, function)
    for name in (
        "cuMemFree",
        "cuMemFreeHost",
        "cuStreamDestroy",
        "cuEventDestroy",
        "cuGraphDestroy",
        "cuGraphExecDestroy",
    ):
        setattr(module, name, lambda thing: (library.drop(int(thing)),))
    module.cuInit = lambda flags: (library.code,)
    module.cuDeviceGet = lambda ordinal: (0, ordinal)
    module.cuMemAlloc = made
    module.cuStreamCreate = module.cuEventCreate = lambda flags: made()
    module.cuMemcpyHtoDAsync = module.cuMemcpyDtoHAsync = copy
    module.cuEventElapsedTime = lambda start, end: (0, end.when - start.when)
    module.cuMemGetInfo = lambda: (library.current(), ROOM // 2, ROOM)
    for name, value in (("cuMemAlloc", made), ("cuMemFree", module.cuMemFree)):
        value.__name__ = name
    module.CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread-local")
    module.CUstream_flags = types.SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    bindings: Any = types.ModuleType("cuda.bindings")
    bindings.driver = module
    return {"cuda": types.ModuleType("cuda"), "cuda.bindings": bindings, "cuda.bindings.driver": module}


def fake_pycuda(library: Library) -> Dict[str, Any]:
    """The FAKE modules `pycuda` and `pycuda.driver`, with pycuda's own stack of contexts and destructors that free."""
    module: Any = types.ModuleType("pycuda.driver")
    own = threading.local()

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def check(call: str, code: int) -> None:
        if code:
            raise (MemoryError if code == 2 else Error)(f"{call} failed: {TEXTS.get(code, f'text of {code}')}")

    def on_top() -> Any:
        return own.contexts[-1] if getattr(own, "contexts", None) else None

    class Context:
        def push(self) -> None:
            if on_top():
                library.stack.pop()
            library.stack.append("primary")
            own.contexts = [*getattr(own, "contexts", []), self]

        @staticmethod
        def pop() -> None:
            library.stack.pop()
            own.contexts.pop()
            if on_top():
                library.stack.append("primary")

        def __del__(self) -> None:
            library.problems.append("the primary context was released while others may hold it")

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def retain_primary_context(self) -> Context:
            library.retained += 1
            return Context()

    class Owned:
        """Made in the context on top of pycuda's stack; only with the very same one on top can it be freed."""

        def __init__(self, flags: int = 0) -> None:
            self.make(0)

        def make(self, size: int) -> None:
            self.context, self.address = on_top(), 0
            if self.context is None:
                raise Error("explicit_context_dependent failed: invalid device context - no currently active context?")
            code, self.address = library.make(size)
            check("cuMemAlloc", code)

        def free(self) -> None:
            if on_top() is not self.context:
                library.problems.append(f"{type(self).__name__} in out-of-thread context could not be cleaned up")
            elif self.address:
                library.drop(self.address)
            self.address = 0

        def __del__(self) -> None:
            if self.address:
                self.free()

    class Stream(Owned):
        handle = property(lambda self: self.address)

        def __init__(self, flags: int = 0) -> None:
            assert flags == 1, "a stream that waits for the default stream"
            super().__init__()

        def synchronize(self) -> None:
            check("cuStreamSynchronize", library.current())

    class Event(Owned):
        when = 0.0

        def record(self, stream: Stream) -> None:
            self.when = len(library.living) + 1.5

        def time_since(self, start: Event) -> float:
            return self.when - start.when

    class DeviceAllocation(Owned):
        def __int__(self) -> int:
            return self.address

    class PagelockedHostAllocation(Owned):
        @property
        def __array_interface__(self) -> Any:
            return {"data": (self.address, False), "shape": (self.size,), "typestr": "|u1", "version": 3}

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        made = DeviceAllocation.__new__(DeviceAllocation)
        made.make(nbytes)
        return made

    def pagelocked_empty(shape: Any, dtype: Any) -> np.ndarray:
        made: Any = PagelockedHostAllocation.__new__(PagelockedHostAllocation)
        made.size = int(np.prod(shape)) * dtype.itemsize
        made.make(made.size)
        return Pinned(shape, dtype, made)

    class Pinned(np.ndarray):
        """An array whose base is the allocation itself, as with pycuda."""

        def __new__(cls, shape: Any, dtype: Any, allocation: Any) -> Any:
            memory = (ctypes.c_char * allocation.size).from_address(allocation.address)
            made = super().__new__(cls, shape, dtype, memory)
            made._allocation = allocation
            return made

        base = property(lambda self: self._allocation)  # type: ignore[assignment]

    def copy(target: Any, source: Any, stream: Stream) -> None:
        array, address, inwards = (source, target, True) if isinstance(source, np.ndarray) else (target, source, False)
        check("cuMemcpyAsync", library.current())
        addresses = (address, array.ctypes.data) if inwards else (array.ctypes.data, address)
        ctypes.memmove(*addresses, array.nbytes)

    def init() -> None:
        check("cuInit", library.code)

    def mem_get_info() -> Tuple[int, int]:
        return ROOM // 2, ROOM

    for thing in (Error, MemoryError, Context, Device, Stream, Event, mem_alloc, pagelocked_empty, init, mem_get_info):
        setattr(module, thing.__name__, thing)
    module.memcpy_htod_async = module.memcpy_dtoh_async = copy
    package: Any = types.ModuleType("pycuda")
    package.driver, package.VERSION_TEXT = module, "2025.1.2"
    return {"pycuda": package, "pycuda.driver": module}


FAKES = {"pycuda": fake_pycuda, "cuda-bindings": fake_cuda_bindings}


def install(library: Library, names: Any, patch: Any) -> None:
    """Puts the FAKE packages `names` and the FAKE driver in the real ones' places, which then seem not to be installed."""
    patch.setattr(driver, "_library", lambda: library)
    for module in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.driver"):
        patch.setitem(sys.modules, module, None)
    for name in names:
        for module, fake in FAKES[name](library).items():
            patch.setitem(sys.modules, module, fake)
    for module, _ in cuda.LIBRARIES.values():
        patch.delitem(sys.modules, module, raising=False)
