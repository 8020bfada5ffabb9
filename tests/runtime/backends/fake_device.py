"""A FAKE GPU, for tests of our own logic where there is none: a runtime.backends.cuda.Device in host memory.

Work on its streams waits until synchronize(), and wrong use is an AssertionError: no current context, a double free, use
after free, bytes beyond a buffer.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from runtime.backends.cuda.driver import Gpu
from runtime.backends.cuda.errors import CudaError, OutOfDeviceMemory

STREAMS: Dict[int, FakeStream] = {}  # by handle, as execute_async_v3 gets them


class FakeMemory:
    def __init__(self, device: FakeDevice, nbytes: int) -> None:
        self._device, self.nbytes = device, nbytes
        self.content = np.full(max(nbytes, 1), 0xA5, np.uint8)  # what nobody wrote is nonsense, not zero
        self.address = self.content.ctypes.data
        device.add("memory", self)

    def free(self) -> None:
        self._device.remove("memory", self)
        self.content[:] = 0x5A


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self._device, self.when = device, None  # type: FakeDevice, Optional[float]
        device.add("event", self)

    def milliseconds_since(self, earlier: FakeEvent) -> float:
        self._device.check("Event.milliseconds_since")
        assert self.when is not None and earlier.when is not None, "an event was read before the stream got there"
        return (self.when - earlier.when) * 1e3

    def free(self) -> None:
        self._device.remove("event", self)


class FakeGraph:
    def __init__(self, device: FakeDevice, works: List[Callable[[], None]]) -> None:
        self._device, self._works = device, works
        device.add("graph", self)

    def launch(self, stream: FakeStream) -> None:
        self._device.check("Graph.launch", self)
        for work in self._works:
            stream.enqueue(work)

    def free(self) -> None:
        self._device.remove("graph", self)


class FakeStream:
    def __init__(self, device: FakeDevice) -> None:
        self._device, self.broken = device, False
        self._waiting: List[Callable[[], None]] = []
        self.capturing: Optional[List[Callable[[], None]]] = None
        self.handle = next(device.handles)
        STREAMS[self.handle] = self
        device.add("stream", self)

    def enqueue(self, work: Callable[[], None]) -> None:
        self._device.check("Stream", self)
        (self._waiting if self.capturing is None else self.capturing).append(work)

    def copy_in(self, memory: FakeMemory, array: np.ndarray) -> None:
        self._device.check("copy_in", memory)
        assert array.flags.c_contiguous and array.nbytes <= memory.nbytes, "copy_in beyond the buffer"
        assert self._device.is_pinned(array), "an asynchronous copy from memory that is not page-locked"
        target = memory.content[: array.nbytes]
        self.enqueue(lambda: np.copyto(target, array.reshape(-1).view(np.uint8)))

    def copy_out(self, array: np.ndarray, memory: FakeMemory) -> None:
        self._device.check("copy_out", memory)
        assert array.flags.c_contiguous and array.nbytes <= memory.nbytes, "copy_out beyond the buffer"
        assert self._device.is_pinned(array), "an asynchronous copy into memory that is not page-locked"
        source = memory.content[: array.nbytes]
        self.enqueue(lambda: np.copyto(array.reshape(-1).view(np.uint8), source))

    def record(self, event: FakeEvent) -> None:
        self._device.check("record", event)
        event.when = None
        self.enqueue(lambda: setattr(event, "when", next(self._device.clock)))

    def synchronize(self) -> None:
        self._device.check("synchronize", self)
        assert self.capturing is None, "synchronize while capturing"
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()

    def capture(self, function: Callable[[], None]) -> FakeGraph:
        self._device.check("capture", self)
        self.capturing, self.broken = [], False
        try:
            function()
            if self.broken:
                raise CudaError("cudaStreamEndCapture", 901)
            return FakeGraph(self._device, self.capturing)
        finally:
            self.capturing = None

    def free(self) -> None:
        self._device.remove("stream", self)
        del STREAMS[self.handle]


class FakeDevice:
    """A runtime.backends.cuda.Device without a GPU. made: how many of each kind were ever made; leaks(): what is left.
    violations: what went wrong where no exception could be raised. Set `fail_at` to make the n-th allocation fail."""

    name = "fake 1.0"

    def __init__(self, can_capture: bool = True) -> None:
        self.gpu = Gpu(0, "NVIDIA Fake 4090", (8, 9), 8 << 30, 12040)
        self.can_capture, self.closed, self.fail_at = can_capture, False, 0
        self.made: Dict[str, int] = {}
        self.violations: List[str] = []
        self.handles, self.clock = itertools.count(0x1000), itertools.count()
        self._living: Dict[int, Tuple[str, Any]] = {}
        self._here, self._lock = threading.local(), threading.RLock()

    def __enter__(self) -> FakeDevice:
        assert not self.closed, "the device is closed"
        self._here.depth = getattr(self._here, "depth", 0) + 1
        return self

    def __exit__(self, *_: Any) -> None:
        self._here.depth -= 1

    def check(self, what: str, used: Any = None) -> None:
        """What every call needs: an open device that is current on this thread, and things that were not freed."""
        assert not self.closed, f"{what}: the device is closed"
        assert getattr(self._here, "depth", 0) > 0, f"{what}: no CUDA context is current on this thread"
        assert used is None or id(used) in self._living, f"{what}: used after it was freed"

    def check_range(self, address: int, nbytes: int) -> None:
        memories = [thing for kind, thing in list(self._living.values()) if kind == "memory"]
        inside = any(m.address <= address and address + nbytes <= m.address + m.nbytes for m in memories)
        assert inside, f"an illegal memory access was encountered: {nbytes} bytes at {address:#x}"

    def destroyed(self, name: str) -> None:
        if self.closed or getattr(self._here, "depth", 0) == 0:
            self.violations.append(f"{name} was destroyed where no CUDA context was current")

    def add(self, kind: str, thing: Any) -> None:
        with self._lock:
            self.check(kind)
            self.made[kind] = self.made.get(kind, 0) + 1
            if self.fail_at and sum(self.made.values()) >= self.fail_at:
                raise OutOfDeviceMemory(kind, 0, self.gpu.memory)
            self._living[id(thing)] = (kind, thing)

    def remove(self, kind: str, thing: Any) -> None:
        with self._lock:
            self.check(f"free of {kind}", thing)
            del self._living[id(thing)]

    def leaks(self) -> List[str]:
        return sorted(kind for kind, _ in self._living.values())

    def is_pinned(self, array: np.ndarray) -> bool:
        start = array.ctypes.data
        pinned = [thing for kind, thing in list(self._living.values()) if kind == "pinned"]
        return any(p.ctypes.data <= start and start + array.nbytes <= p.ctypes.data + p.nbytes for p in pinned)

    def memory(self, nbytes: int) -> FakeMemory:
        return FakeMemory(self, nbytes)

    def pinned(self, shape: Any, dtype: Any) -> np.ndarray:
        array = np.zeros(shape, dtype)
        self.add("pinned", array)
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        self.remove("pinned", array)

    def stream(self) -> FakeStream:
        return FakeStream(self)

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def used_memory(self) -> Tuple[int, int]:
        self.check("used_memory")
        used = sum(thing.nbytes for kind, thing in self._living.values() if kind == "memory")
        return self.gpu.memory - used, self.gpu.memory

    def close(self) -> None:
        self._living.clear()
        self.closed = True
