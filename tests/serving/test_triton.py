"""The model repository in the real tritonserver, and runtime.remote against it: `make test-triton` installs both.

The wheel's server has the Python backend alone. So the ensemble's network, which in a container is Triton's own onnxruntime
backend, is stood in for by a Python model of the same name, inputs and outputs; everything around it is as it is written.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Sequence

import numpy as np
import pytest

from runtime import Classifier
from runtime.artifacts.artifact import sealed
from runtime.serving.alive import check
from runtime.serving.client import Server
from runtime.serving.repository import Wanted, write_repository
from tests.runtime.artifacts.changed_artifacts import unsealed
from tests.serving.triton import Triton, wheel

if wheel() is None:
    pytest.skip("nvidia-pytriton, which carries tritonserver, is not installed", allow_module_level=True)
triton_http = pytest.importorskip("tritonclient.http", reason="tritonclient[http,grpc] is not installed")

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = [ROOT / "tests" / "data" / f"{name}.jpg" for name in ("corgi", "lighthouse")]
CPU = Wanted(kinds=("python",), device="cpu", backend="onnxruntime")


class Done(NamedTuple):
    """What a run left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def model() -> Path:
    folder = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to serve (make test-triton sets it)")
    return Path(folder).resolve() / "lite0" / "lite0.fp32.onnx"


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """lite0 and its ensemble."""
    folder = tmp_path_factory.mktemp("server")
    write(folder / "models", model, Wanted(("python", "onnxruntime", "ensemble"), "cpu", "onnxruntime"))
    stand_in(folder / "models" / "lite0_onnxruntime")
    with Triton(folder / "models", folder) as started:
        yield started


def write(repository: Path, model: Path, wanted: Wanted = CPU) -> None:
    os.environ["EFFICIENTNET_ARTIFACTS"] = str(model.parent.parent)
    list(write_repository(["lite0"], "fp32", repository, wanted))


def stand_in(folder: Path) -> None:
    """Makes a model of Triton's onnxruntime backend one of its Python backend."""
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    (folder / "1" / "model.py").write_text(
        "import onnxruntime, pathlib\n"
        "import triton_python_backend_utils as triton\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        path = pathlib.Path(args['model_repository']) / args['model_version'] / 'model.onnx'\n"
        "        self.session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])\n"
        "    def execute(self, requests):\n"
        "        batches = [triton.get_input_tensor_by_name(request, 'images').as_numpy() for request in requests]\n"
        "        found = [self.session.run(None, {'images': batch})[0] for batch in batches]\n"
        "        return [triton.InferenceResponse([triton.Tensor('logits', logits)]) for logits in found]\n"
    )


def command(module: str, *arguments: Any) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, cwd=str(ROOT), timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def ask(server: Triton, pictures: Sequence[bytes], model: str = "lite0", **parameters: Any) -> Any:
    """One request with several images."""
    client = triton_http.InferenceServerClient(server.url)
    images = triton_http.InferInput("images", [len(pictures), 1], "BYTES")
    images.set_data_from_numpy(np.array([[picture] for picture in pictures], np.object_))
    return client.infer(model, [images], parameters=parameters or None)


@pytest.mark.parametrize("form", ["--json", "--csv", "--top=3"])
@pytest.mark.parametrize("way", ["http", "grpc", "ensemble"])
def test_the_output_is_that_of_infer(server: Triton, model: Path, form: str, way: str) -> None:
    missing = PHOTOGRAPHS[0].with_name("none.jpg")
    here = command("runtime.infer", *PHOTOGRAPHS, missing, "--model", model, "--backend", "onnxruntime", form)
    to = ["--grpc", "--url", server.grpc_url] if way == "grpc" else ["--url", server.url]
    name = "lite0_ensemble" if way == "ensemble" else "lite0"
    there = command("runtime.remote", *PHOTOGRAPHS, missing, *to, "--model", name, "--at-once", 1, form)
    assert there.err == here.err.partition("\n")[2]  # the first line names the network
    assert (there.status, there.out) == (here.status, here.out)
    assert here.status == 1  # because of the missing one
    assert "corgi" in here.out


