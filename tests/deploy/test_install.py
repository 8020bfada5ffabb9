"""deploy/install.sh, as far as a Linux without a GPU can show: a bundle installed, updated, rolled back, run on onnxruntime."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.bundle import bundle

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the script is for Linux devices")


@pytest.fixture(scope="module")
def archive() -> Path:
    folder = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to bundle (make test sets it)")
    return bundle("lite0", "fp32", Path(folder).resolve())


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python3 for the script: its -m venv gives an environment that has this one's packages, so that nothing is fetched."""
    path = tmp_path_factory.mktemp("python") / "python3"
    path.write_text(
        f"""#!/bin/sh
if [ "$1 $2" != "-m venv" ]; then exec {sys.executable} "$@"; fi
mkdir -p "$4/bin" && printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > "$4/bin/python"
chmod +x "$4/bin/python"
"""
    )
    path.chmod(0o755)
    return path


def install(archive: Path, folder: Path, python: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
    command = ["sh", str(ROOT / "deploy" / "install.sh"), str(archive), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def first(archive: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "opt"
    done = install(archive, folder, python)
    assert done.returncode == 0, done.stderr
    assert "no TensorRT here: onnxruntime on the processor" in done.stdout
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """Where the bundle is installed."""
    return shutil.copytree(first, tmp_path / "opt", symlinks=True)


def recognised(folder: Path) -> str:
    command = [folder / "venv" / "bin" / "python", "-m", "runtime.infer", ROOT / "tests" / "data" / "corgi.jpg"]
    done = subprocess.run(command, cwd=folder / "current", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def another(archive: Path, folder: Path) -> Path:
    """The same bundle as another version: another date in gzip's header."""
    path = folder / archive.name
    content = bytearray(archive.read_bytes())
    content[4] ^= 1
    path.write_bytes(content)
    return path


def test_a_bundle_is_installed_updated_and_rolled_back(
    archive: Path, python: Path, folder: Path, tmp_path: Path
) -> None:
    first = "lite0.fp32-" + hashlib.sha256(archive.read_bytes()).hexdigest()[:8]
    assert os.readlink(folder / "current") == first and not (folder / "previous").exists()
    assert "Cardigan" in recognised(folder)
    assert install(archive, folder, python).returncode == 0 and not (folder / "previous").exists()  # again, the same

    update = another(archive, tmp_path)
    assert install(update, folder, python).returncode == 0
    assert os.readlink(folder / "previous") == first != os.readlink(folder / "current")
    rollback = re.search(r"^(ln -s.* mv -T .* current)", (ROOT / "docs" / "jetson.md").read_text(), re.MULTILINE)
    assert rollback, "docs/jetson.md has no rollback"
    subprocess.run(["sh", "-c", rollback[1]], cwd=folder, check=True)
    assert os.readlink(folder / "current") == first and "Cardigan" in recognised(folder)


def test_a_damaged_bundle_changes_nothing(archive: Path, python: Path, folder: Path, tmp_path: Path) -> None:
    before = os.readlink(folder / "current")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "xzf", archive, "-C", unpacked], check=True)
    (unpacked / "lite0-fp32" / "labels.txt").write_text("nonsense\n")
    damaged = tmp_path / "lite0.fp32.bundle.tar.gz"
    subprocess.run(["tar", "czf", damaged, "-C", unpacked, "lite0-fp32"], check=True)
    done = install(damaged, folder, python)
    assert done.returncode == 1 and "is damaged: copy it again" in done.stderr
    assert os.readlink(folder / "current") == before and not (folder / "previous").exists()


@pytest.mark.long
def test_a_bare_python_gets_all_that_is_missing(archive: Path, tmp_path: Path) -> None:
    """With pip, as in the containers: numpy, Pillow and onnxruntime come from the package index."""
    bare = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if bare is None:
        pytest.skip("no python3 of the system")
    done = install(archive, tmp_path / "opt", Path(bare))
    assert done.returncode == 0, done.stderr
    assert "Cardigan" in recognised(tmp_path / "opt")


@pytest.mark.parametrize("name", ["jetpack6", "arm64_or_desktop"])
def test_a_containers_steps_are_the_script(name: str) -> None:
    steps = (ROOT / "deploy" / f"{name}.Dockerfile").read_text().partition("\nFROM ")[2].splitlines()
    runs = [step for step in steps if step.startswith("RUN ")]
    assert len(runs) == 1 and runs[0].startswith(
        "RUN /tmp/bundle/install.sh /tmp/bundle/*.bundle.tar.gz /opt/efficientnet"
    )
    assert "COPY deploy/install.sh ${BUNDLE} /tmp/bundle/" in steps
