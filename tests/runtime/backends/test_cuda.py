"""The CUDA layer on FAKES of pycuda and cuda-bindings (`fake_cuda.py`).

Where cuda-bindings is installed, the last test holds the names that are used against it.
"""

from __future__ import annotations

import gc
import inspect
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
from runtime.backends.cuda.errors import MEANINGS, CudaError, OutOfDeviceMemory
from runtime.errors import UserError
from tests.runtime.backends.fake_cuda import FAKES, ROOM, TEXTS, Library, install

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Library()
    yield made
    gc.collect()
    assert not made.problems and not made.living and not made.stack


@pytest.fixture(params=FAKES)
def device(request: pytest.FixtureRequest, library: Library, monkeypatch: pytest.MonkeyPatch) -> Any:
    install(library, [request.param], monkeypatch)
    made = open_device(request.param)
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
    monkeypatch.setattr(driver, "_library", lambda: Library(count=2))
    found, why = gpus()
    assert found[1] == Gpu(1, "NVIDIA GeForce RTX 4090", (8, 9), 24 << 30, 12020)
    assert [gpu.index for gpu in found] == [0, 1] and not why


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


@pytest.mark.parametrize("code", [3, 34, 100, 803, 12345])
def test_why_there_is_no_gpu_is_one_sentence(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(driver, "_library", lambda: Library(code))
    found, why = gpus()
    assert not found and MEANINGS.get(code, "refuses") in why and why.endswith(f"(CUDA error {code}).")


def test_hidden_gpus_are_told_from_absent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_library", lambda: Library(count=0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == (
        [],
        "CUDA can't be used: the driver finds no CUDA GPU, and CUDA_VISIBLE_DEVICES is '' (CUDA error 100).",
    )
    monkeypatch.setattr(driver, "_library", lambda: None)
    assert gpus()[1].startswith("No NVIDIA driver is installed")


# Opening --------------------------------------------------------------------------------------------------------------


def test_auto_takes_pycuda_first_and_cuda_bindings_where_it_is_missing(library: Library, monkeypatch: Any) -> None:
    install(library, ["pycuda", "cuda-bindings"], monkeypatch)
    assert open_device().name == "pycuda 2025.1.2"
    install(library, ["cuda-bindings"], monkeypatch)
    assert open_device().name.startswith("cuda-bindings ")


def test_what_is_missing_is_a_users_error_that_says_what_to_install(library: Library, monkeypatch: Any) -> None:
    install(library, [], monkeypatch)
    with pytest.raises(UserError, match=r"pycuda can't.*cuda-bindings can't.*pip install 'cuda-bindings==12.\*'"):
        open_device()
    with pytest.raises(UserError, match=r"^cuda-bindings can't be imported"):
        open_device("cuda-bindings")
    with pytest.raises(UserError, match="no CUDA library 'cupy': choose auto or pycuda, cuda-bindings"):
        open_device("cupy")
    with pytest.raises(UserError, match="no GPU 1: the driver lists 1"):
        open_device(index=1)
    library.code = 100
    with pytest.raises(UserError, match="finds no CUDA GPU"):
        open_device()


# What both libraries' devices do --------------------------------------------------------------------------------------


