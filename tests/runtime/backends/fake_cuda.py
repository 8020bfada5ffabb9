"""A FAKE CUDA driver, for tests of our own logic where there is no GPU, and a FAKE pycuda over it.

The driver has the functions of runtime.backends.cuda.driver.FUNCTIONS, with what really takes pointers taking pointers. Work
waits in its stream until someone waits for that. The GPU's memory has addresses that no CPU has, and those that the GPU has
for the host's are others again, so that neither can be taken for the other. Wrong use is an AssertionError: bytes beyond
a buffer, something freed twice or used afterwards, a copy from memory that is not page-locked. FAKE pycuda's names and
manners were held against pycuda 2025.1.2.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import sys
import threading
import types
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np

from runtime.backends.cuda import driver

TEXTS = {1: "invalid argument", 2: "out of memory", 201: "invalid device context", 700: "an illegal memory access"}
ROOM = 1 << 30  # bytes the FAKE GPU has
PRIMARY = 0x7_0000_0001  # handles have more than 32 bits, as the real ones may
_ON_GPU, _MAPPED = 1 << 50, 1 << 51  # where its memory begins for it, and what is the host's


class Thing(NamedTuple):
    """What was made and not freed yet. content: bytes, of memory."""

    kind: str
    content: Optional[np.ndarray] = None


class Library:
    """The FAKE libcuda. What tests may read and set on it:

    code: what cuInit returns; fail_next: the code that the next call fails with; fail_at: the n-th thing made fails for want
    of memory; count, name, capability, memory, integrated: of the GPU. made: how many of each kind were ever made; leaks():
    what is left; problems: what went wrong where nothing could be raised. stack: of contexts, of this thread.
    """

    def __init__(self, code: int = 0, count: int = 1) -> None:
        self.code, self.count, self.fail_next, self.fail_at = code, count, 0, 0
        self.name, self.capability, self.memory, self.integrated = "NVIDIA Fake 4090", (8, 9), ROOM, False
        self.problems: List[str] = []
        self.made: Dict[str, int] = {}
        self.living: Dict[int, Thing] = {}
        self.waiting: Dict[int, List[Callable[[], None]]] = {}  # by stream
        self.capturing: Dict[int, List[Callable[[], None]]] = {}  # by stream, and by graph
        self.broken: Dict[int, bool] = {}  # captures that can't end well, by stream
        self.marks: Dict[int, Optional[float]] = {}  # when each event was passed
        self.spent = 0.0  # milliseconds that the FAKE TensorRT's layers took
        self.retained, self._clock, self._stacks, self._lock = (
            0,
            itertools.count(),
            threading.local(),
            threading.RLock(),
        )
        self._handles, self._addresses = itertools.count(0x10_0000_0010, 0x10), itertools.count(_ON_GPU, ROOM << 4)

    # For tests and for the FAKE TensorRT

    @property
    def stack(self) -> List[int]:
        if not hasattr(self._stacks, "now"):
            self._stacks.now = []
        return self._stacks.now

    def check(self, what: str) -> None:
        """What every use of the GPU needs."""
        assert self.stack and self.stack[-1] == PRIMARY, f"{what}: no CUDA context is current on this thread"

    def destroyed(self, name: str) -> None:
        if not self.stack or self.stack[-1] != PRIMARY:
            self.problems.append(f"{name} was destroyed where no CUDA context was current")

    def leaks(self) -> List[str]:
        return sorted(thing.kind for thing in self.living.values())

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        """`nbytes` as the GPU sees them at `address`."""
        for start, thing in list(self.living.items()):
            if thing.kind == "mapped":
                start += _MAPPED
            elif thing.kind != "memory":
                continue
            assert thing.content is not None
            if start <= address and address + nbytes <= start + len(thing.content):
                return thing.content[address - start :][:nbytes]
        raise AssertionError(f"an illegal memory access was encountered: {nbytes} bytes at {address:#x}")

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Gives `stream` something to do when somebody waits for it, or to capture."""
        assert stream in self.waiting, f"{stream:#x} is no stream"
        self.capturing.get(stream, self.waiting[stream]).append(work)

    # The driver

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
        name.value = self.name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        major, minor = self.capability
        value._obj.value = {75: major, 76: minor, 18: int(self.integrated), 19: 1}[attribute]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:
        memory._obj.value = self.memory
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        self.retained += 1
        context._obj.value = PRIMARY
        return 0

    def cuCtxPushCurrent_v2(self, context: int) -> int:
        self.stack.append(context)
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        if not self.stack:
            return 201
        context._obj.value = self.stack.pop()
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        used = sum(len(thing.content) for thing in self.living.values() if thing.content is not None)
        free._obj.value, total._obj.value = self.memory - used, self.memory
        return self.current()

    def cuMemAlloc_v2(self, address: Any, nbytes: int) -> int:
        return self.make(address, "memory", nbytes)

    def cuMemHostAlloc(self, address: Any, nbytes: int, flags: int) -> int:
        assert flags in (0, 2)
        return self.make(address, "mapped" if flags else "pinned", nbytes)

    def cuMemHostGetDevicePointer_v2(self, address: Any, host: int, flags: int) -> int:
        assert self.living[host].kind == "mapped"
        address._obj.value = host + _MAPPED
        return self.current()

    def cuMemFree_v2(self, address: int) -> int:
        return self.drop(address, "memory")

    def cuMemFreeHost(self, address: int) -> int:
        return self.drop(address, "pinned", "mapped")

    def cuMemcpyHtoDAsync_v2(self, target: int, source: int, nbytes: int, stream: int) -> int:
        code, there, here = self.current(), self.bytes_at(target, nbytes), self._page_locked(source, nbytes)
        if code == 0:
            self.enqueue(stream, lambda: np.copyto(there, here))
        return code

    def cuMemcpyDtoHAsync_v2(self, target: int, source: int, nbytes: int, stream: int) -> int:
        code, there, here = self.current(), self.bytes_at(source, nbytes), self._page_locked(target, nbytes)
        if code == 0:
            self.enqueue(stream, lambda: np.copyto(here, there))
        return code

    def cuStreamCreate(self, stream: Any, flags: int) -> int:
        assert flags == 1, "a stream that waits for the default stream"
        code = self.make(stream, "stream")
        self.waiting[stream._obj.value or 0] = []
        return code

    def cuStreamDestroy_v2(self, stream: int) -> int:
        return self.drop(stream, "stream")

    def cuStreamSynchronize(self, stream: int) -> int:
        if stream in self.capturing:
            return 900
        code = self.current()
        assert stream in self.living, "a stream was used after it was freed"
        waiting, self.waiting[stream] = self.waiting[stream], []
        for work in waiting if code == 0 else []:
            work()
        return code

    def cuStreamBeginCapture_v2(self, stream: int, mode: int) -> int:
        assert mode == 1, "a capture that other threads can break"
        self.capturing[stream], self.broken[stream] = [], False
        return self.current()

    def cuStreamEndCapture(self, stream: int, graph: Any) -> int:
        works = self.capturing.pop(stream)
        code = 901 if self.broken.pop(stream) else self.make(graph, "graph")
        if code == 0:
            self.capturing[graph._obj.value] = works
        return code

    def cuGraphInstantiateWithFlags(self, ready: Any, graph: int, flags: int) -> int:
        code = self.make(ready, "executable graph")
        if code == 0:
            self.capturing[ready._obj.value] = self.capturing[graph]
        return code

    def cuGraphDestroy(self, graph: int) -> int:
        return self.drop(graph, "graph")

    def cuGraphExecDestroy(self, ready: int) -> int:
        return self.drop(ready, "executable graph")

    def cuGraphLaunch(self, ready: int, stream: int) -> int:
        assert self.living[ready].kind == "executable graph"
        for work in self.capturing[ready]:
            self.enqueue(stream, work)
        return self.current()

    def cuEventCreate(self, event: Any, flags: int) -> int:
        return self.make(event, "event")

    def cuEventDestroy_v2(self, event: int) -> int:
        return self.drop(event, "event")

    def cuEventRecord(self, event: int, stream: int) -> int:
        assert self.living[event].kind == "event"
        self.marks[event] = None
        self.enqueue(stream, lambda: self.marks.update({event: float(next(self._clock)) + self.spent}))
        return self.current()

    def cuEventElapsedTime(self, spent: Any, start: int, end: int) -> int:
        began, ended = self.marks[start], self.marks[end]
        assert began is not None and ended is not None, "an event was read before the stream got there"
        spent._obj.value = ended - began
        return self.current()

    # How it keeps account

    def current(self) -> int:
        failed, self.fail_next = self.fail_next, 0
        return failed or (0 if self.stack and self.stack[-1] == PRIMARY else 201)

    def make(self, handle: Any, kind: str, nbytes: int = 0) -> int:
        with self._lock:
            code = self.current() or (2 if nbytes > self.memory else 0)
            if code == 0:
                self.made[kind] = self.made.get(kind, 0) + 1
                code = 2 if self.fail_at and sum(self.made.values()) >= self.fail_at else 0
            if code == 0:
                content = np.full(nbytes, 0xA5, np.uint8) if nbytes else None  # what nobody wrote is nonsense, not zero
                where = next(self._addresses if kind == "memory" else self._handles)
                if kind in ("pinned", "mapped") and content is not None:
                    where = content.ctypes.data
                self.living[where] = Thing(kind, content)
                handle._obj.value = where
            return code

    def drop(self, handle: int, *kinds: str) -> int:
        with self._lock:
            code = self.current()
            thing = self.living.pop(handle, None) if code == 0 else None
            if code == 0:
                self.capturing.pop(handle, None)
            if thing is not None and thing.content is not None:
                thing.content[:] = 0x5A
            if code == 0 and (thing is None or thing.kind not in kinds):
                self.problems.append(f"{' or '.join(kinds)} freed twice, or freed as something else")
            return code

    def _page_locked(self, address: int, nbytes: int) -> np.ndarray:
        for start, thing in list(self.living.items()):
            if (
                thing.kind == "pinned"
                and thing.content is not None
                and 0 <= address - start <= len(thing.content) - nbytes
            ):
                return thing.content[address - start :][:nbytes]
        raise AssertionError(f"a copy with {address:#x}, {nbytes} bytes, which are not page-locked or the GPU's own")


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
            library.stack.append(PRIMARY)
            own.contexts = [*getattr(own, "contexts", []), self]

        @staticmethod
        def pop() -> None:
            library.stack.pop()
            own.contexts.pop()
            if on_top():
                library.stack.append(PRIMARY)

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

        def __init__(self, call: str, create: Any, destroy: Any) -> None:
            self.context, self.address = on_top(), 0
            if self.context is None:
                raise Error("explicit_context_dependent failed: invalid device context - no currently active context?")
            handle = ctypes.c_void_p()
            check(call, create(ctypes.byref(handle)))
            self.address, self.destroy = handle.value or 0, destroy

        def free(self) -> None:
            if on_top() is not self.context:
                library.problems.append(f"{type(self).__name__} in out-of-thread context could not be cleaned up")
            elif self.address:
                self.destroy(self.address)
            self.address = 0

        def __del__(self) -> None:
            if self.address:
                self.free()

    class Stream(Owned):
        handle = property(lambda self: self.address)

        def __init__(self, flags: int = 0) -> None:
            super().__init__("cuStreamCreate", lambda it: library.cuStreamCreate(it, flags), library.cuStreamDestroy_v2)

    class DeviceAllocation(Owned):
        def __int__(self) -> int:
            return self.address

    class PagelockedHostAllocation(Owned):
        def get_device_pointer(self) -> int:
            pointer = ctypes.c_void_p()
            check(
                "cuMemHostGetDevicePointer",
                library.cuMemHostGetDevicePointer_v2(ctypes.byref(pointer), self.address, 0),
            )
            return pointer.value or 0

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        return DeviceAllocation("cuMemAlloc", lambda it: library.cuMemAlloc_v2(it, nbytes), library.cuMemFree_v2)

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        size = int(np.prod(shape)) * dtype.itemsize
        made = PagelockedHostAllocation(
            "cuMemHostAlloc", lambda it: library.cuMemHostAlloc(it, size, mem_flags), library.cuMemFreeHost
        )
        return Pinned(shape, dtype, made, size)

    class Pinned(np.ndarray):
        """An array whose base is the allocation itself, as with pycuda."""

        def __new__(cls, shape: Any, dtype: Any, allocation: Any, size: int) -> Any:
            made = super().__new__(cls, shape, dtype, (ctypes.c_char * size).from_address(allocation.address))
            made._allocation = allocation
            return made

        base = property(lambda self: self._allocation)  # type: ignore[assignment]

    for thing in (Error, MemoryError, Context, Device, Stream, mem_alloc, pagelocked_empty):
        setattr(module, thing.__name__, thing)
    module.init = lambda: check("cuInit", library.code)
    package: Any = types.ModuleType("pycuda")
    package.driver, package.VERSION_TEXT = module, "2025.1.2"
    return {"pycuda": package, "pycuda.driver": module}


def install(library: Library, patch: Any, pycuda: bool = False) -> None:
    """Puts the FAKE driver in the real one's place, and FAKE pycuda if there shall be one."""
    patch.setattr(driver, "_library", lambda: (library, ""))
    patch.delitem(sys.modules, "runtime.backends.cuda.pycuda_device", raising=False)
    for module in ("pycuda", "pycuda.driver"):
        patch.setitem(sys.modules, module, None)
    for module, fake in fake_pycuda(library).items() if pycuda else ():
        patch.setitem(sys.modules, module, fake)


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """What was made within and nobody holds any more is gone at the end. What is older is not looked at: that is all the
    libraries that other tests have loaded, a tenth of a second each time."""
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()
