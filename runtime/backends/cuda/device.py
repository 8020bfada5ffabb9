"""GPU memory, streams, events and graphs, made by the driver: the handful of things that a TensorRT engine needs around it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import weakref
from typing import Any, Callable, Iterator, List, Sequence, Tuple

import numpy as np

from .context import Context, Held
from .driver import Gpu, call, made
from .errors import CudaError, OutOfDeviceMemory

# cuda.h
NON_BLOCKING = 1  # CU_STREAMNON_BLOCKING: independent of the default stream, where torch works
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads' allocations are neither forbidden nor harmful
DEVICEMAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP: page-locked memory that the GPU works on where it lies


class Buffer:
    """An array that the CPU fills and reads, `host`, and the same bytes for the GPU, at its own `address`.

    As a rule these are two memories, page-locked and the GPU's, and Stream.copy_in and copy_out carry bytes between them.
    Where `shared`, as on a Jetson, both are one and nothing is copied.
    """

    def __init__(self, host: np.ndarray, address: int, held: Sequence[Held], shared: bool) -> None:
        self.host, self.address, self.shared, self._held = host, address, shared, held

    def free(self) -> None:
        """Gives it back; a second time does nothing. `host` must not be used afterwards."""
        for held in self._held:
            held.free()


class Event(Held):
    """A mark in a stream's work."""

    def __init__(self, context: Context) -> None:
        self.handle = made("cuEventCreate", 0)
        super().__init__(context, lambda handle=self.handle: call("cuEventDestroy_v2", handle))  # type: ignore[misc]

    def milliseconds_since(self, earlier: Event) -> float:
        """The time between two events of which both have passed."""
        spent = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(spent), earlier.handle, self.handle)
        return spent.value


class Graph(Held):
    """Work captured from a stream, which is launched again with one call. It holds the addresses it was captured with."""

    def __init__(self, context: Context, captured: int) -> None:
        try:
            ready = made("cuGraphInstantiateWithFlags", captured, 0)
        finally:
            call("cuGraphDestroy", captured)  # what was instantiated does not need it
        self._ready = ready
        super().__init__(context, lambda: call("cuGraphExecDestroy", ready))

    def launch(self, stream: Stream) -> None:
        """Gives `stream` the captured work to do."""
        call("cuGraphLaunch", self._ready, stream.handle)


class Stream(Held):
    """Work that the GPU does in order, while the CPU goes on."""

    def __init__(self, context: Context) -> None:
        self.handle = made("cuStreamCreate", NON_BLOCKING)  # a cudaStream_t
        super().__init__(context, lambda handle=self.handle: call("cuStreamDestroy_v2", handle))  # type: ignore[misc]

    def copy_in(self, buffer: Buffer, count: int) -> None:
        """Starts copying the first `count` of the buffer's rows to the GPU; they must stay as they are until it is done."""
        if not buffer.shared:
            rows = buffer.host[:count]
            call("cuMemcpyHtoDAsync_v2", buffer.address, rows.ctypes.data, rows.nbytes, self.handle)

    def copy_out(self, buffer: Buffer, count: int) -> None:
        """Starts copying the first `count` of the buffer's rows from the GPU."""
        if not buffer.shared:
            rows = buffer.host[:count]
            call("cuMemcpyDtoHAsync_v2", rows.ctypes.data, buffer.address, rows.nbytes, self.handle)

    def record(self, event: Any) -> None:
        """Marks this place in the stream with `event`; an earlier mark of it is forgotten."""
        call("cuEventRecord", event.handle, self.handle)

    def synchronize(self) -> None:
        """Waits until all work is done, and raises CudaError if some of it failed."""
        call("cuStreamSynchronize", self.handle)

    def capture(self, function: Callable[[], None]) -> Graph:
        """What `function` gives this stream to do, as a graph instead of doing it. CudaError if it can't be captured."""
        call("cuStreamBeginCapture_v2", self.handle, _THREAD_LOCAL)
        captured = ctypes.c_void_p()
        try:
            function()
        except BaseException:
            with contextlib.suppress(CudaError):  # the stream must not be left capturing
                call("cuStreamEndCapture", self.handle, ctypes.byref(captured))
                if captured.value:
                    call("cuGraphDestroy", captured.value)
            raise
        call("cuStreamEndCapture", self.handle, ctypes.byref(captured))
        return Graph(self._context, captured.value or 0)


