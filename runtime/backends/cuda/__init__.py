"""GPU memory, streams and events: the handful of functions that a TensorRT engine needs around it.

Two libraries serve them, pycuda and cuda-bindings; `open_device` takes the one that is installed. Both work in the GPU's
primary context, which torch and CUDA's runtime use too, so that all can live in one process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import itertools
import os
import threading
import weakref
from typing import Any, Callable, Dict, Iterator, Protocol, Sequence, Tuple

import numpy as np

from ...errors import UserError
from .driver import Gpu, gpus
from .errors import OutOfDeviceMemory

_ENDING = 5.0  # seconds that Python's end waits for daemon threads to leave the GPU


class Memory(Protocol):
    """Bytes on the GPU."""

    address: int
    nbytes: int

    def free(self) -> None: ...


class Event(Protocol):
    """A mark in a stream's work."""

    def milliseconds_since(self, earlier: Event) -> float:
        """The time between two events of which both have passed."""
        ...

    def free(self) -> None: ...


class Graph(Protocol):
    """Work captured from a stream, which is launched again with one call. It holds the addresses it was captured with."""

    def launch(self, stream: Any) -> None: ...

    def free(self) -> None: ...


class Stream(Protocol):
    """Work that the GPU does in order, while the CPU goes on."""

    handle: int  # a cudaStream_t

    def copy_in(self, memory: Any, array: np.ndarray) -> None:
        """Starts copying a contiguous, page-locked `array` to the start of `memory`; the array must stay as it is."""
        ...

    def copy_out(self, array: np.ndarray, memory: Any) -> None:
        """Starts copying the start of `memory` into the contiguous, page-locked `array`."""
        ...

    def record(self, event: Any) -> None:
        """Marks this place in the stream with `event`; an earlier mark of it is forgotten."""
        ...

    def synchronize(self) -> None:
        """Waits until all work is done, and raises CudaError if some of it failed."""
        ...

    def capture(self, function: Callable[[], None]) -> Graph:
        """What `function` gives this stream to do, as a graph instead of doing it. CudaError if it can't be captured."""
        ...

    def free(self) -> None: ...


class Device(Protocol):
    """One GPU. Everything but close() is called inside `with device:`, which makes the GPU's primary context current on
    the calling thread and leaves the thread as it was; it nests. Several threads may be inside at once.

    What is allocated is held until it is freed; a second free() does nothing.
    """

    name: str  # the library and its version, "pycuda 2024.1"
    gpu: Gpu
    can_capture: bool  # whether Stream.capture works

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def memory(self, nbytes: int) -> Memory:
        """`nbytes` on the GPU. Raises OutOfDeviceMemory."""
        ...

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """A page-locked array on the host, uninitialised, valid until free_pinned(it) or close()."""
        ...

    def free_pinned(self, array: np.ndarray) -> None: ...

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def used_memory(self) -> Tuple[int, int]:
        """(free, total) bytes of the GPU's memory, over all programs."""
        ...

    def close(self) -> None:
        """Frees what is left. From any thread, more than once; at the latest it happens when Python ends."""
        ...


LIBRARIES = {
    "pycuda": ("runtime.backends.cuda.pycuda_device", "PyCuda"),
    "cuda-bindings": ("runtime.backends.cuda.cuda_bindings_device", "CudaBindings"),
}


def open_device(name: str = "auto", index: int = 0) -> Device:
    """The GPU `index` through the library `name`; "auto" takes pycuda where it can be imported, else cuda-bindings.

    Raises UserError if there is no such GPU, or no library to use it with.
    """
    if name not in ("auto", *LIBRARIES):
        raise UserError(f"There is no CUDA library '{name}': choose auto or {', '.join(LIBRARIES)}.")
    found, reason = gpus()
    if not found:
        raise UserError(reason)
    if not 0 <= index < len(found):
        raise UserError(f"There is no GPU {index}: the driver lists {len(found)}, counted from 0.")
    missing = []
    for library in LIBRARIES if name == "auto" else [name]:
        module, kind = LIBRARIES[library]
        try:
            return getattr(importlib.import_module(module), kind)(found[index])
        except ImportError as error:  # not installed, or built for another CUDA, Python or numpy
            missing.append(f"{library} can't be imported ({error})")
    raise UserError(
        f"{', and '.join(missing)}. On a Jetson install pycuda (pip builds it against JetPack's CUDA); elsewhere "
        f"pip install 'cuda-bindings=={found[index].driver // 1000}.*', for the CUDA that the driver serves."
    )


