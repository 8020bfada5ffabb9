"""Engines built, found, refused and built anew, by every version of TensorRT: on a FAKE made from their real APIs.

What the real builder makes of our graphs is tests/engines' matter, with TensorRT-RTX.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import numpy as np
import pytest

from runtime.artifacts.artifact import Artifact, read_artifact, sealed
from runtime.backends.backend import Engines
from runtime.backends.cuda import driver
from runtime.backends.cuda.driver import Gpu
from runtime.backends.tensorrt import backend, build, builder_process, compare, manifest
from runtime.backends.tensorrt.engine import artifact_of, engine_of
from runtime.backends.tensorrt.generations import GENERATIONS, generation
from runtime.backends.tensorrt.options import Batch, BuildOptions, parse_batch, parse_target
from runtime.backends.tensorrt.site import Site, open_site
from runtime.command import parse_size
from runtime.errors import UserError
from tests.runtime.artifacts.changed_artifacts import linked, unsealed
from tests.runtime.artifacts.onnx_bytes import taking_pixels
from tests.runtime.backends import fake_cuda
from tests.runtime.backends.fake_tensorrt import VERSIONS, fake_module

# Python 3.8 is JetPack 5's, with TensorRT 8.5; TensorRT-RTX stands for all versions whose graphs say the types.
EACH = [each if each in ("8.5.3", "rtx-1.7.1") else pytest.param(each, marks=pytest.mark.once) for each in VERSIONS]
DATA_GPU = Gpu(0, "NVIDIA Fake 4090", (8, 9), fake_cuda.ROOM, 12020)


@pytest.fixture
def folder(precisions: Path, tmp_path: Path) -> Path:
    return linked(precisions, tmp_path)


@pytest.fixture(params=EACH)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trt(version: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The fake of `version` in TensorRT's place, on a FAKE GPU; builds run in this process."""
    module = install(version, monkeypatch)
    yield module
    assert not module.device.problems and not module.device.leaks()


