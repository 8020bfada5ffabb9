"""A model folder with its card: what the hub reads, what was measured and where, and nothing that nobody knows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from export.card import card, main
from export.model_card import origin_of
from models.checkpoints import CHECKPOINTS
from runtime.artifacts.artifact import Artifact, read_artifact, sealed, set_latest
from runtime.artifacts.model_path import model_file
from runtime.errors import UserError
from runtime.sweep.rows import write_rows
from tests.runtime.artifacts.test_artifact import FACTS, GRAPH
from tests.runtime.sweep.sweep_rows import report, row

hub = pytest.importorskip("huggingface_hub", reason="the hub's library is not installed (the extra named hub)")


def put(folder: Path, precision: str = "fp32", **facts: str) -> Artifact:
    path = folder / "b1" / f"b1.{precision}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name("b1.fp32.onnx")
    if precision != "fp32":
        facts["fp32_sha256"] = read_artifact(beside).metadata["sha256"]
    path.write_bytes(sealed(GRAPH, precision, {**FACTS, **facts})[0])
    set_latest("b1", folder)
    return read_artifact(path)


def metadata(folder: Path) -> hub.ModelCardData:
    return hub.ModelCard.load(folder / "README.md").data


def test_the_card_says_where_weights_are_from_and_what_was_measured_on_which_machine(tmp_path: Path) -> None:
    origin = {"hub": "timm/some_b1", "hub_revision": "0123456789" * 4, "licence": "apache-2.0"}
    fp32, int8 = put(tmp_path, **origin), put(tmp_path, "int8", **origin)
    rows = [
        row("b1", "int8", 12.5, 88.4, sha256=int8.metadata["sha256"], agreement=98.7),
        row("b1", "fp32", 99.9, 11.1, sha256="f" * 64),  # of another file
    ]
    write_rows(report(rows, machine={"cpu": "a CPU", "cores": 2, "node": "secret"}), tmp_path / "reports" / "one")
    folder = card(None, tmp_path, tmp_path / "reports")
    text, told = (folder / "README.md").read_text(encoding="utf-8"), metadata(folder)
    assert (told.base_model, told.license, told.base_model_relation) == ("timm/some_b1", "apache-2.0", "quantized")
    assert [(result.metric_value, result.dataset_name) for result in told.eval_results] == [(88.4, "photos")]
    measured = (
        "| int8 | 88.4 (87.4 to 89.4), 500 images of photos | 98.7 | 12.50 | onnxruntime 1.31, CPU | a CPU, 2 cores |"
    )
    assert measured in text and "99.9" not in text and "secret" not in text
    assert origin["hub_revision"] in text and "as timm/some_b1 states" in text
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert all(sums[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums)
    assert set(sums) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines()[1] == "甲虫"
    assert model_file(folder, "int8") == folder / "b1.int8.onnx" and fp32.path.name in sums


def test_what_nobody_knows_is_not_in_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path)
    assert main(["--artifacts", str(tmp_path), "--reports", str(tmp_path / "none")]) == 0
    assert "LICENCE=" in capsys.readouterr().err
    told = metadata(tmp_path / "b1" / "card")
    assert told.license is None and told.base_model is None and not told.eval_results
    assert "has been measured" in (tmp_path / "b1" / "card" / "README.md").read_text()


def test_a_known_checkpoint_has_its_publishers_licence(tmp_path: Path) -> None:
    timm = next(each for each in CHECKPOINTS if each.name == "timm/tf_efficientnet_b1.aa_in1k")
    torchvision = next(each for each in CHECKPOINTS if each.name.startswith("torchvision/b1"))
    known = [origin_of(put(tmp_path, weights_sha256=each.sha256 + "0" * 56)) for each in (timm, torchvision)]
    assert [each[:2] for each in known] == [(timm.name, "apache-2.0"), ("", "bsd-3-clause")]
    assert origin_of(put(tmp_path), "mit").licence == "mit"


def test_what_the_user_wrote_stays_and_random_weights_get_no_card(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, "fp16")
    folder = card("b1", tmp_path)
    (folder / "photo.jpg").write_bytes(b"the user's")
    (tmp_path / "b1" / "b1.fp16.onnx").unlink()
    card("b1", tmp_path)
    assert (folder / "photo.jpg").is_file() and not (folder / "b1.fp16.onnx").exists()
    (folder / "README.md").write_text("my own words")
    with pytest.raises(UserError, match="was edited since: FORCE=1"):
        card("b1", tmp_path)
    assert (folder / "README.md").read_text() == "my own words"
    card("b1", tmp_path, replace=True)
    put(tmp_path, weights_sha256="")
    with pytest.raises(UserError, match="random weights"):
        card("b1", tmp_path, replace=True)
