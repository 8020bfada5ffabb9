"""Half-installed libraries, mixed versions, drivers that refuse: what each command says of them, with which exit status.

The driver is a compiled stand-in (libcuda.c), TensorRT and pycuda are stub modules or the FAKE of fake_tensorrt.py. `infer` with
"auto" must get to its answer on the processor whatever is broken, and say why it does so; no command may end in a traceback.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Tuple

import pytest

from tests.runtime.artifacts.changed_artifacts import linked
from tests.runtime.backends.standin_cuda import standin

ROOT = Path(__file__).resolve().parents[3]
IMAGE = ROOT / "tests" / "data" / "corgi.jpg"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-in is a library for Linux")

SILENCE = "^$"
FAKE = """
from tests.runtime.backends.fake_tensorrt import fake_module
made = fake_module("%s")
made.faults.update(%r)
globals().update(vars(made))
"""


def fake(version: str = "10.3.0", **faults: str) -> str:
    """The FAKE TensorRT of `version`; `faults`: what methods log when they fail, "Class__method"."""
    return FAKE % (version, {name.replace("__", "."): text for name, text in faults.items()})


def raises(error: str) -> str:
    return f"raise {error}"


class Row(NamedTuple):
    """What is installed and how it is broken, and what each command then does: its exit status, and what it says (a pattern)."""

    engine: Tuple[int, str]
    auto: Tuple[int, str]
    backend: Tuple[int, str]  # infer --backend tensorrt, or tensorrt_rtx where that is what is installed
    modules: Dict[str, str] = {}
    driver: str = ""  # what the stand-in refuses; "none": there is no driver, "damaged": its library is no library
    sm: str = "89"
    hidden: bool = False  # CUDA_VISIBLE_DEVICES is empty
    folder: str = ""  # one of that name lies in the current folder
    built: bool = False  # an engine was built while all was well


NO_GPU = "TensorRT needs an NVIDIA GPU, and there is none. "
CPU = "on the CPU, although there is a GPU (NVIDIA Stand-in): "


def refused(code: int, why: str) -> Row:
    """The driver is there and answers with `code`; what each code means is in test_cuda.py."""
    said = f"CUDA can't be used: .*{why}.*CUDA error {code}"
    return Row(
        (2, NO_GPU + said), (0, f"^on the CPU: {said}"), (2, NO_GPU + said), {"tensorrt": fake()}, f"cuInit={code}"
    )


def unloadable(error: str, why: str) -> Row:
    """Importing tensorrt raises `error`."""
    said = f"tensorrt can't be loaded .{why}.*comes with JetPack"
    return Row((2, f"^error: {said}"), (0, re.escape(CPU) + said), (2, f"^error: {said}"), {"tensorrt": raises(error)})


NOT_INSTALLED = "^error: tensorrt is not installed. On a Jetson"
ROWS = {
    "nothing at all": Row((2, NOT_INSTALLED), (0, SILENCE), (2, NOT_INSTALLED), driver="none"),
    "a GPU, no TensorRT": Row(
        (2, NOT_INSTALLED), (0, re.escape(CPU) + "neither tensorrt nor tensorrt_rtx is installed"), (2, NOT_INSTALLED)
    ),
    "TensorRT, no driver": Row(
        (2, NO_GPU + "The NVIDIA driver is not installed"),
        (0, SILENCE),
        (2, NO_GPU + "The NVIDIA driver is not installed"),
        {"tensorrt": fake()},
        "none",
    ),
    "the driver's library is damaged": Row(
        (2, NO_GPU + ".*can't be loaded .*: install the driver again"),
        (0, "^on the CPU: The NVIDIA driver's library can't be loaded .*: install the driver again"),
        (2, NO_GPU + ".*can't be loaded .*: install the driver again"),
        {"tensorrt": fake()},
        "damaged",
    ),
    "driver and library of two versions": refused(803, "differ in version, as after an update: restart the machine"),
    "no GPU behind the driver": refused(100, "the driver finds no CUDA GPU"),
    "GPUs that are hidden": Row(
        (2, NO_GPU + ".*CUDA_VISIBLE_DEVICES is ''"),
        (0, SILENCE),
        (2, NO_GPU + ".*CUDA_VISIBLE_DEVICES is ''"),
        {"tensorrt": fake()},
        "cuInit=100",
        hidden=True,
    ),
    "a library is missing": unloadable(
        "ImportError('libnvinfer.so.8: cannot open shared object file')", "libnvinfer.so.8"
    ),
    "built for numpy 1": unloadable(
        "SystemError('initialization of tensorrt raised unreported exception')", "initialization"
    ),
    "an error without words": unloadable("KeyError()", "KeyError"),
    "a folder called tensorrt": Row(
        (2, NOT_INSTALLED), (0, re.escape(CPU) + "neither"), (2, NOT_INSTALLED), folder="tensorrt"
    ),
    "a module of the user's called tensorrt": Row(
        (2, "tensorrt.py is called tensorrt and is not NVIDIA's .it has no __version__.: rename it"),
        (0, re.escape(CPU) + ".*is not NVIDIA's"),
        (2, "is not NVIDIA's"),
        {"tensorrt": "engines = []"},
    ),
    "TensorRT 7": Row(
        (2, "tensorrt 7.2.3 is too old: the first .* is 8.5"),
        (0, re.escape(CPU) + "tensorrt 7.2.3 is too old"),
        (2, "tensorrt 7.2.3 is too old"),
        {"tensorrt": "__version__ = '7.2.3'\nBuilder = OnnxParser = Runtime = ILogger = object"},
    ),
    "TensorRT is broken, TensorRT-RTX works": Row(
        (0, "^building with TensorRT-RTX 1.7.1.116: tensorrt can't be loaded .no.. On"),
        (
            0,
            re.escape(CPU)
            + "tensorrt can't be loaded .no..*; no engine was built for it yet .'python -m runtime.engine",
        ),
        (2, "^error: tensorrt can't be loaded"),
        {"tensorrt": raises("OSError('no')"), "tensorrt_rtx": fake("rtx-1.7.1")},
    ),
    "TensorRT-RTX on a GPU that it does not list": Row(
        (2, "TensorRT-RTX 1.7.1.116 can't build for sm_90: it knows sm_75, "),
        (0, re.escape(CPU) + "TensorRT-RTX 1.7.1.116 can't build for sm_90"),
        (2, "can't build for sm_90"),
        {"tensorrt_rtx": fake("rtx-1.7.1")},
        sm="90",
    ),
    "all is well": Row(
        (0, SILENCE),
        (0, "^on TensorRT 10.3.0, NVIDIA Stand-in, .*, CUDA driver 12.2, CUDA graphs$"),
        (0, SILENCE),
        {"tensorrt": fake()},
        built=True,
    ),
    "a pycuda built for numpy 1": Row(
        (0, SILENCE),
        (0, "^on TensorRT 10.3.0, .*, since pycuda does not work here .SystemError: initialization of _driver failed"),
        (0, SILENCE),
        {"tensorrt": fake(), "pycuda": raises("SystemError('initialization of _driver failed')")},
        built=True,
    ),
    "another process holds the GPU alone": Row(
        (0, SILENCE),
        (0, re.escape(CPU) + "cuDevicePrimaryCtxRetain failed: another process holds the GPU for itself alone"),
        (1, "^error: cuDevicePrimaryCtxRetain failed: another process"),
        {"tensorrt": fake()},
        "cuDevicePrimaryCtxRetain=46",
        built=True,
    ),
    "no room in the GPU's memory": Row(
        (0, SILENCE),
        (0, re.escape(CPU) + "No memory is left for .* MB on the GPU, .* MB are free"),
        (1, "^error: No memory is left for"),
        {"tensorrt": fake()},
        "cuMemAlloc_v2=2",
        built=True,
    ),
    "an engine that TensorRT refuses": Row(
        (0, SILENCE),
        (0, re.escape(CPU) + ".*TensorRT 10.3.0 refuses lite0.*It says: version tag does not match"),
        (2, "^building lite0.*\nerror: TensorRT 10.3.0 refuses .*version tag does not match"),
        {"tensorrt": fake(Runtime__deserialize_cuda_engine="version tag does not match")},
        built=True,
    ),
    "no execution context": Row(
        (0, SILENCE),
        (0, re.escape(CPU) + "TensorRT can't make an execution context for this engine. It says: OutOfMemory"),
        (1, "^error: TensorRT can't make an execution context"),
        {"tensorrt": fake(ICudaEngine__create_execution_context="OutOfMemory")},
        built=True,
    ),
    "the GPU fails while it runs": Row(
        (0, SILENCE),
        (1, "^on TensorRT .*\nerror: TensorRT's execute_async_v3 failed. It says: Error Code 1: Cuda Runtime"),
        (1, "^error: TensorRT's execute_async_v3 failed. It says: Error Code 1: Cuda Runtime"),
        {"tensorrt": fake(IExecutionContext__execute_async_v3="Error Code 1: Cuda Runtime (an illegal memory access)")},
        built=True,
    ),
    "a builder that breaks": Row(
        (1, "^error: TensorRT failed while building .TypeError: incompatible constructor arguments"),
        (0, re.escape(CPU) + "no engine was built for it yet"),
        (1, "^building .*\nerror: TensorRT failed while building .TypeError"),
        {"tensorrt": fake() + "\ndef Builder(log):\n    raise TypeError('incompatible constructor arguments')"},
    ),
    "a builder that refuses": Row(
        (1, "^error: TensorRT can't build the network: there was not enough memory: .*WORKSPACE"),
        (0, re.escape(CPU) + "no engine was built for it yet"),
        (1, "not enough memory"),
        {"tensorrt": fake(Builder__build_serialized_network="Skipping tactic 3: insufficient memory")},
    ),
}

Ended = Tuple[int, str, str]  # exit status, stdout, stderr


@pytest.fixture(scope="module")
def forks() -> Iterator[Callable[[Dict[str, Any]], int]]:
    """Runs a request as forking.py takes it; gives the exit status."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.runtime.backends.forking"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, cwd=str(ROOT), env=environment, text=True)
    assert process.stdin is not None and process.stdout is not None

    def run(request: Dict[str, Any]) -> int:
        process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return int(process.stdout.readline())  # type: ignore[union-attr]

    yield run
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standin(tmp_path_factory.mktemp("libcuda")) / "libcuda.so.1"


