"""The wheel: what `pip install efficientnet-edge` gives on the Pythons of devices, with no checkout in sight."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, List

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = os.environ.get("EFFICIENTNET_TEST_PYTHONS", "")
VERSIONS = ("3.8", "3.12")  # of JetPack 5 and 7; one file is for all that lie between
CORGI = ROOT / "tests" / "data" / "corgi.jpg"
TWO_THREADS = """
import sys, threading
from efficientnet_edge import Classifier
classify, found = Classifier(sys.argv[1]), []
threads = [threading.Thread(target=lambda: found.append(classify(sys.argv[2])[0].index)) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(found)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git would hand out, since setuptools leaves its own folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "runtime",
            "setup.py",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(folder / "source"),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("efficientnet_edge-*-py3-none-any.whl")
    return path


def test_it_holds_the_runtime_under_one_name_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0].partition("-")[0] for name in names}
    assert tops == {"efficientnet_edge"}
    inside = {path.relative_to(ROOT / "runtime").as_posix() for path in (ROOT / "runtime").rglob("*.py")}
    assert inside <= {name.partition("/")[2] for name in names}
    assert {"efficientnet_edge/py.typed", "efficientnet_edge/serve/page.html"} <= set(names)


class Installed:
    """The wheel installed for one Python, in a folder of its own."""

    def __init__(self, python: Path, version: str, wheel: Path, folder: Path) -> None:
        self.folder, self.python = folder, python
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--prefix", folder / "prefix", wheel]
        subprocess.run(list(map(str, install)), check=True, capture_output=True)
        packages = folder / "prefix" / "lib" / f"python{version}" / "site-packages"
        self.environment: Dict[str, str] = {**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """In an empty folder."""
        command: List[str] = list(map(str, arguments))
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.run(self.folder / "prefix" / "bin" / "efficientnet-edge", *arguments)


@pytest.fixture(scope="module", params=VERSIONS)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    python = Path(PYTHONS or "none") / f"python{request.param}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no environment of Python {request.param} (make test makes those it finds)")
    return Installed(python, request.param, wheel, tmp_path_factory.mktemp(f"python{request.param}"))


@pytest.fixture(scope="module")
def model() -> Path:
    folder = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to run (make test sets it)")
    return Path(folder).resolve() / "lite0" / "lite0.fp32.onnx"


def test_it_classifies_and_names_itself(installed: Installed, model: Path) -> None:
    done = installed.command("infer", CORGI, "--model", model, "--top", "1")
    assert done.returncode == 0 and "Cardigan, Cardigan Welsh corgi" in done.stdout, done.stderr
    assert installed.command("--version").stdout.startswith("efficientnet-edge 0.")
    assert installed.command("infer", "--version").stdout == installed.command("--version").stdout
    assert installed.command("engine", "--help").stdout.startswith("usage: efficientnet-edge engine ")
    wrong = installed.command("infre")
    assert wrong.returncode == 2 and "perhaps infer" in wrong.stderr
    assert "efficientnet-edge" in installed.command("doctor").stdout


def test_the_library_works_from_two_threads(installed: Installed, model: Path) -> None:
    done = installed.run(installed.python, "-c", TWO_THREADS, model, CORGI)
    assert done.stdout == "[264, 264]\n", done.stderr


def test_processes_that_it_starts_find_it_too(installed: Installed, model: Path) -> None:
    done = installed.command("bench", "--models", model, "--seconds", "0.2", "--json", "bench.json")
    assert done.returncode == 0, done.stderr
    assert '"load_ms"' in (installed.folder / "bench.json").read_text()  # from a process of its own