def test_bytes_come_back_as_they_went(device: Any) -> None:
    with device:
        there, back = device.pinned((4, 3), np.float32), device.pinned((4, 3), np.float16)
        memory, stream = device.memory(there.nbytes), device.stream()
        assert there.shape == (4, 3) and there.dtype == np.float32 and memory.nbytes == 48
        there[:] = np.arange(12).reshape(4, 3)
        back[:] = 0
        stream.copy_in(memory, there[:2])
        stream.copy_out(back[:2], memory)
        stream.synchronize()
        assert back[:2].tobytes() == there.tobytes()[:12] and not back[2:].any()
        assert isinstance(stream.handle, int) and isinstance(memory.address, int)
        assert device.used_memory() == (ROOM // 2, ROOM)


def test_events_measure_and_are_used_again(device: Any) -> None:
    with device:
        stream, before, after = device.stream(), device.event(), device.event()
        for _ in range(2):
            stream.record(before)
            more = device.event()
            stream.record(after)
            assert after.milliseconds_since(before) == 1.0
            more.free()


def test_a_thread_is_left_as_it_was(device: Any, library: Library) -> None:
    for around in ([], ["another"], ["primary"]):  # torch's, say
        library.stack[:] = around
        with device:
            assert library.stack == [*around, "primary"]
            with device:
                device.memory(8)
            assert library.stack == [*around, "primary"]
        assert library.stack == around
        with pytest.raises(ZeroDivisionError), device:
            raise ZeroDivisionError
        assert library.stack == around
    library.stack.clear()
    assert in_thread(lambda: library.stack == []) and library.retained == 1


def test_what_is_freed_is_freed_once_and_from_any_thread(device: Any, library: Library) -> None:
    with device:
        things = [device.memory(64), device.stream(), device.event()]
        array = device.pinned((2,), np.float32)
    assert len(library.living) == 4

    def free() -> int:
        with device:
            for thing in things:
                thing.free()
                thing.free()
            device.free_pinned(array)
            device.free_pinned(array)
        return len(library.living)

    assert in_thread(free) == 0


def test_close_frees_what_is_left_once_and_from_any_thread(device: Any, library: Library) -> None:
    with device:
        kept = [device.memory(64), device.stream(), device.event(), device.pinned((2,), np.float32)]
    in_thread(device.close)
    assert not library.living
    device.close()
    with device:
        for thing in kept[:3]:
            thing.free()
        with pytest.raises(RuntimeError, match="The CUDA device was closed"):
            device.memory(8)


@pytest.mark.parametrize("name", FAKES)
def test_a_device_that_nobody_closed_frees_everything_when_it_is_forgotten(
    name: str, library: Library, monkeypatch: Any
) -> None:
    install(library, [name], monkeypatch)
    device = open_device(name)
    with device:
        device.memory(64)
        device.pinned((3,), np.uint8)
        device.stream()
    assert len(library.living) == 3
    del device
    gc.collect()
    assert not library.living


def test_a_gpu_in_error_can_still_be_closed(device: Any, library: Library) -> None:
    with device:
        device.memory(8)
        device.memory(8)
    library.fail_next = 700  # of the first to be freed, which is left to the driver
    device.close()
    assert len(library.living) == 1
    library.living.clear()


def test_no_memory_is_a_users_error_with_the_sizes(device: Any) -> None:
    with device:
        with pytest.raises(OutOfDeviceMemory, match=r"for 2\.1 MB on the GPU, 1 of 1 MB are free") as caught:
            device.memory(2 * ROOM)
        with pytest.raises(OutOfDeviceMemory, match=r"for 2\.1 MB of page-locked host memory"):
            device.pinned((2 * ROOM,), np.uint8)
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
    with pytest.raises(CudaError, match="no CUDA context is current") as caught:
        device.memory(8)
    assert caught.value.code == 201


def test_an_error_without_a_known_number_keeps_its_own_words(library: Library, monkeypatch: Any) -> None:
    install(library, ["pycuda"], monkeypatch)
    device = open_device("pycuda")
    monkeypatch.setitem(TEXTS, 4711, "something new")
    with device:
        stream = device.stream()
        library.fail_next = 4711
        with pytest.raises(CudaError, match=r"^cuStreamSynchronize failed: something new\.$"):
            stream.synchronize()
    device.close()


# CUDA graphs ----------------------------------------------------------------------------------------------------------


def test_a_graph_does_again_what_was_captured(library: Library, monkeypatch: Any) -> None:
    install(library, ["cuda-bindings"], monkeypatch)
    device = open_device("cuda-bindings")
    with device:
        there, back = device.pinned((3,), np.float32), device.pinned((3,), np.float32)
        memory, stream = device.memory(12), device.stream()
        there[:], back[:] = 5, 0

        def work() -> None:
            stream.copy_in(memory, there)
            stream.copy_out(back, memory)

        before = len(library.living)
        graph = stream.capture(work)
        assert not back.any() and len(library.living) == before + 1  # captured, not done; only the graph is kept
        for value in (6, 7):
            there[:] = value
            graph.launch(stream)
            stream.synchronize()
            assert (back == value).all()
        graph.free()
        graph.free()
        assert len(library.living) == before
    device.close()


def test_a_capture_that_fails_leaves_the_stream_usable_and_nothing_behind(library: Library, monkeypatch: Any) -> None:
    install(library, ["cuda-bindings"], monkeypatch)
    device = open_device("cuda-bindings")
    with device:
        stream = device.stream()
        before = len(library.living)
        with pytest.raises(CudaError, match="not allowed while a stream is being captured"):
            stream.capture(stream.synchronize)
        stream.synchronize()
        assert len(library.living) == before
    device.close()


def test_pycuda_says_that_it_has_no_graphs(library: Library, monkeypatch: Any) -> None:
    install(library, ["pycuda"], monkeypatch)
    device = open_device("pycuda")
    with device:
        assert not device.can_capture
        with pytest.raises(CudaError, match="pycuda, which has no CUDA graphs"):
            device.stream().capture(lambda: None)
    device.close()


# Python's end ---------------------------------------------------------------------------------------------------------

ENDING = """
import atexit, threading, time
from pytest import MonkeyPatch
from tests.runtime.backends.fake_cuda import Library, install
library, inside, patch = Library(), [], MonkeyPatch()

def last():
    print(len(library.living), len(inside), library.problems)

atexit.register(last)  # the first to be registered is the last to run
install(library, ["{name}"], patch)
from runtime.backends import cuda
cuda._ENDING = 100.0  # nobody stays inside for longer than a moment, but the machine may stand still
device = cuda.open_device("{name}")
with device:
    kept = [device.memory(64), device.stream(), device.event(), device.pinned((2,), "f4")]

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


@pytest.mark.parametrize("name", FAKES)
def test_where_python_ends_everything_is_freed_and_no_thread_is_inside(name: str) -> None:
    """pycuda aborts the process if a daemon thread has a context on its stack then."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(name=name)], cwd=ROOT, stdout=-1, stderr=-1, timeout=300, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 0 []\n", "")


# The real cuda-bindings -----------------------------------------------------------------------------------------------


def test_every_name_of_cuda_bindings_that_is_used_exists() -> None:
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    source = (ROOT / "runtime" / "backends" / "cuda" / "cuda_bindings_device.py").read_text()
    names = set(re.findall(r"\bcuda\.((?:cu|CU)\w+(?:\.CU_\w+)?)", source))
    assert len(names) > 25
    for name in names:
        thing = real
        for part in name.split("."):
            thing = getattr(thing, part)
    takes: Any = inspect.getdoc(real.cuMemcpyHtoDAsync)
    assert takes.startswith("cuMemcpyHtoDAsync(dstDevice, srcHost, size_t ByteCount, hStream)")
