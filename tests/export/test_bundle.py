"""The archive for a device: what is in it, what never gets into it, and that it runs where nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from export.bundle import PARTS, bundle
from runtime.artifacts.artifact import PRECISIONS, StaleError, artifact_path, read_artifact, sealed, set_latest
from runtime.artifacts.onnx_metadata import read_metadata
from runtime.backends.tensorrt.engine import engine_of
from runtime.backends.tensorrt.manifest import Manifest, engine_path, write_engine
from runtime.backends.tensorrt.options import BuildOptions
from runtime.backends.tensorrt.site import open_site
from runtime.errors import UserError
from tests.runtime.backends.test_tensorrt_build import install

REPOSITORY = Path(__file__).parents[2]
CORGI = REPOSITORY / "tests" / "data" / "corgi.jpg"
OLDEST = "3.8"  # JetPack 5's; 3.12 is JetPack 7's

FACTS = {
    "variant": "b1",
    "weights": "somebody's, found in the attic",
    "weights_sha256": "ab" * 32,
    "padding": "same",
    "batchnorm_epsilon": "0.001",
    "resolution": "240",
    "crop": "0.882",
    "interpolation": "bicubic",
    "mean": "[0.485, 0.456, 0.406]",
    "std": "[0.229, 0.224, 0.225]",
    "classes": "3",
    "labels": json.dumps(["Käfer", "two\nlines", "a beetle, or two"]),
}


# What another library lacks is no fault of the bundle's.
IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "runtime").startswith("runtime"):
            raise
"""


HELP_OF_ALL = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        if left.code:
            raise
"""


def write(folder: Path, precision: str, **changed: str) -> Path:
    """An artifact of b1 with FACTS, some of them `changed`."""
    path = artifact_path("b1", precision, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = b"\x08\x08\x3a" + bytes([len(precision)]) + precision.encode()  # ONNX as far as the wire format goes
    path.write_bytes(sealed(graph, precision, {**FACTS, **changed})[0])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Artifacts of b1 in every precision."""
    for precision in PRECISIONS:
        write(tmp_path / "artifacts", precision)
    set_latest("b1", tmp_path / "artifacts")
    return tmp_path / "artifacts"


