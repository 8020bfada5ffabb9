"""Names that steer a terminal, break a line or are no text: of files, folders and classes, in every command that prints any."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import export.stage
from models.labels import read_labels
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact, sealed
from runtime.errors import UserError
from runtime.printable import printable
from tests.attacks.test_onnx_outside import as_artifact
from tests.calibration.small_network import CLASSES, small_model, write_images
from tests.warm import command

CLEARS = "\x1b[2J\x1b]0;owned\x07"  # clears the screen, and renames the window
NAMES = {
    "escape": f"{CLEARS}.jpg".encode(),
    "newline": b"a\nerror: forged.jpg",
    "return": b"b\rforged.jpg",
    "c1": "\x9b2J.jpg".encode(),
    "no text": b"\xff\xfe.jpg",
    "right to left": "\u202egpj.exe.jpg".encode(),
    "option": b"--version.jpg",
}
STEERS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]")


def harmless(output: bytes) -> None:
    """Nothing but text and newlines, and no line that somebody else wrote."""
    assert not STEERS.search(output), output
    assert not re.search(rb"^(error: )?forged", output, re.MULTILINE), output
    assert b"Traceback" not in output, output


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that is fine under each name, and one that is damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    good = next(write_images(folder / "good", 1).iterdir()).read_bytes()
    for name in NAMES.values():
        for content, where in ((good, b"good"), (b"damaged", b"bad")):
            os.makedirs(os.fsencode(folder) + b"/" + where, exist_ok=True)
            with open(os.fsencode(folder) + b"/" + where + b"/" + name, "wb") as file:
                file.write(content)
    return folder


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)], ids=["text", "json", "csv"])
def test_infer(form: tuple[str, ...], artifact: Artifact, pictures: Path) -> None:
    ended = command("runtime.infer", pictures, "--model", artifact.path, "--backend", "onnxruntime", *form)
    harmless(ended.output)
    assert ended.status == 1 and ended.text.count("error: ") >= len(NAMES)
    if form == ("--json",):
        files = [json.loads(line)["file"] for line in ended.text.splitlines() if line.startswith("{")]
        assert len(files) == 2 * len(NAMES) + 1


def test_evaluate_and_its_flips(artifact: Artifact, pictures: Path, inside: Path) -> None:
    other = artifact_path("small", "fp16", inside / "artifacts")
    other.write_bytes(sealed(small_model(7).SerializeToString(), "fp16", artifact.metadata)[0])
    arguments = (
        "--data",
        pictures / "good",
        "--model",
        artifact.path,
        "--reference",
        other,
        "--backend",
        "onnxruntime",
    )
    for form in ((), ("--json",)):
        ended = command("runtime.evaluate", *arguments, *form)
        harmless(ended.output)
        assert ended.status == 0, ended.text
        assert "flipped" in ended.text


def test_calibration_and_its_page(artifact: Artifact, pictures: Path, inside: Path) -> None:
    folder = inside / "artifacts"
    ended = command("calibration", "--variant", "small", "--artifacts", folder, "--calib", pictures, "--threads", 1)
    harmless(ended.output)
    assert ended.status == 0 and "skipped" in ended.text, ended.text
    page = (folder / "small" / "small.calibration.html").read_bytes()
    assert b"\x1b" not in page


def test_bench(artifact: Artifact, pictures: Path) -> None:
    for where in ("good", "bad"):
        arguments = ("--images", pictures / where, "--seconds", "0.05", "--backend", "onnxruntime")
        ended = command("runtime.bench", "--models", artifact.path, *arguments)
        harmless(ended.output)


def test_an_artifact_under_such_a_name(artifact: Artifact, inside: Path) -> None:
    for kind, name in NAMES.items():
        path = Path(os.fsdecode(os.fsencode(inside) + b"/" + name.replace(b".jpg", b".onnx")))
        shutil.copy(artifact.path, path)
        ended = command("runtime.infer", "tests/data/corgi.jpg", "--model", path, "--backend", "onnxruntime")
        harmless(ended.output)
        assert ended.status == (2 if kind == "no text" else 0), ended.text  # onnxruntime takes text only
        path.write_bytes(b"damaged")
        ended = command("runtime.infer", "tests/data/corgi.jpg", "--model", path)
        harmless(ended.output)
        assert ended.status == 2 and "is not an ONNX file" in ended.text


def test_export_of_weights_under_such_a_name(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from export.__main__ import main

    def exported(request: export.stage.Request, folder: Path, say: object, *_: object) -> export.stage.Exported:
        say(f"reading weights: {request.weights.origin}")  # type: ignore[operator]
        return export.stage.Exported({}, [f"weights      {request.weights.origin}"])

    monkeypatch.setattr(export.stage, "export", exported)
    for name in NAMES.values():
        path = Path(os.fsdecode(os.fsencode(inside) + b"/" + name.replace(b".jpg", b".pth")))
        path.write_bytes(b"damaged")
        monkeypatch.setattr(
            sys, "argv", ["export", "--variant", "b0", "--weights", str(path), "--artifacts", str(inside)]
        )
        main()
        out, err = capfd.readouterr()
        harmless((out + err).encode("utf-8", "backslashreplace"))
        ended = command("export", "--variant", "b0", "--weights", path, "--artifacts", inside)
        harmless(ended.output)
        assert ended.status == 2 and "damaged" in ended.text
    assert "\\x1b[2J" in printable(CLEARS)


def test_a_weights_name_that_is_no_text_can_be_written_into_an_artifact(artifact: Artifact) -> None:
    content, _ = sealed(small_model().SerializeToString(), "fp32", {**artifact.metadata, "weights": "b0\udcff.pth"})
    artifact.path.write_bytes(content)
    assert read_artifact(artifact.path).weights == "b0\\udcff.pth"


@pytest.mark.parametrize("word", ["\x1b[2J", "a\x07b", "\x00", "x\x9b31m", "tab\x0bvertical"])
def test_a_labels_file_that_would_steer_the_terminal(word: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(f"cat\n{word}\ndog\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: .* control characters"):
        read_labels(path, 3)


def test_labels_that_are_just_unusual_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    names = ["Käfer, 甲虫", "tab\there", "می\u200cخواهم", "👩\u200d🔬", "a\u2028b"]
    path.write_text("\r\n".join(names) + "\n", encoding="utf-8", newline="")
    assert read_labels(path, 5) == names


def test_an_artifact_whose_classes_would_steer_the_terminal(artifact: Artifact, inside: Path) -> None:
    """Somebody else's artifact with a checksum that fits: its names are shown, escaped."""
    labels = json.dumps([f"{CLEARS}{i}\nerror: forged" for i in range(CLASSES)])
    as_artifact(replace(artifact, metadata={**artifact.metadata, "labels": labels, "weights": CLEARS}), small_model())
    (inside / CLEARS).mkdir()
    shutil.copy("tests/data/corgi.jpg", inside / CLEARS)
    for module, arguments in (
        ("runtime.infer", ("tests/data/corgi.jpg", "--model", artifact.path, "--backend", "onnxruntime")),
        ("runtime.infer", ("tests/data/corgi.jpg", "--model", artifact.path, "--backend", "onnxruntime", "--json")),
        ("runtime.evaluate", ("--data", inside, "--model", artifact.path, "--backend", "onnxruntime")),
        ("export.bundle", ("--variant", "small", "--precision", "fp32", "--artifacts", inside / "artifacts")),
    ):
        harmless(command(module, *arguments).output)