def install(version: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The FAKE TensorRT of `version`, on the FAKE driver `device` of it."""
    module = fake_module(version)
    module.device = fake_cuda.Library()
    fake_cuda.install(module.device, monkeypatch)

    def load(name: str) -> Any:
        assert name == module.__name__
        return module, generation(name, module.__version__)

    def run(request: Any, name: str) -> Any:
        said: List[Any] = []
        build.answer(json.loads(json.dumps(request)), lambda **values: said.append(values))
        if "error" in said[-1]:
            products = builder_process._products(said[-1].get("products", {}))
            raise build.BuildError(said[-1]["error"], said[-1]["status"], products)
        return said[-1]

    for place in ("site", "build"):
        monkeypatch.setattr(f"runtime.backends.tensorrt.{place}.load", load)
    monkeypatch.setattr(builder_process, "_run", run)
    return module


def make_engine(source: Artifact, where: Site, options: BuildOptions) -> Tuple[Path, manifest.Manifest]:
    engine = engine_of(source, where, options.precision)
    return engine.path, engine.build(options)


def artifact(folder: Path, precision: str) -> Artifact:
    return read_artifact(folder / f"lite0.{precision}.onnx")


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, 3, 224, 224)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_comes_from_the_graph_or_where_there_are_flags_from_those(
    trt: Any, version: str, precision: str, folder: Path
) -> None:
    site = open_site(trt.__name__)
    path, made = make_engine(artifact(folder, precision), site, BuildOptions(precision, Batch(1, 2, 4)))
    header = json.loads(path.read_bytes().split(b"\n")[1])
    flagged = version == "8.5.3"
    assert header["flags"] == ({"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}[precision] if flagged else [])
    assert made.onnx == f"lite0.{'int8-fp16' if precision == 'int8' and not flagged else precision}.onnx"
    profile = {"images": [[1, 3, 224, 224], [2, 3, 224, 224], [4, 3, 224, 224]]}
    assert header["profiles"] == [profile] * (2 if flagged else 1)
    names = {member for _, member in trt.calls}
    assert not names & {"int8_calibrator", "set_calibration_profile", "set_dynamic_range", "build_engine"}


def test_answers_are_the_networks_own(trt: Any, folder: Path) -> None:
    from runtime.backends import open_backend

    images = pictures(11)
    expected = open_backend(artifact(folder, "fp32"), "onnxruntime").run(images)
    running = backend.TensorRt(artifact(folder, "fp32"), trt.__name__, say=lambda _: None)
    np.testing.assert_allclose(running.run(images), expected, rtol=1e-3, atol=1e-4)
    logits, stages = running.timed(images[:3])
    assert logits.shape == (3, 1000) and min(stages) >= 0
    assert "TensorRT" in running.description and "Fake 4090" in running.description
    running.close()
    running.close()


def test_an_engine_for_floats_is_not_taken_for_pixels(trt: Any, version: str, folder: Path, pixel_model: Path) -> None:
    """Exported anew with INPUT=uint8, beside the engine of before."""
    from runtime.backends import open_backend

    said: List[str] = []
    backend.TensorRt(artifact(folder, "fp32"), trt.__name__, say=said.append).close()
    (folder / "lite0.fp32.onnx").unlink()
    os.link(pixel_model, folder / "lite0.fp32.onnx")
    with pytest.raises(UserError, match=r"lite0.fp32.onnx has changed since it was built"):
        backend.TensorRt(artifact(folder, "fp32"), trt.__name__, Engines(rebuild=False))
    running = backend.TensorRt(artifact(folder, "fp32"), trt.__name__, say=said.append)
    assert len(said) == 2 and "has changed since" in said[1]
    header = json.loads(running.engine.read_bytes().split(b"\n")[1])
    assert all(
        [shape[1:] == [224, 224, 3] for shape in profile["pixels"]] == [True] * 3 for profile in header["profiles"]
    )
    squares = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    expected = open_backend(read_artifact(pixel_model), "onnxruntime").run(squares)
    np.testing.assert_allclose(running.run(squares), expected, rtol=1e-3, atol=1e-4)
    running.close()


def test_pixels_that_are_not_cast_first_are_refused(trt: Any, small_model: Path, folder: Path) -> None:
    """As TensorRT-RTX 1.7 does, and TensorRT's documentation of DataType.UINT8 says of every version."""
    graph, facts = unsealed(small_model)
    wrong = taking_pixels(graph, read_artifact(small_model).preprocessing, wrong_order=True)
    (folder / "lite0.fp32.onnx").unlink()
    (folder / "lite0.fp32.onnx").write_bytes(sealed(wrong, "fp32", {**facts, "input": "uint8"})[0])
    with pytest.raises(build.BuildError, match="has type UInt8 but must have type Float"):
        make_engine(artifact(folder, "fp32"), open_site(trt.__name__), BuildOptions("fp32"))


def test_threads_get_their_own_answers_in_every_version(trt: Any, folder: Path) -> None:
    running = backend.TensorRt(artifact(folder, "fp16"), trt.__name__, say=lambda _: None)
    images = [pictures(1) + i for i in range(4)]
    expected = [running.run(batch) for batch in images]
    with ThreadPoolExecutor(4) as pool:
        for got, answer in zip(pool.map(running.run, images * 4), expected * 4):
            np.testing.assert_array_equal(got, answer)
    assert 1 <= trt.living["IExecutionContext"] <= (2 if trt.__version__.startswith("8.") else 4)
    running.close()


def test_a_second_start_builds_nothing(trt: Any, folder: Path) -> None:
    said: List[str] = []
    for _ in range(2):
        backend.TensorRt(artifact(folder, "fp16"), trt.__name__, say=said.append).close()
    assert len(said) == 1 and "not there yet" in said[0]
    assert len(list(folder.glob("*.engine"))) == len(list(folder.glob("*.engine.json"))) == 1
    assert not list(folder.glob(".*"))  # nothing half written


@pytest.mark.skipif(os.name != "posix", reason="locks are those of POSIX")
@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_of_two_that_are_built_at_once_each_manifest_stays_with_its_engine(
    trt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, made = make_engine(artifact(folder, "fp16"), open_site(trt.__name__), BuildOptions("fp16"))
    write_whole, between, second = manifest.write_whole, threading.Event(), threading.Event()

    def slow(file: Path, content: bytes) -> None:
        write_whole(file, content)
        if content == b"first":
            between.set()
            second.wait(0.2)  # the second has all this time to come between the two

    def write(content: bytes) -> None:
        manifest.write_engine(path, content, made._replace(engine_sha256=hashlib.sha256(content).hexdigest()))
        if content == b"second":
            second.set()

    monkeypatch.setattr(manifest, "write_whole", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write, b"first")
        assert between.wait(120)
        pool.submit(write, b"second").result(120)
        first.result(120)
    assert path.read_bytes() == b"second"
    assert manifest.read_manifest(path).engine_sha256 == hashlib.sha256(b"second").hexdigest()


def changed(folder: Path, trt: Any, **values: Any) -> Path:
    """An engine of FP16 whose manifest says otherwise in `values`."""
    site = open_site(trt.__name__)
    path, made = make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16", Batch(1, 4, 4)))
    manifest.write_engine(path, path.read_bytes(), made._replace(**values))
    return path


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"version": "8.5.3.1"}, "built by TensorRT 8.5.3.1, and this is TensorRT 10.3.0"),
        ({"module": "tensorrt_rtx"}, "built by TensorRT-RTX"),
        ({"capability": "sm_87"}, "built for sm_87, and this GPU is sm_89"),
        ({"onnx_sha256": "0" * 64}, "lite0.fp16.onnx has changed"),
        ({"engine_sha256": "0" * 64}, "not what its manifest says"),
    ],
)
def test_what_does_not_fit_is_built_anew_with_the_reason_before_tensorrt_sees_it(
    trt: Any, folder: Path, values: Any, reason: str
) -> None:
    path = changed(folder, trt, **values)
    trt.calls.clear()
    with pytest.raises(UserError, match=reason):
        backend.TensorRt(artifact(folder, "fp16"), trt.__name__, Engines(rebuild=False))
    assert ("Runtime", "deserialize_cuda_engine") not in trt.calls
    said: List[str] = []
    running = backend.TensorRt(artifact(folder, "fp16"), trt.__name__, say=said.append)
    running.close()
    assert len(said) == 1 and reason in said[0]
    assert manifest.read_manifest(path).options.batch == Batch(1, 4, 4)  # built with the options it had


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_an_engine_that_tensorrt_refuses_is_built_anew(trt: Any, folder: Path) -> None:
    path = changed(folder, trt)
    content = path.read_bytes().replace(b"SM89", b"SM75")  # TensorRT notices what the manifest does not
    made = manifest.read_manifest(path)
    sha256 = hashlib.sha256(content).hexdigest()
    manifest.write_engine(path, content, made._replace(engine_sha256=sha256))
    with pytest.raises(UserError, match="refuses lite0.fp16.*built for"):
        backend.TensorRt(artifact(folder, "fp16"), trt.__name__, Engines(rebuild=False))
    said: List[str] = []
    running = backend.TensorRt(artifact(folder, "fp16"), trt.__name__, say=said.append)
    assert running.run(pictures(1)).shape == (1, 1000) and "refuses" in said[0]
    running.close()


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
@pytest.mark.parametrize("damage", [None, b"", b"{}", b"[1]", b'{"schema": 2}', b"\xff\xfe"])
def test_an_engine_without_a_whole_manifest_is_code_of_unknown_origin(trt: Any, folder: Path, damage: Any) -> None:
    path = changed(folder, trt)
    if damage is None:
        manifest.manifest_path(path).unlink()
    else:
        manifest.manifest_path(path).write_bytes(damage)
    trt.calls.clear()
    with pytest.raises(UserError, match="manifest|damaged"):
        backend.TensorRt(artifact(folder, "fp16"), trt.__name__, Engines(path))
    assert ("Runtime", "deserialize_cuda_engine") not in trt.calls
    running = backend.TensorRt(artifact(folder, "fp16"), trt.__name__, Engines(path, trust=True))
    assert running.run(pictures(1)).shape == (1, 1000)
    running.close()


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_an_engine_given_by_name_knows_its_onnx(trt: Any, folder: Path) -> None:
    path = changed(folder, trt)
    assert artifact_of(path).path == folder / "lite0.fp16.onnx"
    manifest.manifest_path(path).unlink()
    assert artifact_of(path).path == folder / "lite0.fp16.onnx"
    (folder / "lite0.fp16.onnx").unlink()
    with pytest.raises(UserError, match="not beside it"):
        artifact_of(path)


