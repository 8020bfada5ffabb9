"""A GPU's primary context around every use of it, and what was allocated in it, each thing freed once."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import threading
from typing import Callable, Dict

_ENDING = 5.0  # seconds that Python's end waits for daemon threads to leave the GPU


class Context:
    """A primary context that is pushed and popped around every use, and what was allocated in it, each freed once.

    It is never released: TensorRT and torch hold it as well until the process ends, and whatever is destroyed late,
    by the garbage collector or at exit, must still find it.
    """

    def __init__(self, push: Callable[[], object], pop: Callable[[], object]) -> None:
        self._push, self._pop = push, pop
        self._thread = threading.local()
        self._lock = threading.RLock()  # the garbage collector may free something inside hold()
        self._left = threading.Condition(self._lock)
        self._held: Dict[int, Callable[[], object]] = {}
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

    def hold(self, free: Callable[[], object]) -> int:
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

    def __init__(self, context: Context, free: Callable[[], object]) -> None:
        self._context = context
        self._key = context.hold(free)

    def free(self) -> None:
        """Gives it back; a second time does nothing."""
        self._context.let_go(self._key)
