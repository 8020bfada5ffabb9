"""Embeddings of images and the nearest of them, and networks of several outputs, on networks of a few nodes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest
from PIL import Image, ImageFont

from runtime import Embedder, Features, embed
from runtime.artifacts.artifact import read_artifact, sealed
from runtime.command import run
from runtime.errors import UserError
from runtime.images import find
from runtime.networks import contact_sheet, embeddings
from runtime.networks.contact_sheet import Cell
from runtime.networks.embeddings import Embeddings, Origin, nearest
from tests.runtime.artifacts.onnx_bytes import FLOAT, message, node, tiny_onnx, value_info
from tests.runtime.backends.fake_cuda import Library
from tests.runtime.backends.fake_tensorrt import build, fake_module
from tests.runtime.backends.test_tensorrt_runner import device_on, opened
from tests.runtime.conftest import DATA

SIDE, CHANNELS = 16, 24
FACTS = {
    "resolution": str(SIDE),
    "crop": "1.0",
    "interpolation": "bilinear",
    "mean": "[0.5, 0.5, 0.5]",
    "std": "[0.25, 0.25, 0.25]",
    "weights": "made for a test",
    "weights_sha256": "0" * 64,
}


def write_artifact(
    folder: Path, variant: str, graph: bytes, head: str, outputs: List[dict], precision: str = "fp32"
) -> Path:
    facts = {**FACTS, "variant": variant, "head": head, "outputs": json.dumps(outputs)}
    path = folder / variant / f"{variant}.{precision}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed(graph, precision, facts)[0])
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An embedding: what a dense layer makes of all pixels."""
    outputs = [{"name": "logits", "channels": CHANNELS, "stride": 0}]
    path = write_artifact(tmp_path / "artifacts", "b0-embedding", tiny_onnx(SIDE, CHANNELS), "embedding", outputs)
    (tmp_path / "artifacts" / "latest").write_text("b0-embedding\n")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images: two images, two that are nearly the first, one in grey, one that is damaged."""
    folder = tmp_path / "my photos"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(str(DATA / "corgi.jpg"), str(folder / "a corgi.jpg"))
    shutil.copy(str(DATA / "lighthouse.jpg"), str(folder / "deeper" / "灯台 маяк منارة.jpg"))
    corgi = Image.open(DATA / "corgi.jpg")
    corgi.resize((corgi.width // 3, corgi.height // 3)).save(folder / "deeper" / "corgi small.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: how phones write it
    corgi.transpose(Image.Transpose.ROTATE_90).save(folder / "phone.jpg", exif=exif, quality=95)
    Image.new("L", (50, 40), 128).save(folder / "grey.png")
    (folder / "broken.jpg").write_bytes((DATA / "corgi.jpg").read_bytes()[:2000])
    return folder


ORDER = ["a corgi.jpg", "broken.jpg", "grey.png", "phone.jpg", "deeper/corgi small.png", "deeper/灯台 маяк منارة.jpg"]


@pytest.fixture
def command(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> Any:
    """Runs the command as a process would -> (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EFFICIENTNET_ARTIFACTS", raising=False)

    def called(*arguments: object) -> Tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["embed", *map(str, arguments)])
        monkeypatch.setattr(find, "LEFT_OUT", find.LeftOut())  # a process of its own has its own
        with pytest.raises(SystemExit) as left:
            run(embed.main)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(left.value.code or 0), said.out, said.err

    return called


@pytest.mark.smoke
def test_a_row_for_each_image_in_order_and_a_word_for_each_that_failed(command: Any, photos: Path, model: Path) -> None:
    status, out, err = command("my photos", "--backend", "onnxruntime")
    assert status == 1 and "5 images, 24 values each, each of length 1" in out and "1 could not be embedded" in out
    assert [line for line in err.splitlines() if "broken.jpg" in line and line.startswith("error: ")]
    rows = np.load("embeddings.npy")
    facts = json.loads(Path("embeddings.npy.json").read_text())
    names = [os.path.join("my photos", *name.split("/")) for name in ORDER if name != "broken.jpg"]
    assert facts["files"] == names
    assert rows.shape == (5, CHANNELS) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    sha256 = read_artifact(model).metadata["sha256"]
    assert (facts["variant"], facts["precision"], facts["artifact_sha256"]) == ("b0-embedding", "fp32", sha256)
    alone = Embedder(model)
    np.testing.assert_allclose(rows, alone(names), atol=1e-5)
    np.testing.assert_allclose(rows[3], alone(names[3]), atol=1e-5)