def test_without_the_fitting_artifact_it_says_what_to_make(trt: Any, folder: Path) -> None:
    for file in folder.glob("*int8*"):
        file.unlink()
    site = open_site(trt.__name__)
    with pytest.raises(UserError, match="make calibrate VARIANT=lite0"):
        make_engine(artifact(folder, "fp32"), site, BuildOptions("int8"))


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_a_damaged_artifact_is_not_built(trt: Any, folder: Path) -> None:
    file = folder / "lite0.fp16.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # a weight: TensorRT would not notice
    file.unlink()  # the other tests' file too
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        make_engine(artifact(folder, "fp16"), open_site("tensorrt"), BuildOptions("fp16"))
    assert not list(folder.glob("*.engine*"))


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_a_timing_cache_is_kept_and_reused(trt: Any, folder: Path) -> None:
    site = open_site(trt.__name__)
    make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16"))
    first = trt.timed
    assert first > 0 and len(list(folder.parent.glob("timing.*.cache"))) == 1
    make_engine(artifact(folder, "fp32"), site, BuildOptions("fp32"))
    assert trt.timed == 0
    next(folder.parent.glob("timing.*.cache")).write_bytes(b"from another machine")
    make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16"))
    assert trt.timed == first


@pytest.mark.parametrize("version", ["8.5.3", "10.3.0"], indirect=True)
def test_dla_lists_what_falls_back(trt: Any, folder: Path) -> None:
    trt.dla_cores, site = 2, open_site(trt.__name__)
    options = BuildOptions("fp16", Batch(4, 4, 4), dla=1)
    _, made = make_engine(artifact(folder, "fp16"), site, options)
    assert "/classifier/Gemm" in made.fallbacks and made.options.dla == 1
    for wrong, reason in (
        (options._replace(dla=2), "no DLA core 2: this machine has 2"),
        (options._replace(precision="int8"), "needs PRECISION=fp16"),
        (options._replace(batch=Batch(1, 1, 8)), "needs one batch size"),
    ):
        with pytest.raises(UserError, match=reason):
            make_engine(artifact(folder, wrong.precision), site, wrong)


