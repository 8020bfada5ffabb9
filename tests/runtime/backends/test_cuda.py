"""The CUDA layer on a FAKE driver, with FAKE pycuda and without (`fake_cuda.py`)."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest

from runtime.backends.cuda import driver, open_device
from runtime.backends.cuda.driver import Gpu, gpus
from runtime.backends.cuda.errors import CudaError, OutOfDeviceMemory
from runtime.errors import UserError
from tests.runtime.backends.fake_cuda import PRIMARY, ROOM, TEXTS, Library, collected, install

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Library()
    with collected():
        yield made
    assert not made.problems and not made.living and not made.stack


@pytest.fixture(params=["driver", "pycuda", "driver, integrated", "pycuda, integrated"])
def device(request: pytest.FixtureRequest, library: Library, monkeypatch: pytest.MonkeyPatch) -> Any:
    library.integrated = "integrated" in request.param
    install(library, monkeypatch, pycuda="pycuda" in request.param)
    made = open_device()
    assert made.name == ("pycuda 2025.1.2" if "pycuda" in request.param else "CUDA driver 12.2")
    yield made
    made.close()


def in_thread(work: Any) -> Any:
    """What `work` gives in another thread."""
    results: List[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


# The driver -----------------------------------------------------------------------------------------------------------


def test_gpus_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(count=2)
    library.integrated = True
    install(library, monkeypatch)
    found, why, broken = gpus()
    assert found[1] == Gpu(1, "NVIDIA Fake 4090", (8, 9), ROOM, 12020, integrated=True)
    assert [gpu.index for gpu in found] == [0, 1] and not why and not broken


@pytest.mark.parametrize(
    "name, capability, slug",
    [
        ("NVIDIA GeForce RTX 4090", (8, 9), "rtx-4090-sm89"),
        ("Orin", (8, 7), "orin-sm87"),
        ("NVIDIA H200", (9, 0), "h200-sm90"),
        ("NVIDIA Thor", (11, 0), "thor-sm110"),
        ("Tesla T4", (7, 5), "t4-sm75"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", (8, 6), "rtx-3060-laptop-sm86"),
        ("NVIDIA A100-SXM4-40GB", (8, 0), "a100-sxm4-40gb-sm80"),
        ("../\u00e9 ", (8, 0), "gpu-sm80"),
    ],
)
def test_a_gpus_slug_is_short_and_fit_for_a_file_name(name: str, capability: Tuple[int, int], slug: str) -> None:
    gpu = Gpu(0, name, capability, 0, 0)
    assert gpu.slug == slug and re.fullmatch("[a-z0-9-]+", gpu.slug)
    assert gpu.sm == "sm_" + slug.rpartition("sm")[2]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "the GPU's memory is full"),
        (3, "start worker processes with 'spawn'"),
        (34, "a stub for building"),
        (35, "update the driver"),
        (100, "the driver finds no CUDA GPU"),
        (802, "fabric manager must be running"),
        (803, "differ in version, as after an update: restart the machine"),
        (804, "take it out of LD_LIBRARY_PATH"),
        (999, "check that it was started with the GPU"),
        (12345, "no meaning known"),
    ],
)
def test_why_there_is_no_gpu_is_one_sentence(code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    install(Library(code), monkeypatch)
    found, why, broken = gpus()
    assert not found and broken
    assert words in why and why.endswith(f"(CUDA error {code}).")


def test_hidden_gpus_are_told_from_absent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    install(Library(count=0), monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    why = "CUDA can't be used: the driver finds no CUDA GPU, and CUDA_VISIBLE_DEVICES is '' (CUDA error 100)."
    assert gpus() == ([], why, False)


@pytest.mark.parametrize(
    ("error", "why", "broken"),
    [
        ("libcuda.so.1: cannot open shared object file: No such file or directory", "driver is not installed", False),
        ("/usr/lib/libcuda.so.1: file too short", "can't be loaded .*file too short.*: install the driver again", True),
    ],
)
def test_a_damaged_driver_is_told_from_none(
    error: str, why: str, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        raise OSError(error)

    monkeypatch.setattr(driver.ctypes, "CDLL", load)
    driver._library.cache_clear()
    try:
        found = gpus()
    finally:
        driver._library.cache_clear()
    assert not found.found and re.search(why, found.why) and found.broken is broken


def test_a_driver_that_lacks_a_function_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Library, "cuDeviceGetCount")
    install(Library(), monkeypatch)
    found, why, broken = gpus()
    assert not found and broken and "no such function (cuDeviceGetCount)" in why


# Opening --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ImportError("libcurand.so.10"), SystemError("initialization of _driver failed"), AttributeError("np.bool")],
)
def test_a_pycuda_that_is_broken_is_left_aside_and_named(error: Any, library: Library, monkeypatch: Any) -> None:
    """Built for numpy 1 it raises SystemError under numpy 2."""
    install(library, monkeypatch)

    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "pycuda":
                raise error

    monkeypatch.delitem(sys.modules, "pycuda")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    device = open_device()
    assert device.name.startswith("CUDA driver 12.2, since pycuda does not work here (") and str(error) in device.name
    with device:
        device.buffer((8,), np.uint8).free()
    device.close()


def test_without_a_gpu_it_is_a_users_error(library: Library, monkeypatch: Any) -> None:
    install(library, monkeypatch)
    with pytest.raises(UserError, match="no GPU 1: the driver lists 1"):
        open_device(1)
    library.code = 100
    with pytest.raises(UserError, match="finds no CUDA GPU"):
        open_device()


# What devices do ------------------------------------------------------------------------------------------------------


def test_bytes_come_back_as_they_went(device: Any, library: Library) -> None:
    with device:
        buffer, stream = device.buffer((4, 3), np.float32), device.stream()
        assert buffer.host.shape == (4, 3) and buffer.host.dtype == np.float32 and buffer.host.flags.c_contiguous
        buffer.host[:] = np.arange(12).reshape(4, 3)
        stream.copy_in(buffer, 2)
        stream.synchronize()
        on_gpu = library.bytes_at(buffer.address, 48).view(np.float32)
        assert (on_gpu[:6] == np.arange(6)).all() and buffer.address != buffer.host.ctypes.data
        on_gpu[:] = 7  # a kernel
        stream.copy_out(buffer, 1)
        stream.synchronize()
        assert (buffer.host[0] == 7).all() and buffer.host[1, 0] == (7 if buffer.shared else 3)
        assert sorted(library.made) == (["mapped", "stream"] if buffer.shared else ["memory", "pinned", "stream"])
        assert device.free_memory() == (ROOM - 48 * (1 if buffer.shared else 2), ROOM)


def test_the_gpus_memory_and_the_hosts_are_not_taken_for_each_other(library: Library, monkeypatch: Any) -> None:
    """The FAKES refuse an address of the one where the other is wanted, as the real ones would crash on it."""
    library.integrated = True
    install(library, monkeypatch)
    with open_device() as device:
        shared, stream = device.buffer((8,), np.uint8), device.stream()
        with pytest.raises(AssertionError, match="illegal memory access"):
            library.bytes_at(shared.host.ctypes.data, 8)
        with pytest.raises(AssertionError, match="not page-locked"):
            library.cuMemcpyHtoDAsync_v2(shared.address, shared.address, 8, stream.handle)
        with pytest.raises(AssertionError, match="illegal memory access"):
            library.cuMemcpyHtoDAsync_v2(shared.host.ctypes.data, shared.host.ctypes.data, 8, stream.handle)
    device.close()


def test_events_measure_and_are_used_again(device: Any) -> None:
    with device:
        stream, before, after = device.stream(), device.event(), device.event()
        for _ in range(2):
            stream.record(before)
            more = device.event()
            stream.record(after)
            stream.synchronize()
            assert after.milliseconds_since(before) == 1.0
            more.free()


def test_a_thread_is_left_as_it_was(device: Any, library: Library) -> None:
    for around in ([], [1 << 40], [PRIMARY]):  # torch's, say
        library.stack[:] = around
        with device:
            assert library.stack == [*around, PRIMARY]
            with device:
                device.buffer((8,), np.uint8)
            assert library.stack == [*around, PRIMARY]
        assert library.stack == around
        with pytest.raises(ZeroDivisionError), device:
            raise ZeroDivisionError
        assert library.stack == around
    library.stack.clear()
    assert in_thread(lambda: library.stack == []) and library.retained == 1


def test_what_is_freed_is_freed_once_and_from_any_thread(device: Any, library: Library) -> None:
    with device:
        things = [device.buffer((64,), np.uint8), device.stream(), device.event()]
    assert len(library.living) == (3 if device.gpu.integrated else 4)

    def free() -> int:
        with device:
            for thing in things:
                thing.free()
                thing.free()
        return len(library.living)

    assert in_thread(free) == 0


def test_close_frees_what_is_left_once_and_from_any_thread(device: Any, library: Library) -> None:
    with device:
        kept = [device.buffer((64,), np.uint8), device.stream(), device.event()]
    in_thread(device.close)
    assert not library.living
    device.close()
    with device:
        for thing in kept:
            thing.free()
        with pytest.raises(RuntimeError, match="The CUDA device was closed"):
            device.buffer((8,), np.uint8)


@pytest.mark.parametrize("pycuda", [False, True])
def test_a_device_that_nobody_closed_frees_everything_when_it_is_forgotten(
    pycuda: bool, library: Library, monkeypatch: Any
) -> None:
    install(library, monkeypatch, pycuda)
    device = open_device()
    with device:
        device.buffer((64,), np.uint8)
        device.stream()
    assert len(library.living) == 3
    del device
    gc.collect()
    assert not library.living


def test_a_gpu_in_error_can_still_be_closed(device: Any, library: Library) -> None:
    with device:
        device.stream()
        device.stream()
    library.fail_next = 700  # of the first to be freed, which is left to the driver
    device.close()
    assert len(library.living) == 1
    library.living.clear()


def test_no_memory_is_a_users_error_with_the_sizes(device: Any, library: Library) -> None:
    library.memory = 1 << 20
    with device:
        with pytest.raises(
            OutOfDeviceMemory, match=r"for 2\.1 MB of page-locked host memory, 1 of 1 MB are free"
        ) as caught:
            device.buffer((2 << 20,), np.uint8)
        if not device.gpu.integrated:
            library.fail_at = sum(library.made.values()) + 2
            with pytest.raises(OutOfDeviceMemory, match=r"for 0\.5 MB on the GPU, 1 of 1 MB are free"):
                device.buffer((1 << 19,), np.uint8)
        assert not library.living
    assert isinstance(caught.value, UserError) and caught.value.status == 1


def test_what_cuda_refuses_is_told_in_words(device: Any, library: Library) -> None:
    with device:
        stream = device.stream()
        library.fail_next = 700
        with pytest.raises(
            CudaError, match="cuStreamSynchronize failed: the GPU accessed memory that was not alloc"
        ) as caught:
            stream.synchronize()
        stream.free()  # while the error's traceback is alive
        assert caught.value.code == 700 and not library.living


def test_without_a_current_context_nothing_is_made(device: Any) -> None:
    with pytest.raises(CudaError, match="no CUDA context is current|no currently active context"):
        device.buffer((8,), np.uint8)


def test_an_error_without_a_known_number_keeps_its_own_words(library: Library, monkeypatch: Any) -> None:
    install(library, monkeypatch, pycuda=True)
    device = open_device()
    monkeypatch.setitem(TEXTS, 4711, "something new")
    library.fail_next = 4711
    with device, pytest.raises(CudaError, match=r"^cuStreamCreate failed: something new\.$"):
        device.stream()
    device.close()


# CUDA graphs ----------------------------------------------------------------------------------------------------------


def test_a_graph_does_again_what_was_captured(device: Any, library: Library) -> None:
    with device:
        buffer, stream = device.buffer((3,), np.float32), device.stream()
        on_gpu, seen = library.bytes_at(buffer.address, 12).view(np.float32), []  # type: Any, List[float]

        def work() -> None:
            stream.copy_in(buffer, 3)
            library.enqueue(stream.handle, lambda: seen.append(float(on_gpu[0])))

        before = len(library.living)
        graph = stream.capture(work)
        stream.synchronize()
        assert not seen and len(library.living) == before + 1  # captured, not done; only the graph is kept
        for value in (6, 7):
            buffer.host[:] = value
            graph.launch(stream)
            stream.synchronize()
        assert seen == [6, 7]
        graph.free()
        graph.free()
        assert len(library.living) == before


def test_a_capture_that_fails_leaves_the_stream_usable_and_nothing_behind(device: Any, library: Library) -> None:
    with device:
        stream = device.stream()
        before = len(library.living)
        with pytest.raises(CudaError, match="not allowed while a stream is being captured"):
            stream.capture(stream.synchronize)
        stream.synchronize()
        assert len(library.living) == before


def test_a_driver_without_graphs_says_so(device: Any, library: Library, monkeypatch: Any) -> None:
    monkeypatch.delattr(Library, "cuGraphInstantiateWithFlags")
    with device, pytest.raises(CudaError, match=r"no such function \(cuGraphInstantiateWithFlags\): update the driver"):
        device.stream().capture(lambda: None)
    assert "graph" not in library.leaks()


# Python's end ---------------------------------------------------------------------------------------------------------

ENDING = """
import atexit, threading, time
from pytest import MonkeyPatch
from tests.runtime.backends.fake_cuda import Library, install
library, inside, patch = Library(), [], MonkeyPatch()

def last():
    print(len(library.living), len(inside), library.problems)

atexit.register(last)  # the first to be registered is the last to run
install(library, patch, {pycuda})
from runtime.backends import cuda
from runtime.backends.cuda import context
context._ENDING = 100.0  # nobody stays inside for longer than a moment, but the machine may stand still
device = cuda.open_device()
with device:
    kept = [device.buffer((64,), "u1"), device.stream(), device.event()]

def work():
    while True:
        with device:
            inside.append(1)
            time.sleep(0.01)
            inside.pop()

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
while not inside:
    time.sleep(0.001)
"""


@pytest.mark.parametrize("pycuda", [False, True])
def test_where_python_ends_everything_is_freed_and_no_thread_is_inside(pycuda: bool) -> None:
    """pycuda aborts the process if a daemon thread has a context on its stack then."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(pycuda=pycuda)], cwd=ROOT, stdout=-1, stderr=-1, timeout=300, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 0 []\n", "")
