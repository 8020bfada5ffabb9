"""A GPU whose context, memory and streams are pycuda's; events and graphs, which pycuda lacks or hides, are the driver's.

pycuda keeps a stack of contexts of its own per thread, beside CUDA's: a thread that ends with one on it aborts the
process, and an object can only be freed while the very context object that it was made in is on top (pycuda's
src/cpp/cuda.hpp: ~context_stack, scoped_context_activation). So there is one context object per GPU, pushed and popped
around every use. `pycuda.autoinit` is not used: it makes a second context, and pops it when Python ends.
"""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Dict, Tuple

import numpy as np
import pycuda
import pycuda.driver as cuda

from .context import Context, Held
from .device import DEVICEMAP, NON_BLOCKING, Device, Stream
from .driver import Gpu
from .errors import OUT_OF_MEMORY, failure

_contexts: Dict[int, Any] = {}


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except cuda.Error as error:  # "cuMemAlloc failed: out of memory"; the number is not told
        call, _, detail = str(error).partition(" failed: ")
        told = failure(call, OUT_OF_MEMORY if isinstance(error, cuda.MemoryError) else -1, detail)
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


class _Stream(Stream):
    def __init__(self, context: Context) -> None:
        holder = [_call(cuda.Stream, NON_BLOCKING)]
        self.handle: int = holder[0].handle
        Held.__init__(self, context, holder.clear)  # freed with its object, which nothing else may hold


class PyCuda(Device):
    """See runtime.backends.cuda.device.Device."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu)
        self.name = f"pycuda {pycuda.VERSION_TEXT}"

    def stream(self) -> Stream:
        return _Stream(self._context)

    def _open(self, index: int) -> Context:
        primary = _primary_context(index)
        return Context(lambda: _call(primary.push), lambda: _call(cuda.Context.pop))

    def _memory(self, nbytes: int) -> Tuple[int, Callable[[], object]]:
        allocation = _call(cuda.mem_alloc, nbytes)
        return int(allocation), lambda: _call(allocation.free)

    def _host(self, nbytes: int, shared: bool) -> Tuple[int, int, Callable[[], object]]:
        array = _call(cuda.pagelocked_empty, (nbytes,), np.dtype(np.uint8), "C", DEVICEMAP if shared else 0)
        on_gpu = int(_call(array.base.get_device_pointer)) if shared else 0
        return array.ctypes.data, on_gpu, lambda: _call(array.base.free)