def test_what_a_generation_cannot_do_is_said(trt: Any, version: str, folder: Path) -> None:
    site = open_site(trt.__name__)
    row = site.generation
    if not row.targets:
        with pytest.raises(UserError, match="needs TensorRT-RTX"):
            make_engine(artifact(folder, "fp32"), site, BuildOptions("fp32", target="sm_89"))
    if not row.dla:
        with pytest.raises(UserError, match="no DLA"):
            make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16", Batch(1, 1, 1), dla=0))
    if not row.opt_level:
        with pytest.raises(UserError, match="no optimisation levels"):
            make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16", opt_level=3))
    with pytest.raises(UserError, match="optimisation level 9"):
        make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16", opt_level=9))


def test_options_reach_tensorrt(trt: Any, folder: Path) -> None:
    site = open_site(trt.__name__)
    level = 5 if site.generation.opt_level else None
    make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16", workspace=1 << 28, opt_level=level))
    members = {member for _, member in trt.calls}
    assert "set_memory_pool_limit" in members and ("builder_optimization_level" in members) == (level is not None)


@pytest.mark.parametrize("version", ["rtx-1.7.1"], indirect=True)
def test_rtx_builds_for_another_gpu(trt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_library", lambda: (None, "no driver"))
    site = open_site("tensorrt_rtx", "sm_120")
    path, made = make_engine(artifact(folder, "int8"), site, BuildOptions("int8", target="sm_120"))
    assert path.name == "lite0.int8.rtx-sm120.engine" and made.capability == "sm_120" and made.gpu == ""
    with pytest.raises(UserError, match="can't build for sm_87: it knows sm_75.*A Jetson builds its own"):
        open_site("tensorrt_rtx", "sm_87")
    with pytest.raises(UserError, match="there is none. no driver"):
        open_site("tensorrt_rtx")


def targets_of(path: Path) -> List[str]:
    """The GPUs that the FAKE built the engine `path` for; none: for any since Ampere."""
    return list(json.loads(path.read_bytes().split(b"\n")[1])["targets"])


@pytest.mark.parametrize("version", ["rtx-1.7.1"], indirect=True)
@pytest.mark.parametrize("capability", [(8, 6), (7, 5)])
def test_rtx_without_a_target_builds_for_the_gpu_that_is_here(trt: Any, folder: Path, capability: Any) -> None:
    """Its own default is any GPU since Ampere, which a Turing GPU can't run."""
    trt.device.capability, sm = capability, f"{capability[0]}{capability[1]}"
    path, made = make_engine(artifact(folder, "fp16"), open_site("tensorrt_rtx"), BuildOptions("fp16"))
    assert path.name == f"lite0.fp16.rtx-sm{sm}.engine" and targets_of(path) == [f"SM{sm}"]
    assert made.capability == f"sm_{sm}" and made.options.target is None


@pytest.mark.parametrize("version", ["rtx-1.7.1"], indirect=True)
@pytest.mark.parametrize("capability", [(8, 7), (9, 0)])
def test_rtx_refuses_a_gpu_that_it_does_not_list(trt: Any, capability: Any) -> None:
    trt.device.capability = capability
    sm = f"sm_{capability[0]}{capability[1]}"
    with pytest.raises(UserError, match=rf"can't build for {sm}: it knows sm_75, sm_80, .*sm_121\."):
        open_site("tensorrt_rtx")


@pytest.mark.parametrize("version", ["rtx-1.7.1"], indirect=True)
def test_a_portable_engine_runs_on_what_it_is_for(trt: Any, folder: Path) -> None:
    path, made = make_engine(
        artifact(folder, "fp16"), open_site("tensorrt_rtx", "any"), BuildOptions("fp16", target="any")
    )
    assert path.name == "lite0.fp16.rtx-any.engine" and made.capability == "any"
    assert made == manifest.read_manifest(path)
    said: List[str] = []
    running = backend.TensorRt(artifact(folder, "fp16"), "tensorrt_rtx", Engines(rebuild=False), said.append)
    assert running.engine == path and running.run(pictures(1)).shape == (1, 1000)
    running.close()
    trt.device.capability = (7, 5)
    with pytest.raises(UserError, match=r"built for GPUs from Ampere \(sm_80\) on, and this GPU is sm_75"):
        backend.TensorRt(artifact(folder, "fp16"), "tensorrt_rtx", Engines(path))


@pytest.mark.parametrize("version", ["rtx-1.7.1"], indirect=True)
def test_rtx_compiles_an_engines_kernels_once(trt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_LONG", 0.0)
    kept = folder / "lite0.fp16.rtx-sm89.engine.kernels"

    def compiled(*counts: int) -> Tuple[int, List[str]]:
        """Runs that had to compile, and what was said of them."""
        said: List[str] = []
        running, trt.compiled = backend.TensorRt(artifact(folder, "fp16"), "tensorrt_rtx", say=said.append), 0
        for count in counts:
            running.run(pictures(count))
        running.close()
        return trt.compiled, [line for line in said if "compiled kernels" in line]

    make_engine(artifact(folder, "fp16"), open_site("tensorrt_rtx"), BuildOptions("fp16"))
    first, said = compiled(1, 1, 2)
    assert first == 2 and len(said) == 2 and said[0].endswith(f"kept in {kept.name} for the next time")
    assert compiled(1, 2) == (0, [])
    assert compiled(2, 3)[0] == 1 and compiled(1, 2, 3)[0] == 0
    for damage in (b"", b"{}\nFAKE KERNELS\n[[1, 3, 224, 224]]", kept.read_bytes()[:-1], kept.read_bytes() + b" "):
        kept.write_bytes(damage)
        assert compiled(1)[0] == 1 and compiled(1)[0] == 0
    trt.device.name = "NVIDIA Other 4080"  # kernels of one GPU are not another's
    assert compiled(1)[0] == 1
    make_engine(artifact(folder, "fp16"), open_site("tensorrt_rtx"), BuildOptions("fp16", Batch(1, 1, 4)))
    assert compiled(1)[0] == 1  # nor are those of another engine
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("Skipping tactic 3 due to insufficient memory on requested size", "not enough memory: .*WORKSPACE"),
        ("Could not find any implementation for node /stem/conv", "want of memory"),
        ("No importer registered for op: FancyOp", "it has no operator FancyOp"),
        ("something new", "It says: something new"),
    ],
)
@pytest.mark.parametrize("version", ["8.5.3", "10.3.0"], indirect=True)
def test_refusals_come_out_in_words(trt: Any, folder: Path, said: str, meaning: str) -> None:
    trt.faults["Builder.build_serialized_network"] = said
    site = open_site(trt.__name__)
    with pytest.raises(build.BuildError, match=meaning):
        make_engine(artifact(folder, "fp16"), site, BuildOptions("fp16"))
    assert not list(folder.glob("*.engine*"))