def unpacked(path: Path, into: Path) -> Path:
    """The one folder that a bundle unpacks to."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    with tarfile.open(path) as archive:
        archive.extractall(into)
    (top,) = into.iterdir()
    return top


@pytest.mark.parametrize("precision", PARTS)
def test_holds_what_it_says_and_nothing_else(folder: Path, tmp_path: Path, precision: str) -> None:
    (REPOSITORY / "runtime" / "__pycache__").mkdir(exist_ok=True)
    path = bundle(None, precision, folder)
    assert path == folder / "b1" / f"b1.{precision}.bundle.tar.gz"
    with tarfile.open(path) as archive:
        entries = archive.getmembers()
    for entry in entries:
        assert (
            entry.isfile()
            and entry.mode == 0o644
            and (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "", "")
        )
        parts = entry.name.split("/")
        assert parts[0] == f"b1-{precision}" and ".." not in parts and "__pycache__" not in parts
    top = unpacked(path, tmp_path / "there")
    assert {p.name for p in (top / "artifacts" / "b1").iterdir()} == {f"b1.{part}.onnx" for part in PARTS[precision]}
    for part in PARTS[precision]:
        assert (top / "artifacts" / "b1" / f"b1.{part}.onnx").read_bytes() == artifact_path(
            "b1", part, folder
        ).read_bytes()
    assert {p.name for p in (top / "runtime").iterdir()} & {
        "serving",
        "sweep",
        "advise.py",
        "remote.py",
        "demo.py",
    } == set()
    for path in top.rglob("*.py"):
        assert path.read_bytes() == (REPOSITORY / path.relative_to(top)).read_bytes()
    assert (top / "labels.txt").read_text(encoding="utf-8") == "Käfer\ntwo lines\na beetle, or two\n"
    assert (top / "artifacts" / "latest").read_text() == f"b1 {precision}\n"
    assert (top / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()
    readme = (top / "README.md").read_text(encoding="utf-8")
    assert "found in the attic" in readme and "random" not in readme and "{" not in readme
    every = {p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()}
    assert every == {line.split("  ", 1)[1] for line in (top / "SHA256SUMS").read_text().splitlines()} | {"SHA256SUMS"}


def test_random_weights_are_called_so(folder: Path, tmp_path: Path) -> None:
    for precision in PARTS["fp16"]:
        write(folder, precision, weights_sha256="")
    assert (
        "classes mean nothing" in (unpacked(bundle("b1", "fp16", folder), tmp_path / "there") / "README.md").read_text()
    )


def test_same_files_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = bundle("b1", "int8", folder).read_bytes()
    again = tmp_path / "elsewhere"
    shutil.copytree(folder, again)  # other times
    set_latest("b0", again)
    done = subprocess.run(
        [sys.executable, "-m", "export.bundle", "--variant", "b1", "--precision", "int8", "--artifacts", again],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        umask=0o077,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "cd b1-int8 && python3 -m runtime.infer" in done.stdout
    assert (again / "b1" / "b1.int8.bundle.tar.gz").read_bytes() == first


def test_another_content_has_another_time(folder: Path) -> None:
    """Python runs a .pyc as long as size and time of its source fit: unpacking a newer bundle must not leave the old code."""

    def time_of_labels() -> int:
        with tarfile.open(bundle("b1", "fp32", folder)) as archive:
            return int(archive.getmember("b1-fp32/labels.txt").mtime)

    before = time_of_labels()
    write(folder, "fp32", labels=json.dumps(["Kafer", "two lines", "a beetle, or twe"]))
    assert time_of_labels() != before


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="there is no sha256sum here")
def test_a_changed_byte_is_noticed(folder: Path, tmp_path: Path) -> None:
    top = unpacked(bundle("b1", "int8", folder), tmp_path / "there")
    check = ["sha256sum", "-c", "SHA256SUMS"]
    assert subprocess.run(check, cwd=top, capture_output=True).returncode == 0
    for name in ("artifacts/b1/b1.int8.onnx", "runtime/infer.py", "README.md", "artifacts/latest"):
        content = (top / name).read_bytes()
        (top / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        done = subprocess.run(check, cwd=top, capture_output=True, text=True)
        assert done.returncode == 1 and f"{name}: FAILED" in done.stdout
        (top / name).write_bytes(content)


def test_what_is_missing_damaged_or_of_another_network_is_refused(folder: Path) -> None:
    def refused(sentence: str, precision: str = "int8") -> None:
        with pytest.raises(UserError, match=sentence):
            bundle("b1", precision, folder)
        assert not list(folder.glob("b1/*.tar.gz")) and not list(folder.glob("b1/.*"))

    refused("no bundle for 'int4': choose fp32, fp16, int8", "int4")
    path = artifact_path("b1", "int8-fp16", folder)
    content = path.read_bytes()
    path.unlink()
    refused("There is no .*int8-fp16.onnx: run 'make calibrate VARIANT=b1'")
    path.write_bytes(content.replace(b"attic", b"attie"))
    refused("int8-fp16.onnx is damaged: its checksum does not fit")
    path.write_bytes(content)
    for fact in ("weights_sha256", "padding", "mean", "labels"):
        path = write(folder, "fp16", **{fact: FACTS[fact].replace("a", "b").replace("0.4", "0.5")})
        refused(
            f"fp16.onnx and b1.int8.onnx are not of the same network .their {fact} differ.*make calibrate VARIANT=b1"
        )


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lite0 with real weights; what is called INT8 here is the FP32 graph under that name."""
    exported = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not exported:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to run (make test sets it)")
    folder = tmp_path_factory.mktemp("lite0")
    shutil.copytree(Path(exported) / "lite0", folder / "lite0", ignore=shutil.ignore_patterns("*.tar.gz*"))
    source = artifact_path("lite0", "fp32", folder)
    metadata = read_artifact(source).metadata
    import onnx

    model = onnx.load(str(source))
    del model.metadata_props[:]
    for precision in ("int8", "int8-fp16"):
        artifact_path("lite0", precision, folder).write_bytes(sealed(model.SerializeToString(), precision, metadata)[0])
    return folder