class Device:
    """One GPU. Everything but close() is called inside `with device:`, which makes the GPU's primary context current on
    the calling thread and leaves the thread as it was; it nests. Several threads may be inside at once. torch and CUDA's
    runtime use the same context, so that all can live in one process.

    What is allocated is held until it is freed; a second free() does nothing. name: what the GPU is reached through.
    """

    def __init__(self, gpu: Gpu) -> None:
        """Raises CudaError if the GPU can't be used."""
        self.gpu, self.name = gpu, f"CUDA driver {gpu.driver // 1000}.{gpu.driver % 1000 // 10}"
        self._context = self._open(gpu.index)
        self._close = weakref.finalize(self, self._context.close)  # also at exit, before modules are torn down
        atexit.register(
            self._context.end
        )  # after the line above, so that it runs before that, and before the runners' own

    def __enter__(self) -> Any:
        self._context.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.__exit__()

    def buffer(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A C-contiguous array of that shape for CPU and GPU, uninitialised, valid until it is freed or close().

        Raises OutOfDeviceMemory.
        """
        nbytes = max(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize, 1)
        shared = self.gpu.integrated
        held: List[Held] = []
        try:
            with self._room_for(nbytes, "of page-locked host memory"):
                host, address, free = self._host(nbytes, shared)
            held.append(Held(self._context, free))
            if not shared:
                with self._room_for(nbytes, "on the GPU"):
                    address, free = self._memory(nbytes)
                held.append(Held(self._context, free))
        except BaseException:
            for each in held:
                each.free()
            raise
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer((ctypes.c_char * nbytes).from_address(host), dtype, count).reshape(tuple(shape))
        return Buffer(array, address, held, shared)

    def stream(self) -> Stream:
        """A new one, independent of all others."""
        return Stream(self._context)

    def event(self) -> Any:
        """A new one, which nothing has recorded yet."""
        return Event(self._context)

    def free_memory(self) -> Tuple[int, int]:
        """(free, total) bytes of the GPU's memory, over all programs."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def close(self) -> None:
        """Frees what is left. From any thread, more than once; at the latest it happens when Python ends."""
        self._close()

    def _open(self, index: int) -> Context:
        call("cuInit", 0)
        device = ctypes.c_int()
        call("cuDeviceGet", ctypes.byref(device), index)
        primary = made("cuDevicePrimaryCtxRetain", device)
        return Context(lambda: call("cuCtxPushCurrent_v2", primary), lambda: made("cuCtxPopCurrent_v2"))

    def _memory(self, nbytes: int) -> Tuple[int, Callable[[], object]]:
        """(address, what frees it) of `nbytes` of the GPU's memory."""
        address = made("cuMemAlloc_v2", nbytes)
        return address, lambda: call("cuMemFree_v2", address)

    def _host(self, nbytes: int, shared: bool) -> Tuple[int, int, Callable[[], object]]:
        """(address, the GPU's address for it or 0, what frees it) of `nbytes` of page-locked memory."""
        address = made("cuMemHostAlloc", nbytes, DEVICEMAP if shared else 0)
        try:
            on_gpu = made("cuMemHostGetDevicePointer_v2", address, 0) if shared else 0
        except BaseException:
            call("cuMemFreeHost", address)
            raise
        return address, on_gpu, lambda: call("cuMemFreeHost", address)

    @contextlib.contextmanager
    def _room_for(self, nbytes: int, where: str) -> Iterator[None]:
        try:
            yield
        except OutOfDeviceMemory:
            raise OutOfDeviceMemory(f"{nbytes / 1e6:,.1f} MB {where}", *self.free_memory()) from None