class Context:
    """A primary context that is pushed and popped around every use, and what was allocated in it, each freed once.

    It is never released: TensorRT and torch hold it as well until the process ends, and whatever is destroyed late,
    by the garbage collector or at exit, must still find it.
    """

    def __init__(self, push: Callable[[], None], pop: Callable[[], None]) -> None:
        self._push, self._pop = push, pop
        self._thread = threading.local()
        self._lock = threading.RLock()  # the garbage collector may free something inside hold()
        self._left = threading.Condition(self._lock)
        self._held: Dict[int, Callable[[], None]] = {}
        self._keys = itertools.count()
        self._inside = 0  # threads
        self._closed, self._ending, self._process = False, False, os.getpid()

    def __enter__(self) -> None:
        depth = getattr(self._thread, "depth", 0)
        if depth == 0:
            self._come_in()
            try:
                self._push()
            except BaseException:
                self._leave()
                raise
        self._thread.depth = depth + 1

    def __exit__(self, *_: object) -> None:
        self._thread.depth -= 1
        if self._thread.depth == 0:
            try:
                self._pop()
            finally:
                self._leave()

    def _come_in(self) -> None:
        with self._lock:
            locked_out = self._ending and threading.current_thread().daemon
            self._inside += not locked_out
        if locked_out:
            threading.Event().wait()  # Python ends: this thread is stopped with it, wherever it is

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            self._left.notify_all()

    def end(self) -> None:
        """At exit, before anything is freed: gets daemon threads out of the GPU and keeps them out. Where Python ends
        while one is inside, pycuda aborts the process, and what it uses would be freed under it."""
        with self._lock:
            self._ending = True
            self._left.wait_for(lambda: self._inside == 0, _ENDING)

    def hold(self, free: Callable[[], None]) -> int:
        """Keeps `free` for let_go(the returned key), or for the end."""
        with self._lock:
            if self._closed:
                free()
                raise RuntimeError("The CUDA device was closed.")
            key = next(self._keys)
            self._held[key] = free
            return key

    def let_go(self, key: int) -> None:
        with self._lock:
            free = self._held.pop(key, None)
        if free is not None:
            free()

    def close(self) -> None:
        """Frees what is held, the youngest first. Nothing is raised: the GPU may have failed, or Python be ending."""
        with self._lock:
            self._closed, held = True, list(self._held.values())
            self._held = {}
        atexit.unregister(self.end)
        if (
            os.getpid() != self._process
        ):  # a forked child can't free what is its parent's, nor may pycuda's destructors try
            for free in held:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(free))
            return
        try:
            with self:
                while held:
                    with contextlib.suppress(Exception):  # a GPU in error frees nothing; the driver will, at the end
                        held.pop()()
        except Exception:
            return


class Held:
    """The base of what is allocated: `free` is called once, in the context."""

    def __init__(self, context: Context, free: Callable[[], None]) -> None:
        self._context = context
        self._key = context.hold(free)

    def free(self) -> None:
        """Gives it back; a second time does nothing."""
        self._context.let_go(self._key)


class Base:
    """What both libraries' devices share: entering, and freeing at the end even if nobody calls close()."""

    can_capture = False

    def __init__(self, name: str, gpu: Gpu, context: Context) -> None:
        self.name, self.gpu, self._context = name, gpu, context
        self._pins: Dict[int, Held] = {}
        self._close = weakref.finalize(self, context.close)  # also at exit, before modules are torn down
        atexit.register(context.end)  # after the line above, so that it runs before that, and before the runners' own

    def __enter__(self) -> Any:
        self._context.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.__exit__()

    def used_memory(self) -> Tuple[int, int]:
        """See runtime.backends.cuda.Device."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _room_for(self, nbytes: int, where: str) -> Iterator[None]:
        try:
            yield
        except OutOfDeviceMemory:
            raise OutOfDeviceMemory(f"{nbytes / 1e6:,.1f} MB {where}", *self.used_memory()) from None

    def free_pinned(self, array: np.ndarray) -> None:
        """See runtime.backends.cuda.Device."""
        held = self._pins.pop(array.ctypes.data, None)
        if held is not None:
            held.free()

    def close(self) -> None:
        """See runtime.backends.cuda.Device."""
        self._close()
