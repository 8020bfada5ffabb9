"""From the command line to an exported network with the user's classes, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from shlex import quote

import numpy as np
import pytest

import export.__main__
import models.finetune.__main__
from models.finetune.report import confusions, per_class
from models.variants import VARIANTS
from runtime import evaluate, infer
from tests.in_process import called
from tests.models.finetune.colours import QUICK, fill


def test_from_a_folder_to_an_answer_with_the_users_class_names(tmp_path, monkeypatch):
    """Names with blanks and scripts go through training, export, infer and evaluate; the page is whole."""
    monkeypatch.setitem(VARIANTS, "lite0", replace(VARIANTS["lite0"], width=0.25, depth=0.25))
    folder = fill(tmp_path / "my photos", 12, ("red", "<b>猫<i> two"))
    done = called(
        models.finetune.__main__.main, "--data", folder, *QUICK, "--epochs", "1", "--output", tmp_path / "out"
    )
    assert done.status == 0, done.err
    (hint,) = (line for line in done.out.splitlines() if line.startswith("Next"))
    assert hint.endswith(
        f"make export VARIANT=lite0 NAME=out WEIGHTS={quote(str(tmp_path / 'out' / 'lite0.safetensors'))}"
    )
    page = (tmp_path / "out" / "lite0.html").read_text(encoding="utf-8")
    Page().feed(page)
    assert "&lt;b&gt;猫" in page and "<b>猫" not in page and "http" not in page

    done = called(
        export.__main__.main,
        "--variant",
        "lite0",
        "--weights",
        tmp_path / "out" / "lite0.safetensors",
        "--artifacts",
        tmp_path / "a",
    )
    assert done.status == 0 and "named by the checkpoint" in done.out, done.err
    model = tmp_path / "a" / "lite0" / "lite0.fp32.onnx"
    done = called(infer.main, "--json", "--model", model, folder / "red" / "0.png")
    assert {each["label"] for each in json.loads(done.out)["predictions"]} == {"red", "<b>猫<i> two"}, done.err
    done = called(evaluate.main, "--model", model, "--data", folder, "--json")
    assert json.loads(done.out)["labelled"] == 24, done.err


class Page(HTMLParser):
    """Raises where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag in ("div", "table", "svg", "dl", "figure", "style", "p"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("div", "table", "svg", "dl", "figure", "style", "p"):
            assert self.open.pop() == tag


def test_wrong_use_is_a_sentence():
    done = called(models.finetune.__main__.main, "--weights", "random", "--data", "nowhere at all")
    assert done.status == 2 and done.err.startswith("error: There is no folder nowhere at all: DATA= names")


def test_precision_and_recall_by_hand():
    data = type("Data", (), {"classes": ["a", "b", "c"], "counts": lambda self: [5, 5, 5]})()
    truth, top = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    a, b, c = per_class(data, truth, top)
    assert (a["precision"], a["recall"]) == (100, pytest.approx(200 / 3)) and (b["precision"], b["recall"]) == (50, 100)
    assert c["val"] == 0 and c["recall"] is None
    assert confusions(data.classes, truth, top) == [{"is": "a", "taken_for": "b", "pictures": 1}]
