"""The training: that it learns, goes on after an interruption to the same bytes, and what it does with odd collections."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from models.finetune import augment, stage, train
from models.finetune.settings import PRESETS, Settings, settings_for
from models.finetune.stage import Request, finetune
from models.finetune.state import training_of
from models.network import EfficientNet
from models.reader import read_checkpoint
from models.variants import VARIANTS
from models.weights import Weights
from runtime.errors import UserError
from tests.models.finetune.colours import QUICK, fill
from tests.warm import Command

LITE0 = replace(VARIANTS["lite0"], width=0.25, depth=0.25)  # a block of each stage


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # several are slower at this size, and sum in another order
    yield
    torch.set_num_threads(before)


def request(folder: Path, output: Path, weights: Path | None = None, **given) -> Request:
    given = {"epochs": 2, "batch": 16, "policy": "randaugment", "mixup": 0.2, **given}
    where = Weights(weights, weights.name if weights else "random weights")
    return Request(folder, LITE0, where, output, overrides={"resolution": 32, "crop": 1.0}, given=given, device="cpu")


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    """A training from nothing that nobody disturbed."""
    return finetune(request(colours, tmp_path_factory.mktemp("undisturbed")))


def test_colours_are_learnt_from_nothing(colours, tmp_path):
    """As far as 48 steps go; tests/benchmarks/own_classes.py --digits goes all the way. Without what makes
    few steps a matter of luck: another processor rounds otherwise, and goes another way."""
    given = {
        "epochs": 8,
        "batch": 8,
        "policy": "none",
        "mixup": 0.0,
        "area": 0.6,
        "ema": 0.0,
        "lr": 3e-3,
        "patience": 99,
        "drop_path": 0.0,
        "dropout": 0.0,
    }
    finished = finetune(request(colours, tmp_path, **given))
    rows = json.loads((tmp_path / "lite0.json").read_text())["epochs"]
    last = sum(row["loss"] for row in rows[-3:]) / 3
    assert last < 0.75 * rows[1]["loss"] and max(row["top1"] for row in rows) > 40, rows
    assert any("WEIGHTS=" in line for line in finished.lines)


def test_the_checkpoint_says_how_to_run_it_and_how_it_was_made(trained, colours):
    with safe_open(trained.checkpoint, framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert recipe["labels"] == ["blue", "green", "red"] and recipe["resolution"] == 32 and recipe["crop"] == 1.0
    held = training_of(trained.checkpoint)
    assert held["settings"]["mixup"] == 0.2 and held["train"] == 48 and held["from"] == "nothing (random weights)"
    assert not (trained.checkpoint.parent / "lite0.training").exists()


def test_a_finished_training_is_not_repeated(trained, colours):
    before = trained.checkpoint.stat().st_mtime_ns
    again = finetune(request(colours, trained.checkpoint.parent))
    assert "trained already" in again.lines[0] and trained.checkpoint.stat().st_mtime_ns == before


class Pulled(Exception):
    """The plug."""


def test_goes_on_to_the_same_bytes(trained, colours, tmp_path, monkeypatch):
    """Stopped within the second epoch: after 4 steps of 6."""
    learn, taken = train.Training._learn, 0

    def learn_so_far(self, pixels, labels):
        nonlocal taken
        if taken == 4:
            raise Pulled
        taken += 1
        return learn(self, pixels, labels)

    monkeypatch.setattr(train, "_SAVE_EVERY", -1.0)  # after every step
    monkeypatch.setattr(train.Training, "_learn", learn_so_far)
    with pytest.raises(Pulled):
        finetune(request(colours, tmp_path))
    monkeypatch.setattr(train.Training, "_learn", learn)
    torch.manual_seed(99)
    said: list[str] = []
    finished = finetune(request(colours, tmp_path), say=said.append)
    assert said == ["going on with epoch 2, step 1 (FORCE=1 starts anew)"]
    assert finished.checkpoint.read_bytes() == trained.checkpoint.read_bytes()
    ours, theirs = (
        json.loads(path.with_suffix(".json").read_text()) for path in (finished.checkpoint, trained.checkpoint)
    )
    assert ours["epochs"] == theirs["epochs"]


def start(colours: Path, output: Path) -> Command:
    """A training that takes far longer than the test, once it has begun to learn."""
    options = (*QUICK, "--epochs", "300", "--policy", "none", "--patience", "300")
    command = Command("models.finetune", "--data", colours, *options, "--output", output)
    deadline = time.monotonic() + 300
    while not (output / "lite0.training").is_file():
        assert command.process.is_alive() and time.monotonic() < deadline, command.output.read_bytes()
        time.sleep(0.02)
    return command


def test_killed_it_leaves_whole_files(colours, tmp_path):
    command = start(colours, tmp_path)
    command.kill()
    command.wait()
    read_checkpoint(tmp_path / "lite0.safetensors")
    assert torch.load(tmp_path / "lite0.training", weights_only=True)["progress"]["rows"]


def test_ctrl_c_saves_and_says_how_to_go_on(colours, tmp_path):
    command = start(colours, tmp_path)
    os.kill(command.process.pid, signal.SIGINT)
    ended = command.wait(300)
    said = ended.text
    assert ended.status == 130 and "the same command goes on from there" in said and "Traceback" not in said
    assert f"The best network so far is {tmp_path / 'lite0.safetensors'}" in said
    torch.load(tmp_path / "lite0.training", weights_only=True)


def test_other_settings_start_anew_and_say_so(colours, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "write_report", lambda *_: (_ for _ in ()).throw(Pulled))
    with pytest.raises(Pulled):
        finetune(request(colours, tmp_path, epochs=0))
    said: list[str] = []
    with pytest.raises(Pulled):
        finetune(request(colours, tmp_path, epochs=0, smoothing=0.2), say=said.append)
    assert "of another training" in said[0]
    (tmp_path / "lite0.training").write_bytes(b"damaged")
    with pytest.raises(Pulled):
        finetune(request(colours, tmp_path, epochs=0), say=said.append)
    assert "is damaged" in said[-1]


def test_from_a_checkpoint_of_other_classes(trained, tmp_path):
    """Its classifier is replaced; the rest is what it starts from. With frozen parts, those stay bit for bit."""
    folder = fill(tmp_path / "data", 6, ("red", "green"))
    given = {"epochs": 1, "batch": 4, "frozen": 3, "head": 20, "policy": "none", "mixup": 0.0}
    finished = finetune(request(folder, tmp_path / "out", trained.checkpoint, **given))
    before, after = (read_checkpoint(path).tensors for path in (trained.checkpoint, finished.checkpoint))
    assert after["classifier.weight"].shape[0] == 2
    assert all(
        torch.equal(before[name], after[name])
        for name in before
        if name.startswith(("stem.", "stages.0.", "stages.1."))
    )


def test_from_a_checkpoint_of_the_same_classes_its_classifier_is_kept(trained, colours, tmp_path):
    finished = finetune(request(colours, tmp_path, trained.checkpoint, epochs=0))
    before, after = (read_checkpoint(path).tensors for path in (trained.checkpoint, finished.checkpoint))
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_a_full_disk_is_a_sentence_and_the_best_checkpoint_stays(trained, colours, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "lite0.safetensors").write_bytes(trained.checkpoint.read_bytes())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="lite0.safetensors can't be written: No space left on device"):
        finetune(request(colours, tmp_path, epochs=0, seed=3))
    assert [path.name for path in tmp_path.iterdir()] == ["lite0.safetensors"]
    assert (tmp_path / "lite0.safetensors").read_bytes() == trained.checkpoint.read_bytes()


def test_lopsided_classes_are_weighted():
    counts = [90, 10]
    assert settings_for(counts, True, None, {}).class_weights == "sqrt"
    assert settings_for([50, 50], True, None, {}).class_weights == "none"
    data = type("Data", (), {"counts": lambda self: counts})()
    weights = train.class_weights(data, Settings(class_weights="balanced"))
    assert weights is not None and weights[1] / weights[0] == pytest.approx(9)
    assert float((weights * torch.tensor(counts)).sum() / sum(counts)) == pytest.approx(1)


def test_settings_follow_the_data_the_preset_and_the_user_in_this_order():
    assert settings_for([500, 500], True, None, {}).mixup == 0 < settings_for([50_000], True, None, {}).mixup
    assert settings_for([5000] * 10, True, "cifar10", {}).epochs == PRESETS["cifar10"]["epochs"]
    assert settings_for([5000] * 10, True, "cifar10", {"epochs": 3}).epochs == 3
    assert settings_for([2, 1], True, None, {}).batch == 3
    with pytest.raises(UserError, match="lr 50: between"):
        Settings(lr=50)
    with pytest.raises(UserError, match="policy cutout: choose one of"):
        Settings(policy="cutout")


def test_a_large_network_takes_fewer_pictures_at_once_and_keeps_its_statistics():
    assert (settings_for([500] * 4, True, None, {}).batch, settings_for([500] * 4, True, None, {}).norm) == (
        32,
        "learn",
    )
    b4 = settings_for([500] * 4, True, None, {}, cost=4.4e9)
    assert (b4.batch, b4.norm) == (4, "keep") and settings_for([500] * 4, False, None, {}, cost=4.4e9).norm == "learn"
    network = EfficientNet(LITE0, 3)
    held = train.freeze(network, Settings(norm="keep"))
    assert network.head.norm in held and network.head.conv.weight.requires_grad


def test_the_rate_rises_and_falls():
    rates = [train.rate(step, 100, 0.1) for step in range(100)]
    assert rates[9] == rates[10] == 1 and rates[0] == pytest.approx(0.1) and rates[99] < 0.02
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_the_backbone_learns_slower_and_only_weights_decay():
    groups = train.optimiser(EfficientNet(LITE0, 3), Settings(lr=0.01, backbone=0.1, weight_decay=0.5)).param_groups
    assert sorted((g["scale"], g["weight_decay"]) for g in groups) == [(0.1, 0.0), (0.1, 0.5), (1.0, 0.0), (1.0, 0.5)]
    assert sum(len(g["params"]) for g in groups) == len(list(EfficientNet(LITE0, 3).parameters()))


def test_crops_keep_what_they_must():
    pixels = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    whole = augment.crop(pixels[:, :40], 40, Settings(area=1, flip=0), np.random.default_rng(0))
    assert (whole == pixels[:, :40]).all()
    assert (
        augment.crop(pixels[:, :40], 40, Settings(area=1, flip=1), np.random.default_rng(0)) == whole[:, ::-1]
    ).all()
    for seed in range(20):
        assert augment.crop(pixels, 32, Settings(area=0.05), np.random.default_rng(seed)).shape == (32, 32, 3)


def test_images_grow_in_four_steps_and_the_last_are_whole(colours, tmp_path, monkeypatch):
    seen = []
    learn = train.Training._learn
    monkeypatch.setattr(
        train.Training, "_learn", lambda self, x, y: seen.append(tuple(x.shape[2:])) or learn(self, x, y)
    )
    grown = request(colours, tmp_path, epochs=5, batch=48, smallest=34, patience=9)
    finetune(replace(grown, overrides={"resolution": 64, "crop": 1.0}))
    assert [side for side, _ in seen] == [34, 34, 44, 54, 64] and all(a == b for a, b in seen)
    with pytest.raises(UserError, match="smallest 64: between 32 and the network's 64 px"):
        finetune(replace(request(colours, tmp_path, smallest=64), overrides={"resolution": 64}))
