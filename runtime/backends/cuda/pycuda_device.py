"""A GPU through pycuda, which on a Jetson is built against JetPack's own CUDA. It has no CUDA graphs.

pycuda keeps a stack of contexts of its own per thread, beside CUDA's: a thread that ends with one on it aborts the
process, and an object can only be freed while the very context object that it was made in is on top (pycuda's
src/cpp/cuda.hpp: ~context_stack, scoped_context_activation). So there is one context object per GPU, pushed and popped
around every use. `pycuda.autoinit` is not used: it makes a second context, and pops it when Python ends.
"""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Dict, Sequence, Tuple

import numpy as np
import pycuda
import pycuda.driver as cuda

from . import Base, Context, Graph, Held
from .driver import Gpu, code_of
from .errors import OUT_OF_MEMORY, CudaError, failure

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: independent of the default stream, which torch works on
_contexts: Dict[int, Any] = {}


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except cuda.Error as error:  # "cuMemAlloc failed: out of memory"; the number is not told
        call, _, detail = str(error).partition(" failed: ")
        text = detail.partition(" - ")[0]  # a remark of pycuda's own may follow
        told = failure(call, OUT_OF_MEMORY if isinstance(error, cuda.MemoryError) else code_of(text), detail)
    del function, arguments  # or a traceback would keep a stream, which is freed with its object, beyond free()
    raise told


def _primary_context(index: int) -> Any:
    if index not in _contexts:
        _call(cuda.init)
        context = _call(_call(cuda.Device, index).retain_primary_context)
        # Its destructor would release the context behind what TensorRT still holds, on whatever thread Python ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
        _contexts[index] = context
    return _contexts[index]


class _Memory(Held):
    def __init__(self, context: Context, nbytes: int) -> None:
        allocation = _call(cuda.mem_alloc, max(nbytes, 1))
        self.address, self.nbytes = int(allocation), nbytes
        super().__init__(context, lambda: _call(allocation.free))


class _Event(Held):
    def __init__(self, context: Context) -> None:
        self.holder = [_call(cuda.Event)]
        super().__init__(context, self.holder.clear)  # freed with its object, which nothing else may hold

    def milliseconds_since(self, earlier: _Event) -> float:
        return _call(self.holder[0].time_since, earlier.holder[0])


class _Stream(Held):
    def __init__(self, context: Context) -> None:
        self._holder = [_call(cuda.Stream, _NON_BLOCKING)]
        self.handle: int = self._holder[0].handle
        super().__init__(context, self._holder.clear)

    def copy_in(self, memory: _Memory, array: np.ndarray) -> None:
        _call(cuda.memcpy_htod_async, memory.address, array, self._holder[0])

    def copy_out(self, array: np.ndarray, memory: _Memory) -> None:
        _call(cuda.memcpy_dtoh_async, array, memory.address, self._holder[0])

    def record(self, event: _Event) -> None:
        _call(event.holder[0].record, self._holder[0])

    def synchronize(self) -> None:
        _call(self._holder[0].synchronize)

    def capture(self, function: Callable[[], None]) -> Graph:
        raise CudaError("capturing with pycuda, which has no CUDA graphs,", 801)


class PyCuda(Base):
    """See runtime.backends.cuda.Device."""

    def __init__(self, gpu: Gpu) -> None:
        primary = _primary_context(gpu.index)
        context = Context(lambda: _call(primary.push), lambda: _call(cuda.Context.pop))
        super().__init__(f"pycuda {pycuda.VERSION_TEXT}", gpu, context)

    def memory(self, nbytes: int) -> _Memory:
        """See runtime.backends.cuda.Device."""
        with self._room_for(nbytes, "on the GPU"):
            return _Memory(self._context, nbytes)

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """See runtime.backends.cuda.Device."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self._room_for(nbytes, "of page-locked host memory"):
            array = _call(cuda.pagelocked_empty, tuple(shape), np.dtype(dtype))
        self._pins[array.ctypes.data] = Held(self._context, lambda: _call(array.base.free))
        return array

    def stream(self) -> _Stream:
        """See runtime.backends.cuda.Device."""
        return _Stream(self._context)

    def event(self) -> _Event:
        """See runtime.backends.cuda.Device."""
        return _Event(self._context)

    def used_memory(self) -> Tuple[int, int]:
        """See runtime.backends.cuda.Device."""
        free, total = _call(cuda.mem_get_info)
        return int(free), int(total)