def test_the_server_says_what_it_has(server: Triton) -> None:
    index = Server(server.url, retries=0).index()
    assert set(index) == {"lite0", "lite0_ensemble", "lite0_onnxruntime", "lite0_postprocess", "lite0_preprocess"}
    assert {state for state, _ in index.values()} == {"READY"}
    done = command("runtime.remote", PHOTOGRAPHS[0], "--url", server.url, "--model", "b9")
    assert (done.status, done.out) == (2, "")
    assert f"The server at {server.url} has no model 'b9': it has lite0, lite0_ensemble" in done.err


@pytest.mark.parametrize("name", ["lite0", "lite0_ensemble"])
def test_bad_pictures_among_good_ones(server: Triton, model: Path, name: str) -> None:
    corgi, lighthouse = (path.read_bytes() for path in PHOTOGRAPHS)
    pictures = [corgi, b"", lighthouse, b"no image", corgi[: len(corgi) // 2]]
    found = ask(server, pictures, name)
    errors = [row[0].decode() for row in found.as_numpy("error")]
    assert [bool(error) for error in errors] == [False, True, False, True, True]
    assert errors[1] == "image: the file is empty."
    assert found.as_numpy("class")[[1, 3, 4]].tolist() == [[-1] * 5] * 3
    assert found.as_numpy("probability")[[1, 3, 4]].tolist() == [[0.0] * 5] * 3
    alone = Classifier(model, backend="onnxruntime")
    for row in (0, 2):
        wanted = alone(pictures[row])
        assert found.as_numpy("class")[row].tolist() == [each.index for each in wanted]
        assert found.as_numpy("probability")[row] == pytest.approx([each.probability for each in wanted], abs=1e-5)
    alone.close()


@pytest.mark.parametrize("name", ["lite0", "lite0_ensemble"])
def test_as_many_classes_as_asked_for(server: Triton, name: str) -> None:
    for top in (1, 7, 5000):
        found = ask(server, [PHOTOGRAPHS[0].read_bytes()], name, top=top)
        assert found.as_numpy("class").shape == (1, min(top, 1000))
    for wrong in (0, -1, "five"):
        with pytest.raises(Exception, match="give a whole number above 0"):
            ask(server, [PHOTOGRAPHS[0].read_bytes()], name, top=wrong)


def load(server: Triton, threads: int, requests: int, **options: Any) -> List[Any]:
    """`requests` from each of `threads` at once; what each answered, or the error it ended with."""
    asked = Server(server.url, **options)
    pictures = [path.read_bytes() for path in PHOTOGRAPHS]
    found: List[Any] = []

    def live(first: int) -> None:
        for number in range(first, first + requests):
            try:
                found.append((number % 2, asked.classify("lite0", pictures[number % 2], 5, "it")))
            except Exception as error:
                found.append((number % 2, error))

    running = [threading.Thread(target=live, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return found


def test_many_at_once_are_answered_rightly_and_in_batches(server: Triton, model: Path) -> None:
    before = server.statistics("lite0")
    found = load(server, threads=16, requests=8, retries=0)
    after = server.statistics("lite0")
    alone = Classifier(model, backend="onnxruntime")
    right = [alone(str(path)) for path in PHOTOGRAPHS]
    alone.close()
    assert len(found) == 128
    for which, answered in found:
        assert [each.index for each in answered.predictions] == [each.index for each in right[which]]
        assert [each.probability for each in answered.predictions] == pytest.approx(
            [each.probability for each in right[which]], abs=1e-5
        )
    runs = int(after["execution_count"]) - int(before["execution_count"])
    pictures = int(after["inference_count"]) - int(before["inference_count"])
    assert pictures == 128
    assert runs <= 64  # on average two images in each, or more
    assert any(int(row["batch_size"]) > 2 for row in after["batch_stats"])


def test_metrics(server: Triton) -> None:
    ask(server, [PHOTOGRAPHS[0].read_bytes()])
    counted = [
        line for line in server.counters().splitlines() if line.startswith('nv_inference_request_success{model="lite0"')
    ]
    assert counted
    assert float(counted[0].rpartition(" ")[2]) >= 1


class Load:
    """Requests one after the other from several threads, until it is left."""

    def __init__(self, server: Triton, threads: int = 4, **options: Any) -> None:
        self.found: List[Any] = []
        self.asked, self.stopped = Server(server.url, **options), threading.Event()
        self.threads = [threading.Thread(target=self._live) for _ in range(threads)]

    def _live(self) -> None:
        picture = PHOTOGRAPHS[0].read_bytes()
        while not self.stopped.is_set():
            try:
                self.found.append(self.asked.classify("lite0", picture, 1, "it").predictions[0].label)
            except Exception as error:
                self.found.append(error)

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def until(self, more: int) -> None:
        """Until `more` requests have come to their end."""
        wanted, end = len(self.found) + more, time.monotonic() + 60
        while len(self.found) < wanted and time.monotonic() < end:
            time.sleep(0.01)
        assert len(self.found) >= wanted


def renamed(model: Path, folder: Path) -> Path:
    """lite0 whose classes have other names."""
    graph, metadata = unsealed(model)
    labels = [f"new {label}" for label in json.loads(metadata["labels"])]
    path = folder / "lite0" / model.name
    path.parent.mkdir()
    path.write_bytes(sealed(graph, "fp32", {**metadata, "labels": json.dumps(labels)})[0])
    return path


@pytest.mark.parametrize("mode", ["explicit", "poll"])
def test_a_new_version_takes_over_without_a_lost_request(model: Path, tmp_path: Path, mode: str) -> None:
    repository = tmp_path / "models"
    write(repository, model)
    options = {"explicit": ["--load-model=*"], "poll": ["--repository-poll-secs=1"]}[mode]
    with Triton(repository, tmp_path, f"--model-control-mode={mode}", *options) as server:
        with Load(server, retries=0) as running:
            running.until(10)
            write(repository, renamed(model, tmp_path))
            if mode == "explicit":
                server.post("repository/models/lite0/load")
            end = time.monotonic() + 60
            while not str(running.found[-1]).startswith("new ") and time.monotonic() < end:
                time.sleep(0.05)
            running.until(10)
        assert not [each for each in running.found if isinstance(each, Exception)]
        assert "corgi" in str(running.found[0])
        assert str(running.found[-1]).startswith("new ")
        states = {row["version"]: row["state"] for row in server.post("repository/index")}
        assert states["2"] == "READY"


def test_a_killed_backend_comes_back(model: Path, tmp_path: Path) -> None:
    """Triton itself leaves it dead and says that all is well: runtime/serving/alive.py finds out."""
    write(tmp_path / "models", model)
    options = ("--model-control-mode=explicit", "--load-model=*")
    with Triton(tmp_path / "models", tmp_path, *options) as server:
        assert check(server.url) == []
        (stub,) = server.stubs()
        os.kill(stub, signal.SIGKILL)
        assert command("runtime.serving.alive", "--url", server.url) == (1, "", "lite0: its process is gone\n")
        done = command("runtime.remote", PHOTOGRAPHS[0], "--url", server.url, "--retries", 0)
        assert done.status == 1
        assert "Stub process" in done.err
        with Load(server, timeout=20.0) as running:  # while nothing works, and while it comes back
            done = command("runtime.serving.alive", "--url", server.url, "--reload")
            assert done == (0, "", "lite0: its process was gone; loaded anew\n")
            running.until(20)
        assert not [each for each in running.found if isinstance(each, Exception)]
        (another,) = server.stubs()
        assert another != stub
        assert check(server.url) == []


def test_a_killed_step_of_an_ensemble_comes_back(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "models", model, Wanted(("onnxruntime", "ensemble"), "cpu"))
    stand_in(tmp_path / "models" / "lite0_onnxruntime")
    with Triton(tmp_path / "models", tmp_path, "--model-control-mode=explicit", "--load-model=*") as server:
        assert check(server.url) == []
        for stub in server.stubs():
            os.kill(stub, signal.SIGKILL)
        assert len(check(server.url)) == 3
        assert check(server.url, reload=True) == []
        assert ask(server, [PHOTOGRAPHS[0].read_bytes()], "lite0_ensemble").as_numpy("error")[0][0] == b""