@pytest.mark.parametrize("version", ["8.5.3", "10.16.1", "rtx-1.7.1"], indirect=True)
def test_int8_is_timed_against_fp16(trt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "WARM", 1)
    monkeypatch.setattr(compare, "ROUNDS", 5)  # the fake runs real networks on the CPU
    site = open_site(trt.__name__)
    options = BuildOptions("int8", Batch(1, 1, 2))
    make_engine(artifact(folder, "int8"), site, options)
    source = artifact(folder, site.generation.source("int8"))
    lines = compare.compare_with_fp16(source, site, options)
    assert "INT8" in lines[0] and "FP16" in lines[0] and (folder / f"lite0.fp16.{site.slug}.engine").is_file()


def test_verdict_and_blame() -> None:
    assert "1.50 times as fast" in compare.verdict({"int8": 1.0, "fp16": 1.5}, 1)[0]
    assert "SLOWER" in compare.verdict({"int8": 1.5, "fp16": 1.0}, 8)[0]
    assert "no faster" in compare.verdict({"int8": 1.0, "fp16": 1.01}, 1)[0]
    int8 = {"/a/conv/Conv + PWN(/a/Sigmoid)": 0.1, "/b/conv/Conv || /c/conv/Conv": 0.4, "Reformatting CopyNode 1": 0.05}
    fp16 = {"/a/conv/Conv": 0.2, "/b/conv/Conv": 0.1, "/c/conv/Conv": 0.25}
    lines = compare.blame(int8, fp16)
    assert len(lines) == 2 and "/b/conv/Conv 0.200 ms, 0.100" in lines[0] and "0.050 ms" in lines[1]
    assert "fused" in compare.blame({"__myl_1": 1.0}, {"__myl_1": 1.0})[0]