def test_raw_is_what_the_network_gives(command: Any, photos: Path, model: Path) -> None:
    assert command("my photos/grey.png", "--raw", "--out", "raw.npy")[0] == 0
    embedder = Embedder(model)
    np.testing.assert_allclose(
        np.load("raw.npy"), embedder.logits(embedder.preprocess(["my photos/grey.png"])), rtol=1e-5
    )
    assert not Path("embeddings.npy").exists() and np.linalg.norm(np.load("raw.npy")) != pytest.approx(1)


def test_a_copy_is_nearest_and_the_image_itself_is_left_out(command: Any, photos: Path) -> None:
    status, out, _ = command("my photos", "--nearest", "my photos/a corgi.jpg", "--count", "3", "--json")
    found = json.loads(out)
    assert status == 1 and (found["embeddings"], found["failed"]) == (5, 1)
    names = [os.path.basename(each["file"]) for each in found["nearest"]]
    assert (
        set(names[:2]) == {"phone.jpg", "corgi small.png"} and len(names) == 3
    )  # turned by its EXIF, or it would be far
    similar = [each["similarity"] for each in found["nearest"]]
    assert similar == sorted(similar, reverse=True) and similar[1] > 0.9 > similar[2]
    assert not list(Path().glob("embeddings*"))  # a question leaves no files


def test_a_file_of_embeddings_answers_as_the_folder_did(
    command: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = command("my photos", "--out", "e.npy", "--nearest", DATA / "corgi.jpg", "--json")
    before = json.loads(out)["nearest"]
    assert before[0]["file"].endswith("a corgi.jpg") and before[0]["similarity"] > 0.9999  # a copy is a neighbour
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path / "my photos")  # names in the file are as seen from elsewhere
    status, out, _ = command("../e.npy", "--nearest", DATA / "corgi.jpg", "--picture", "sheet.png")
    assert status == 0 and [line.split(None, 1)[1] for line in out.splitlines()[1:-1]] == [
        each["file"] for each in before
    ]
    with Image.open("sheet.png") as sheet:
        colours = sheet.convert("RGB").getcolors(sheet.width * sheet.height)
    assert len(colours) > 5000  # images, found from here


def test_embeddings_of_another_artifact_are_refused(command: Any, photos: Path, model: Path) -> None:
    command("my photos/grey.png", "--out", "e.npy")
    outputs = [{"name": "logits", "channels": CHANNELS, "stride": 0}]
    other = write_artifact(Path("artifacts"), "b1-embedding", tiny_onnx(SIDE, CHANNELS), "embedding", outputs)
    status, _, err = command("e.npy", "--nearest", "my photos/grey.png", "--variant", "b1-embedding")
    assert status == 2 and "e.npy was made by b0-embedding fp32" in err and "can't be compared" in err
    os.replace(str(other), str(model))  # exported again, from other weights
    status, _, err = command("e.npy", "--nearest", "my photos/grey.png")
    assert status == 2 and "can't be compared" in err


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda: os.truncate("e.npy", 200), "does not belong to e.npy.json"),
        (lambda: os.unlink("e.npy.json"), "e.npy has no e.npy.json beside it"),
        (lambda: np.save("e.npy", np.zeros((1, 3), np.float32)), "does not belong to"),  # killed between the two files
        (lambda: Path("e.npy.json").write_text('{"schema": 1}'), "or is damaged"),
        (lambda: Path("e.npy.json").write_bytes(b"\xff\xfe"), "or is damaged"),
        (lambda: os.unlink("e.npy"), "There is no file e.npy"),
    ],
)
def test_damaged_embeddings_are_a_sentence(command: Any, photos: Path, harm: Any, sentence: str) -> None:
    command("my photos/grey.png", "--out", "e.npy")
    harm()
    status, _, err = command("e.npy", "--nearest", "my photos/grey.png")
    assert status == 2 and sentence in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "none of the images could be embedded"),
        (["my photos", "--out", "e.csv"], "neither a .npy nor a .parquet"),
        (["my photos", "--picture", "p.png"], "go with --nearest"),
        (
            ["my photos", "--nearest", "my photos/grey.png", "--picture", "p.tif"],
            "a contact sheet is written as one of",
        ),
        (
            ["my photos", "--nearest", "my photos/grey.png", "--picture", "p.png", "--count", "9999"],
            "too many for a contact",
        ),
        (["my photos", "--nearest", "nowhere.jpg"], "nowhere.jpg: cannot be opened"),
        (["my photos", "--nearest", "my photos/broken.jpg"], "truncated"),
        (["e.npy", "my photos", "--nearest", "x.jpg"], "it is the only source"),
        (["e.npy"], "holds embeddings already"),
        (["-"], "no name to find them by"),
        (["my photos", "--variant", "b1-embedding"], "make export VARIANT=b1-embedding"),
    ],
)
def test_wrong_use_is_a_sentence_and_writes_nothing(
    command: Any, photos: Path, arguments: List[str], sentence: str
) -> None:
    before = sorted(Path().rglob("*"))
    status, _, err = command(*arguments)
    assert status == (1 if arguments == ["nowhere"] else 2) and sentence in err
    assert sorted(Path().rglob("*")) == before


