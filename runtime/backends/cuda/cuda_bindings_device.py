"""A GPU through NVIDIA's cuda-bindings (or the cuda-python packages before it), with CUDA graphs.

Of CUDA's two interfaces it uses the driver's alone: that one comes with the driver and so can't be too new for it.
"""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Sequence, Tuple

import numpy as np

try:
    from cuda.bindings import driver as cuda
except ImportError:
    from cuda import cuda  # cuda-python up to 12.5

from . import Base, Context, Held
from .driver import Gpu
from .errors import failure

# Another thread's allocations must neither be forbidden by a capture nor break it.
_CAPTURE = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_NON_BLOCKING = int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)  # independent of the default stream, where torch works


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What follows the error code: nothing, one thing, or a tuple."""
    code, *results = function(*arguments)
    if int(code):
        raise failure(function.__name__, int(code))
    return results[0] if len(results) == 1 else tuple(results)


class _Memory(Held):
    def __init__(self, context: Context, nbytes: int) -> None:
        pointer = _call(cuda.cuMemAlloc, max(nbytes, 1))
        self.address, self.nbytes = int(pointer), nbytes
        super().__init__(context, lambda: _call(cuda.cuMemFree, pointer))


class _Event(Held):
    def __init__(self, context: Context) -> None:
        self.raw = _call(cuda.cuEventCreate, 0)
        super().__init__(context, lambda raw=self.raw: _call(cuda.cuEventDestroy, raw))  # type: ignore[misc]

    def milliseconds_since(self, earlier: _Event) -> float:
        return float(_call(cuda.cuEventElapsedTime, earlier.raw, self.raw))


class _Graph(Held):
    def __init__(self, context: Context, captured: Any) -> None:
        try:
            self._raw = _call(cuda.cuGraphInstantiate, captured, 0)
        finally:
            _call(cuda.cuGraphDestroy, captured)  # what was instantiated does not need it
        super().__init__(context, lambda raw=self._raw: _call(cuda.cuGraphExecDestroy, raw))  # type: ignore[misc]

    def launch(self, stream: _Stream) -> None:
        _call(cuda.cuGraphLaunch, self._raw, stream.raw)


class _Stream(Held):
    def __init__(self, context: Context) -> None:
        self.raw = _call(cuda.cuStreamCreate, _NON_BLOCKING)
        self.handle = int(self.raw)
        super().__init__(context, lambda raw=self.raw: _call(cuda.cuStreamDestroy, raw))  # type: ignore[misc]

    def copy_in(self, memory: _Memory, array: np.ndarray) -> None:
        _call(cuda.cuMemcpyHtoDAsync, memory.address, array.ctypes.data, array.nbytes, self.raw)

    def copy_out(self, array: np.ndarray, memory: _Memory) -> None:
        _call(cuda.cuMemcpyDtoHAsync, array.ctypes.data, memory.address, array.nbytes, self.raw)

    def record(self, event: _Event) -> None:
        _call(cuda.cuEventRecord, event.raw, self.raw)

    def synchronize(self) -> None:
        _call(cuda.cuStreamSynchronize, self.raw)

    def capture(self, function: Callable[[], None]) -> _Graph:
        _call(cuda.cuStreamBeginCapture, self.raw, _CAPTURE)
        try:
            function()
        except BaseException:
            code, captured = cuda.cuStreamEndCapture(self.raw)  # the stream must not be left capturing
            if int(code) == 0:
                _call(cuda.cuGraphDestroy, captured)
            raise
        return _Graph(self._context, _call(cuda.cuStreamEndCapture, self.raw))


class CudaBindings(Base):
    """See runtime.backends.cuda.Device."""

    can_capture = True

    def __init__(self, gpu: Gpu) -> None:
        _call(cuda.cuInit, 0)
        primary = _call(cuda.cuDevicePrimaryCtxRetain, _call(cuda.cuDeviceGet, gpu.index))
        context = Context(lambda: _call(cuda.cuCtxPushCurrent, primary), lambda: _call(cuda.cuCtxPopCurrent))
        super().__init__(f"cuda-bindings {_version()}", gpu, context)

    def memory(self, nbytes: int) -> _Memory:
        """See runtime.backends.cuda.Device."""
        with self._room_for(nbytes, "on the GPU"):
            return _Memory(self._context, nbytes)

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """See runtime.backends.cuda.Device."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self._room_for(nbytes, "of page-locked host memory"):
            pointer = _call(cuda.cuMemAllocHost, max(nbytes, 1))
        held = Held(self._context, lambda: _call(cuda.cuMemFreeHost, pointer))
        array = np.frombuffer((ctypes.c_char * nbytes).from_address(int(pointer)), dtype).reshape(tuple(shape))
        self._pins[array.ctypes.data] = held
        return array

    def stream(self) -> _Stream:
        """See runtime.backends.cuda.Device."""
        return _Stream(self._context)

    def event(self) -> _Event:
        """See runtime.backends.cuda.Device."""
        return _Event(self._context)

    def used_memory(self) -> Tuple[int, int]:
        """See runtime.backends.cuda.Device."""
        free, total = _call(cuda.cuMemGetInfo)
        return int(free), int(total)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for package in ("cuda-bindings", "cuda-python"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "of unknown version"