def python_of(version: str) -> Path:
    """A Python with numpy, Pillow and onnxruntime, which make test sets up."""
    python = Path(os.environ.get("EFFICIENTNET_TEST_PYTHONS", ""), f"python{version}", "bin", "python3")
    if not python.is_file():
        pytest.skip(f"there is no environment of Python {version} (make test sets up those that are installed)")
    return python


@pytest.mark.parametrize(("version", "precision"), list(zip((OLDEST, "3.12", OLDEST), PARTS)))
def test_runs_where_nothing_else_is(lite0: Path, tmp_path: Path, version: str, precision: str) -> None:
    """The commands of its README, but for pip's."""
    python = python_of(version)
    top = unpacked(bundle("lite0", precision, lite0), tmp_path / "there")
    shutil.copy(CORGI, top / "photo.jpg")
    commands = (top / "README.md").read_text().split("```")[1].strip().splitlines()
    assert [command.split("#")[0].split()[:3] for command in commands] == [
        ["sha256sum", "-c", "SHA256SUMS"],
        ["python3", "-m", "pip"],
        ["python3", "-m", "runtime.infer"],
    ]
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }  # neither PYTHONPATH nor EFFICIENTNET_*

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", command], cwd=top, env=environment, capture_output=True, text=True, timeout=300
        )

    assert (
        "No module named 'export'" in run("python3 -c 'import export'").stderr
    )  # else it would be this folder that runs
    for command in (commands[0], commands[2]):
        done = run(command)
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split("  ")[-1] == "Cardigan, Cardigan Welsh corgi"
    told = json.loads(run("python3 -m runtime.infer --json photo.jpg").stdout)
    assert (told["variant"], told["precision"]) == ("lite0", precision)
    (top / "labels.csv").write_text("file,label\nphoto.jpg,264\n")
    judged = run("python3 -m runtime.evaluate --json --data .")
    assert json.loads(judged.stdout)["top1"] == 100, judged.stderr


def test_every_command_is_whole_and_offers_no_cluster(folder: Path, tmp_path: Path) -> None:
    """Nothing that a kept module imports at its start is left out, and what was left out is not in a command's help."""
    python = python_of(OLDEST)
    top = unpacked(bundle("b1", "fp32", folder), tmp_path / "there")
    modules = [p.relative_to(top).with_suffix("").as_posix().replace("/", ".") for p in top.rglob("*.py")]
    modules = [name for name in modules if not name.endswith(("builder_process", "__main__"))]  # these run at once
    done = subprocess.run([python, "-c", IMPORT_ALL, *modules], cwd=top, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = [f"runtime.{name}" for name in ("infer", "watch", "engine", "embed", "evaluate", "bench")]
    told = subprocess.run([python, "-c", HELP_OF_ALL, *commands], cwd=top, capture_output=True, text=True)
    assert told.returncode == 0 and told.stdout.count("usage:") == 6 and "--ray" not in told.stdout, told.stderr
    refused = subprocess.run([python, "-m", "runtime.infer", "a.jpg", "--ray"], cwd=top, capture_output=True, text=True)
    assert refused.returncode == 2 and "--ray" in refused.stderr


def test_pixels_are_told_and_not_mixed_with_floats(folder: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "int8-fp16"):
        write(folder, precision, input="uint8")
    readme = unpacked(bundle("b1", "fp16", folder), tmp_path / "there") / "README.md"
    assert "camera's own bytes, uint8 [N, H, W, 3]" in readme.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="not of the same network .their input differ.*make export.*make calibrate"):
        bundle("b1", "int8", folder)


# Timing caches, engines, signatures -----------------------------------------------------------------------------------