def test_options_as_people_write_them() -> None:
    assert parse_batch("8") == Batch(8, 8, 8) and parse_batch("1,8,32") == Batch(1, 8, 32)
    assert parse_size("512M") == parse_size("512 MiB") == 512 << 20 and parse_size("2g") == 2 << 30
    assert {parse_target(text) for text in ("sm_89", "sm89", "SM_89", "89", "8.9")} == {"sm_89"}
    assert parse_target("12.0") == "sm_120"
    for parse, wrong in (
        (parse_batch, "8,4,2"),
        (parse_batch, "0"),
        (parse_batch, "a"),
        (parse_size, "0M"),
        (parse_size, "lots"),
        (parse_target, "ada"),
    ):
        with pytest.raises(UserError):
            parse(wrong)


def test_every_supported_version_has_its_row() -> None:
    assert generation("tensorrt", "8.6.1") is GENERATIONS[1] and generation("tensorrt", "10.3.0") is GENERATIONS[2]
    assert (
        generation("tensorrt", "10.13.3") is GENERATIONS[3]
        and generation("tensorrt", "10.16.1.11") is GENERATIONS[4]
        and generation("tensorrt", "11.4.0.106") is GENERATIONS[5]
    )
    with pytest.raises(UserError, match="8.4.1 is too old: the first .* 8.5"):
        generation("tensorrt", "8.4.1")


