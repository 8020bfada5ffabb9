"""Accuracy on labelled images: every way people keep labels, and figures that stay the same however they are reached."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Tuple

import numpy as np
import pytest

from runtime.artifacts.artifact import read_artifact
from runtime.errors import UserError
from runtime.evaluate import main
from runtime.measure.dataset import read_dataset
from runtime.networks.network import Network
from tests.in_process import called

REPOSITORY = Path(__file__).parents[2]
PICTURES = Path(__file__).parents[1] / "data"
CORGI, LIGHTHOUSE = 264, 437  # what the two images in tests/data show


@pytest.fixture(scope="module")
def folder() -> Path:
    if not os.environ.get("EFFICIENTNET_TEST_ARTIFACTS"):
        pytest.skip("EFFICIENTNET_TEST_ARTIFACTS is not set: no exported lite0 to run (make test sets it)")
    return Path(os.environ["EFFICIENTNET_TEST_ARTIFACTS"])


@pytest.fixture
def lite0(folder):
    return read_artifact(folder / "lite0" / "lite0.fp32.onnx")


@pytest.fixture
def evaluate(small_artifacts, tmp_path, monkeypatch):
    """Calls the command in this process, from a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(small_artifacts))
    return lambda *arguments: called(main, "--variant", "lite0", *arguments)