def test_holds_timing_caches_and_the_engine_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    cache = folder / "timing.orin-sm87.10.3.0.cache"
    cache.write_bytes(b"timings of an Orin")
    engine = engine_path(folder / "b1" / "b1.fp16.onnx", "b1", "fp16", "orin-sm87")
    for content, name in ((b"code", engine), (b"code", engine.with_name("b1.fp16.rtx-sm89.engine"))):
        sha256 = hashlib.sha256(content).hexdigest()
        options = BuildOptions("fp16")
        of = read_metadata(folder / "b1" / "b1.fp16.onnx")["sha256"]
        made = Manifest(sha256, 4, "b1.fp16.onnx", of, "tensorrt", "10.3.0", "sm_87", "Orin", options, 1.0, 0, {})
        write_engine(name, content, made)
    top = unpacked(bundle("b1", "fp16", folder), tmp_path / "on the device")
    assert (top / "artifacts" / cache.name).read_bytes() == b"timings of an Orin"
    assert not list(top.rglob("*.engine*"))
    top = unpacked(bundle("b1", "fp16", folder, engines="orin-sm87"), tmp_path / "on the device")
    inside = sorted(path.name for path in (top / "artifacts" / "b1").glob("*.engine*"))
    assert inside == ["b1.fp16.orin-sm87.engine", "b1.fp16.orin-sm87.engine.json"]
    for name in (cache.name, *(f"b1/{each}" for each in inside)):
        assert f"  artifacts/{name}\n" in (top / "SHA256SUMS").read_text()
    write_engine(engine, content, made._replace(onnx_sha256="0" * 64))
    with pytest.raises(StaleError, match="is stale: b1.fp16.onnx is not .* 'make engine VARIANT=b1 PRECISION=fp16'"):
        bundle("b1", "fp16", folder, engines="orin-sm87")
    engine.write_bytes(b"other code")
    with pytest.raises(UserError, match="is not what its manifest says"):
        bundle("b1", "fp16", folder, engines="orin-sm87")
    with pytest.raises(UserError, match="thor-sm110.engine is not there: build it on such a board"):
        bundle("b1", "fp16", folder, engines="thor-sm110")


def test_a_board_builds_with_the_bundles_timings(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the FAKE TensorRT: what one board has timed, another of its kind need not."""
    trt, timed = install("10.3.0", monkeypatch), []
    # A real network, as the fake reads it.
    linked = folder.parent / "linked"
    shutil.copytree(Path(os.environ["EFFICIENTNET_TEST_ARTIFACTS"]) / "lite0", linked / "lite0")

    def build(artifacts: Path) -> None:
        source = read_artifact(artifacts / "lite0" / "lite0.fp16.onnx")
        engine_of(source, open_site("tensorrt")).build(BuildOptions("fp16"))
        timed.append(trt.timed)

    build(linked)
    build(unpacked(bundle("lite0", "fp16", linked), tmp_path / "another board") / "artifacts")
    assert timed[0] > 0 and timed[1] == 0


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A private key; the public half is efficientnet-edge.pub beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    private = tmp_path / "bundle.key"
    for command in (
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private],
        ["openssl", "ec", "-in", private, "-pubout", "-out", tmp_path / "efficientnet-edge.pub"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private


def started(top: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.infer", "--help"]
    return subprocess.run(command, cwd=top, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


def test_a_signed_bundle_is_checked_before_it_starts(folder: Path, tmp_path: Path, keys: Path) -> None:
    def fresh(sign: Path | None = keys) -> Path:
        return unpacked(bundle("b1", "fp16", folder, sign), tmp_path / "device")

    top = fresh()
    assert "efficientnet-edge.pub" in (top / "README.md").read_text()
    (top / "runtime" / "errors.py").write_text((top / "runtime" / "errors.py").read_text() + "# changed\n")
    assert started(top).returncode == 0  # nobody asked for a check
    shutil.copy(tmp_path / "efficientnet-edge.pub", top.parent)
    done = started(top)
    assert done.returncode == 2 and "errors.py is not what the signed list says" in done.stderr
    for damaged, says in (
        ("artifacts/b1/b1.fp16.onnx", "b1.fp16.onnx is not what the signed list says"),
        ("SHA256SUMS", "The signature of"),
        ("SHA256SUMS.sig", "The signature of"),
    ):
        top = fresh()
        shutil.copy(tmp_path / "efficientnet-edge.pub", top.parent)
        assert started(top).returncode == 0
        content = bytearray((top / damaged).read_bytes())
        content[len(content) // 2] ^= 1
        (top / damaged).write_bytes(content)
        done = started(top)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    top = fresh(sign=None)
    shutil.copy(tmp_path / "efficientnet-edge.pub", top.parent)
    assert "is not a signed bundle" in started(top).stderr


def test_a_key_that_is_none_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "no.key").write_text("no key")
    with pytest.raises(UserError, match="openssl can't sign with .*no.key"):
        bundle("b1", "fp16", folder, tmp_path / "no.key")
