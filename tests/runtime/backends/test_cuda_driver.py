"""What ctypes hands to the driver's library: against NVIDIA's declarations, and against a compiled stand-in for it."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Tuple

import pytest

from runtime.backends.cuda.driver import FUNCTIONS
from tests.runtime.backends.standin_cuda import SOURCE, standin

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "tests" / "data" / "cuda_driver.tsv"
NUMBERS = {  # C types that are no pointers, as the headers define them on 64-bit machines
    "int": ctypes.c_int,
    "CUdevice": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "CUdevice_attribute": ctypes.c_uint,
    "CUstreamCaptureMode": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "unsigned long long": ctypes.c_ulonglong,
}


def declared() -> Dict[str, Tuple[str, str]]:
    """function -> (versions, arguments)."""
    rows = [line.split("\t") for line in TABLE.read_text().splitlines()[2:]]
    return {name: (versions, arguments) for name, versions, arguments in rows}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_are_what_the_headers_declare(function: str) -> None:
    versions, arguments = declared()[function]
    # CUDA 13's headers name the _v2 of this one, with the same arguments; drivers keep what they ever exported.
    assert versions == ("11.8 12.9" if function == "cuEventElapsedTime" else "11.8 12.9 13.5")
    wanted = [NUMBERS.get(argument, ctypes.c_void_p) for argument in arguments.split(",")]
    assert list(FUNCTIONS[function]) == wanted
    assert all(
        argument[-1] == "*" or argument[:2] == "CU" for argument in arguments.split(",") if argument not in NUMBERS
    )


def test_the_stand_in_has_the_declared_signatures() -> None:
    source = SOURCE.read_text()
    for function, (_, arguments) in declared().items():
        found = re.search(rf"^CUresult {function}\(([^)]*)\)", source, re.MULTILINE)
        assert found, function
        named = [re.sub(r"\bconst ", "", argument).strip() for argument in found[1].split(",")]
        assert [re.sub(r"\s*\b\w+$", "", each).replace(" *", "*") for each in named] == arguments.split(","), function


WORK = """
import ctypes, sys
import numpy as np
from runtime.backends.cuda import open_device
from runtime.backends.cuda.errors import CudaError, OutOfDeviceMemory

alive = ctypes.CDLL("libcuda.so.1").standin_alive
device = open_device()
print(device.gpu, device.name)
with device:
    a, b = device.buffer((2, 3), "f4"), device.buffer((2, 3), "f4")
    stream, first, last = device.stream(), device.event(), device.event()
    assert stream.handle > 1 << 32 and a.address > 1 << 32, "the stand-in's handles do not show whether they are cut"
    a.host[:] = np.arange(6).reshape(2, 3)
    def work():
        stream.copy_in(a, 2)
        stream.copy_out(a, 2)
    graph = stream.capture(work)
    stream.record(first)
    graph.launch(stream)
    stream.record(last)
    stream.synchronize()
    assert (a.host.ravel() == np.arange(6)).all() and last.milliseconds_since(first) == 1.5
    print(device.free_memory())
    try:
        stream.capture(stream.synchronize)
    except CudaError as error:
        print(error)
    print(alive())
try:
    device.stream()
except CudaError as error:
    print(error)
device.close()
print(alive())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-in is a library for Linux")
@pytest.mark.parametrize("integrated", [False, True])
def test_a_library_with_the_drivers_signatures_is_used_rightly(integrated: bool, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(standin(tmp_path)),
        **({"STANDIN_INTEGRATED": "1"} if integrated else {}),
    }
    done = subprocess.run(
        [sys.executable, "-c", WORK],
        cwd=str(ROOT),
        env=environment,
        stdout=-1,
        stderr=-1,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    gpu, memory, captured, alive, outside, left = done.stdout.splitlines()
    assert f"capability=(8, 9), memory={24 << 30}, driver=12020, integrated={integrated}" in gpu
    assert memory == str((23 << 30, 24 << 30))
    assert "not allowed while a stream is being captured (CUDA error 900)" in captured
    assert int(alive) == (2 if integrated else 4) + 4 and left == "0"  # buffers; a stream, two events, a graph
    assert "no CUDA context is current" in outside