def test_a_classifier_is_refused_with_the_command_that_makes_the_embedding(command: Any, photos: Path) -> None:
    facts = {
        **FACTS,
        "variant": "lite0",
        "classes": str(CHANNELS),
        "labels": json.dumps(["x"] * CHANNELS),
        "wnids": "[]",
    }
    path = Path("artifacts/lite0/lite0.fp32.onnx")
    path.parent.mkdir()
    path.write_bytes(sealed(tiny_onnx(SIDE, CHANNELS), "fp32", facts)[0])
    Path("artifacts/latest").write_text("lite0\n")
    status, _, err = command("my photos")
    assert (
        status == 2
        and "'make export VARIANT=lite0 HEAD=embedding' makes the one" in err
        and "called lite0-embedding" in err
    )


def test_answers_beyond_the_precision_are_failures(command: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Embedder.logits
    monkeypatch.setattr(Embedder, "logits", lambda self, batch: np.where(whole(self, batch) > -1e9, np.inf, 0))
    status, _, err = command("my photos/grey.png")
    assert status == 1 and "answer to this image holds infinity" in err and not Path("embeddings.npy").exists()


def test_parquet_holds_the_same(command: Any, photos: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert command("my photos", "--out", "e.parquet", "--out", "e.npy", "--raw")[0] == 1
    columns, plain = embeddings.read(Path("e.parquet")), embeddings.read(Path("e.npy"))
    assert columns.files == plain.files and columns.origin == plain.origin and not columns.origin.unit
    np.testing.assert_array_equal(columns.rows, plain.rows)
    answers = [command(name, "--nearest", DATA / "corgi.jpg", "--json")[1] for name in ("e.parquet", "e.npy")]
    assert answers[0] == answers[1] and json.loads(answers[0])["nearest"][0]["similarity"] > 0.9999
    Path("e.parquet").write_bytes(Path("e.parquet").read_bytes()[:-9])
    assert "or is damaged" in command("e.parquet", "--nearest", DATA / "corgi.jpg")[2]


def test_without_pyarrow_the_work_does_not_begin(command: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = command("my photos", "--out", "e.parquet")
    assert status == 2 and "pip install pyarrow" in err and "broken.jpg" not in err


def test_nearest_is_the_cosine_whatever_the_lengths() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5000, 8)).astype(np.float32) * rng.uniform(0.01, 100, (5000, 1)).astype(np.float32)
    rows[7] = 0  # an image that nothing answers to
    query = rng.standard_normal(8).astype(np.float32)
    known = Embeddings([f"{i}.jpg" for i in range(5000)], rows, Origin("v", "fp32", "", "", False, "/nowhere"))
    wanted = (rows @ query) / np.maximum(np.linalg.norm(rows, axis=1), 1e-30) / np.linalg.norm(query)
    found = nearest(known, query, 5)
    assert [each.file for each in found] == [f"{i}.jpg" for i in np.argsort(-wanted)[:5]]
    np.testing.assert_allclose([each.similarity for each in found], np.sort(wanted)[::-1][:5], atol=1e-5)
    assert len(nearest(known, query, 9999)) == 5000 and all(
        -1 <= each.similarity <= 1 for each in nearest(known, query, 5000)
    )


@pytest.mark.parametrize("plain", [False, True])
def test_any_name_can_be_drawn(photos: Path, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:  # a Pillow without FreeType
        basic = (
            ImageFont.load_default_imagefont()
            if hasattr(ImageFont, "load_default_imagefont")
            else ImageFont.load_default()
        )
        monkeypatch.setattr(contact_sheet, "_own", lambda: [basic])
        monkeypatch.setattr(contact_sheet, "_system", lambda name: None)
    names = ["short.jpg", "x" * 300, "猫/кошка/قطة/🐈.jpg", "nul\0 and \x1b[31m.jpg", "\udcff\udcfe.jpg", ""]
    cells = [Cell(str(photos / "grey.png"), "0.500", name) for name in names]
    cells.append(Cell(str(photos / "gone.jpg"), "0.100", "gone.jpg"))
    for count in (0, 1, 7):
        for suffix in (".png", ".JPG"):
            content = contact_sheet.contact_sheet(cells[0], cells[:count], suffix)
            assert content[:4] == (b"\x89PNG" if suffix == ".png" else b"\xff\xd8\xff\xe0")


def pool(size: int, name: str) -> bytes:
    kernel, strides = (
        message((1, key), *((8, size) for _ in range(2)), (20, 7)) for key in ("kernel_shape", "strides")
    )
    return node("AveragePool", ["images"], name, kernel, strides)


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    """Two maps: means of 4 x 4 and of 8 x 8 pixels."""
    sizes = {"stride4": SIDE // 4, "stride8": SIDE // 8}
    graph = message(
        (1, pool(4, "stride4")),
        (1, pool(8, "stride8")),
        (2, "pyramid"),
        (11, value_info("images", FLOAT, ["N", 3, SIDE, SIDE])),
        *((12, value_info(name, FLOAT, ["N", 3, size, size])) for name, size in sizes.items()),
    )
    content = message((1, 8), (7, graph), (8, message((1, ""), (2, 17))))
    outputs = [{"name": name, "channels": 3, "stride": int(name[6:])} for name in sizes]
    return write_artifact(tmp_path, "b0-features", content, "features", outputs)


def means(batch: np.ndarray, size: int) -> np.ndarray:
    count = SIDE // size
    return batch.reshape(len(batch), 3, count, size, count, size).mean(axis=(3, 5))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_map_comes_by_its_name(pyramid: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with Features(pyramid, backend=backend) as features:
        images = [str(DATA / "corgi.jpg"), str(DATA / "lighthouse.jpg")]
        batch, found = features.preprocess(images), features(images)
        assert list(found) == ["stride4", "stride8"]
        for name, got in found.items():
            np.testing.assert_allclose(got, means(batch, int(name[6:])), atol=1e-5)
        with pytest.raises(UserError, match=r"takes a batch of float32 \[N, 3, 16, 16\].*Features.preprocess"):
            features.maps(batch[:, :, :8])


def test_maps_that_are_not_as_the_metadata_say_are_refused(pyramid: Path) -> None:
    outputs = [{"name": "stride4", "channels": 5, "stride": 4}]
    wrong = write_artifact(pyramid.parent, "b0-features", tiny_onnx(SIDE, 5), "features", outputs)
    with pytest.raises(UserError, match="it is damaged"):
        Features(wrong, backend="onnxruntime")
    for head, declared in (("features", []), ("embedding", outputs), ("nose", outputs), ("features", [{"name": "x"}])):
        with pytest.raises(UserError, match="damaged metadata"):
            read_artifact(write_artifact(pyramid.parent, "b0-x", tiny_onnx(SIDE, 5), head, declared))


@pytest.mark.parametrize("version", ["8.5.3", "10.3.0", "rtx-1.7.1"])
def test_an_engine_gives_every_map(pyramid: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a FAKE TensorRT: what the runner asks of it, and that each output has memory of its own."""
    batch = np.random.default_rng(0).standard_normal((7, 3, SIDE, SIDE)).astype(np.float32)
    trt = fake_module(version)
    for device in device_on(Library(), monkeypatch):  # which finds leaks
        runner = opened(trt, device, build(trt, pyramid.read_bytes(), batch=(1, 2, 4)))
        for _ in range(4):  # captured as a graph on the way
            found = dict(zip(runner.outputs, runner.run_all(batch)))
            for name, got in found.items():
                np.testing.assert_allclose(got, means(batch, int(name[6:])), atol=1e-5)
        np.testing.assert_array_equal(runner.run(batch), found[runner.outputs[0]])
        runner.close()