@pytest.fixture(scope="module")
def built(precisions: Path, forks: Any, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lite0 and its engine, built by the FAKE."""
    folder = tmp_path_factory.mktemp("built")
    machine = Machine(folder, ROWS["all is well"], forks, library)
    linked(precisions, machine.artifacts)
    assert machine.run("runtime.engine", "--precision", "fp32")[0] == 0
    return machine.artifacts


class Machine:
    """A made-up machine in `folder`."""

    def __init__(self, folder: Path, row: Row, forks: Callable[[Dict[str, Any]], int], library: Path) -> None:
        self.folder, self.row, self.forks = folder, row, forks
        self.artifacts, self.stubs, self.here = folder / "artifacts", folder / "stubs", folder / "here"
        for each in (self.artifacts, self.stubs, self.here):
            each.mkdir(exist_ok=True)
        for module, source in row.modules.items():
            (self.stubs / f"{module}.py").write_text(source)
        if row.folder:
            (self.here / row.folder).mkdir()
        self.library = "" if row.driver == "none" else str(library)
        if row.driver == "damaged":
            self.library = str(self.stubs / "libcuda.so.1")
            Path(self.library).write_text("not a library")

    def run(self, module: str, *arguments: str) -> Ended:
        environment = {
            "EFFICIENTNET_ARTIFACTS": str(self.artifacts),
            "STANDIN_CUDA": self.row.driver,
            "STANDIN_SM": self.row.sm,
            "PYTHONPATH": os.pathsep.join([str(self.stubs), str(ROOT)]),  # for the builder's process
            **({"CUDA_VISIBLE_DEVICES": ""} if self.row.hidden else {}),
        }
        out, err = self.folder / "out", self.folder / "err"
        status = self.forks(
            {
                "module": module,
                "argv": [*arguments, "--variant", "lite0"],
                "cwd": str(self.here),
                "environment": environment,
                "path": [str(self.here), str(self.stubs)],
                "missing": [name for name in ("tensorrt", "tensorrt_rtx", "pycuda") if not self.has(name)],
                "libcuda": self.library,
                "out": str(out),
                "err": str(err),
            }
        )
        said = [
            line for line in err.read_text().splitlines(True) if not line.startswith("answering: ")
        ]  # which network, always
        return status, out.read_text(), "".join(said)

    def has(self, module: str) -> bool:
        return module in self.row.modules or module == self.row.folder


# One that ends before TensorRT is loaded, one where it can't be, one that builds and runs: what the others say comes from
# functions that tests of one module each call too.
EVERYWHERE = ("nothing at all", "a library is missing", "all is well")


@pytest.mark.parametrize(
    "name", [name if name in EVERYWHERE else pytest.param(name, marks=pytest.mark.once) for name in ROWS]
)
def test_every_command_ends_in_a_sentence(
    name: str, forks: Any, library: Path, precisions: Path, built: Path, tmp_path: Path
) -> None:
    row = ROWS[name]
    machine = Machine(tmp_path, row, forks, library)
    if row.built:
        for file in (built / "lite0").iterdir():
            (machine.artifacts / "lite0").mkdir(exist_ok=True)
            os.link(str(file), str(machine.artifacts / "lite0" / file.name))
    else:
        linked(precisions, machine.artifacts)
    backend = "tensorrt" if "tensorrt" in row.modules or "tensorrt_rtx" not in row.modules else "tensorrt_rtx"
    infer = ("runtime.infer", str(IMAGE), "--precision", "fp32")
    ended = {
        "auto": machine.run(*infer),
        "backend": machine.run(*infer, "--backend", backend),
        "engine": machine.run("runtime.engine", "--precision", "fp32"),
    }
    for command, (status, said) in (("auto", row.auto), ("backend", row.backend), ("engine", row.engine)):
        got, out, err = ended[command]
        assert "Traceback" not in err, f"{command}: {err}"
        assert got == status and re.search(said, err, re.DOTALL), f"{command}: {got}\n{err}"
        if status == 0:
            assert ("corgi" in out) == (command != "engine")