def building(folder: Path) -> manifest.Manifest:
    wanted = manifest.Wanted(folder / "lite0.fp16.onnx", "", "tensorrt", "10.3.0", "sm_89")
    return builder_process.build_engine(
        folder / "x.engine", wanted, BuildOptions(), BuildOptions(), "", folder / "timing.cache"
    )[0]


def with_builder(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`code` in the builder's process, in place of `build`."""
    popen = builder_process.subprocess.Popen
    monkeypatch.setattr(
        builder_process.subprocess, "Popen", lambda command, **rest: popen([sys.executable, "-c", code], **rest)
    )


def test_a_builder_that_is_killed_for_memory_ends_in_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_builder("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", monkeypatch)
    with pytest.raises(build.BuildError, match="killed, most likely because memory ran out.*WORKSPACE"):
        building(folder)
    assert not list(folder.glob("*engine*"))


NOISY = """
import os, pathlib, sys
print("a site hook says hello")
sys.stdout.flush()
from runtime.backends.tensorrt import build
def noisy(trt, row, onnx, *rest):
    os.write(1, b"[TRT] a native library prints where it pleases\\n")
    print("and so does a plugin")
    return build.Built(b"the engine", b"", {}, {}, [], [])
build.load = lambda module: (type("trt", (), {"__version__": "10.3.0"}), None)
build.build = noisy
sys.exit(build.main())
"""


def test_what_libraries_print_does_not_disturb_the_builder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_builder(NOISY, monkeypatch)
    made = building(folder)
    assert (folder / "x.engine").read_bytes() == b"the engine" and made.version == "10.3.0"
    printed = capfd.readouterr()
    assert not printed.out
    for line in ("a site hook says hello", "[TRT] a native library prints where it pleases", "and so does a plugin"):
        assert line in printed.err


def test_a_binding_that_breaks_while_building_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = NOISY.replace("return build.Built(", "raise TypeError('incompatible function arguments'); (")
    with_builder(code, monkeypatch)
    with pytest.raises(
        build.BuildError, match=r"TensorRT failed while building \(TypeError: incompatible func"
    ) as caught:
        building(folder)
    assert caught.value.status == 1 and not list(folder.glob("*engine*"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_the_builders_memory_is_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ru_maxrss survives exec, so a child of a large process would report that one's peak."""
    with_builder(NOISY, monkeypatch)
    large = bytearray(300 << 20)
    large[:: 1 << 12] = b"x" * len(large[:: 1 << 12])
    assert 0 < building(folder).peak_memory < 250 << 20


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.backends.tensorrt import generations

    monkeypatch.setattr(generations, "installed", lambda _: False)
    with pytest.raises(UserError, match="tensorrt is not installed. On a Jetson it comes with JetPack"):
        generations.load("tensorrt")