def started(tmp_path: Path, *arguments: object, program: Tuple[str, str] = ("-m", "runtime.evaluate")):
    """The command in a process of its own, from the folder and with the environment that `evaluate` has set."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *program, "--variant", "lite0", *map(str, arguments)]
    return subprocess.run(command, cwd=str(tmp_path), env=environment, capture_output=True, text=True, timeout=600)


def labelled(samples):
    return {os.path.basename(sample.path): sample.label for sample in samples}


@pytest.mark.parametrize(
    "names",
    [("264", "437"), ("n02113186", "n02814860"), ("Cardigan_Welsh_corgi", "beacon"), ("cardigan", "light_house")],
)
def test_a_folder_for_each_class_called_by_index_wnid_or_name(lite0, tmp_path, names):
    for name, picture in zip(names, ("corgi.jpg", "lighthouse.jpg")):
        (tmp_path / name / "more").mkdir(parents=True)
        shutil.copy(str(PICTURES / picture), str(tmp_path / name / "more"))
    if names[1] == "light_house":  # not a name that ImageNet has
        with pytest.raises(UserError, match="1 of 2 labels are not classes of lite0.fp32.onnx: light_house"):
            read_dataset(tmp_path, lite0)
    else:
        assert labelled(read_dataset(tmp_path, lite0)) == {"corgi.jpg": CORGI, "lighthouse.jpg": LIGHTHOUSE}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", "file,label,author\ncorgi.jpg,264,x\nlighthouse.jpg,437,y\n"),
        ("labels.csv", 'label,file\n"Cardigan, Cardigan Welsh corgi",corgi.jpg\nn02814860,lighthouse.jpg\n'),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\ncorgi,n02113186 1 2 3 4 n02113186 5 6 7 8 \nlighthouse,n02814860 9 9 9 9 \n",
        ),
        ("val.txt", "corgi.JPEG 264\nlighthouse.JPEG 437\n"),
    ],
)
def test_lists_of_labels_beside_the_pictures(lite0, tmp_path, file, text):
    for picture in ("corgi.jpg", "lighthouse.jpg"):
        shutil.copy(str(PICTURES / picture), str(tmp_path))
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert labelled(read_dataset(tmp_path, lite0)) == {"corgi.jpg": CORGI, "lighthouse.jpg": LIGHTHOUSE}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"labels.csv": "file,label\ncorgi.jpg,1001\n"}, "labels are not classes"),
        ({"labels.csv": "picture;class\ncorgi.jpg;1\n"}, "is no list of labels"),
        ({"labels.csv": "file,label\nelsewhere.jpg,1\n"}, "None of the files"),
        ({"val.txt": "490\n361\n171\n"}, "ILSVRC's ground truth has numbers of its own"),
        ({"train/tench/a.jpg": "", "val/tench/a.jpg": ""}, "give one of them"),
        ({"tench/a.jpg": "", "b.jpg": ""}, "images beside them"),
        ({"notes.md": ""}, "has no images"),
    ],
)
def test_what_can_not_be_meant_is_an_error(lite0, tmp_path, files, sentence):
    shutil.copy(str(PICTURES / "corgi.jpg"), str(tmp_path)) if "labels.csv" in files else None
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_dataset(tmp_path, lite0)


@pytest.mark.smoke
def test_figures_and_images_that_can_not_be_read(evaluate, tmp_path):
    for i in range(6):
        shutil.copy(str(PICTURES / "corgi.jpg"), str(tmp_path / f"corgi{i}.jpg"))
    shutil.copy(str(PICTURES / "lighthouse.jpg"), str(tmp_path / "light.jpg"))
    (tmp_path / "broken.jpg").write_bytes((PICTURES / "corgi.jpg").read_bytes()[:3000])
    rows = [f"corgi{i}.jpg,264" for i in range(5)] + [
        "corgi5.jpg,437",
        "light.jpg,437",
        "broken.jpg,1",
        "gone.jpg,1",
    ]
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(rows) + "\n")
    done = started(tmp_path, "--data", tmp_path, "--reference", "fp16", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["n"], result["labelled"], result["unreadable"]) == (7, 7, 2)
    assert result["top1"] == pytest.approx(600 / 7)
    assert result["top1_interval"][0] < 600 / 7 < result["top1_interval"][1]
    assert result["agreement"] == 100 and result["flipped"] == [] and 30 < result["sqnr_db"] < 80
    assert result["difference"] == 0
    assert not list((tmp_path / "reports").iterdir())


def test_pictures_without_labels_give_agreement_alone(evaluate, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(str(PICTURES / "corgi.jpg"), str(tmp_path / "data"))
    done = evaluate("--data", "data", "--precision", "fp32", "--reference", "fp16")
    assert done.status == 0, done.err
    assert "not measured: the images have no labels" in done.out and "agreement   100.0 % in top-1" in done.out


def test_labels_of_another_set_are_an_error_and_not_0_percent(evaluate, tmp_path):
    for i in range(70):
        shutil.copy(str(PICTURES / "corgi.jpg"), str(tmp_path / f"{i}.jpg"))
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{i}.jpg,{i % 10}\n" for i in range(70)))
    done = evaluate("--data", tmp_path)
    assert done.status == 2 and "another label set" in done.err
    assert evaluate("--data", tmp_path).status == 2  # nor does a second run take it for interrupted
    done = evaluate("--data", tmp_path, "--force", "--json")
    assert json.loads(done.out)["top1"] == 0


def test_labels_counted_from_1_are_an_error_that_says_so(evaluate, tmp_path):
    """With one hit among the first: the only class whose number is right so."""
    crops = tmp_path / "photos"
    crops.mkdir()
    for i in range(24):
        shutil.copy(str(PICTURES / ("corgi.jpg" if i % 2 else "lighthouse.jpg")), str(crops / f"{i}.jpg"))
    rows = [f"{i}.jpg,{(CORGI if i % 2 else LIGHTHOUSE) + (i > 0)}\n" for i in range(24)]
    (crops / "labels.csv").write_text("file,label\n" + "".join(rows))
    done = evaluate("--data", crops)
    assert done.status == 2 and not list((tmp_path / "reports").iterdir())
    assert re.search(r"counted from 1.* 4\.2% of 24 .* 95\.8% with 1 subtracted", done.err), done.err


def test_nan_and_infinity_are_failures_that_are_counted(evaluate, tmp_path, monkeypatch):
    """As an FP16 engine gives them for bright images: such an image has no class, and the exit status says it."""
    from PIL import Image

    network = Network.logits

    def overflowing(self: Network, batch: np.ndarray) -> np.ndarray:
        logits = network(self, batch).copy()
        bright = batch.reshape(len(batch), -1).mean(axis=1)
        logits[bright > 0.9] = np.nan
        logits[bright < -0.9, 5] = np.inf
        return logits

    monkeypatch.setattr(Network, "logits", overflowing)
    (tmp_path / "photos").mkdir()
    shutil.copy(str(PICTURES / "corgi.jpg"), str(tmp_path / "photos"))
    for name, grey in (("white", 255), ("black", 0)):
        Image.new("RGB", (64, 64), (grey,) * 3).save(str(tmp_path / "photos" / f"{name}.png"))
    (tmp_path / "photos" / "labels.csv").write_text("file,label\ncorgi.jpg,264\nwhite.png,0\nblack.png,0\n")
    done = evaluate("--data", "photos", "--json")
    result = json.loads(done.out, parse_constant=pytest.fail)
    assert done.status == 1
    assert (result["n"], result["not_finite"], result["unreadable"], result["top1"]) == (1, 2, 0, 100)
    done = evaluate("--data", "photos")
    assert done.status == 1 and "failed      2: the network's answer holds NaN or infinity" in done.out


# Killed when it tells of the 21st image, in the third batch: from within, so that it can't have ended before.
KILLED = """
import itertools, os, runpy, signal
from runtime import progress
told = itertools.count(1)
progress.Progress.__call__ = lambda *_, **__: next(told) < 21 or os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("runtime.evaluate", run_name="__main__", alter_sys=True)
"""


def test_an_interrupted_evaluation_goes_on_to_the_same_figures(evaluate, tmp_path):
    rows = []
    for i in range(40):
        name = f"{i}.jpg"
        shutil.copy(str(PICTURES / ("corgi.jpg" if i % 3 else "lighthouse.jpg")), str(tmp_path / name))
        rows.append((name, CORGI if i % 7 else LIGHTHOUSE))
    with open(str(tmp_path / "labels.csv"), "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    arguments = (
        "--data",
        tmp_path,
        "--reference",
        "fp16",
        "--backend",
        "onnxruntime",
        "--json",
    )  # auto may change its mind
    whole = json.loads(evaluate(*arguments, "--fresh").out)
    killed = started(tmp_path, *arguments, program=("-c", KILLED))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (journal,) = (tmp_path / "reports").glob(".evaluation*")
    assert len(journal.read_text().splitlines()) == 21
    done = evaluate(*arguments)
    assert "going on" in done.err
    again = json.loads(done.out)
    del whole["images_per_second"], again["images_per_second"]
    assert again == whole
