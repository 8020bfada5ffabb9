"""What the tests of bulk work share: images, what one machine says of them, a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from tests.fleet.nodes import ROOT, Done, Nodes, run

PICTURES = 150


@pytest.fixture(scope="session")
def model() -> Path:
    folder = os.environ.get("EFFICIENTNET_TEST_ARTIFACTS")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to run (make test-ray sets it)")
    return Path(folder).resolve() / "lite0" / "lite0.fp32.onnx"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuts of two images, each another; three that can't be read among them, the first image of all being one."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs") / "my photos"
    (folder / "sub").mkdir(parents=True)
    originals = [Image.open(ROOT / "tests" / "data" / f"{name}.jpg").convert("RGB") for name in ("corgi", "lighthouse")]
    for number in range(PICTURES):
        picture = originals[number % 2]
        picture = picture.resize((picture.width // 2, picture.height // 2))
        left = number * (picture.width // 3) // PICTURES
        cut = picture.crop((left, 0, left + 2 * picture.width // 3, picture.height))
        cut.save(folder / ("sub" if number % 5 == 0 else "") / f"p{number:03}.jpg", quality=85)
    (folder / "a first.jpg").write_text("no image")
    (folder / "p077.jpg").write_bytes((folder / "p078.jpg").read_bytes()[:2000])
    (folder / "sub" / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    return folder


@pytest.fixture(scope="session")
def alone(model: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """What one machine says."""
    done = run(tmp_path_factory.mktemp("alone"), "runtime.infer", photographs, "--json", "--model", model)
    assert done.status == 1 and len(done.out.splitlines()) == PICTURES + 2
    return done


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes with work, which stay."""
    cluster = Nodes(2)
    yield cluster
    cluster.stop()
