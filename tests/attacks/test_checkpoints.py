"""Checkpoints made to run code, to fill the memory, or to lead elsewhere. More of them: tests/models/test_reader.py."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.reader import MOST_CLASSES, classes_of, own_recipe, read_checkpoint
from runtime.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def programs(target: Path) -> dict[str, bytes]:
    """Pickles that create `target` when they are loaded, by the opcode that runs the function."""
    code = f"open({str(target)!r}, 'w').close()"
    run = text(code) + b"\x85"  # (code,)
    return {
        "GLOBAL REDUCE": b"\x80\x02cbuiltins\nexec\n" + run + b"R.",
        "STACK_GLOBAL REDUCE": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + run + b"R.",
        "protocol 0": b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR.",
        "INST": b"(V" + code.encode() + b"\nibuiltins\nexec\n.",
        "OBJ": b"(cbuiltins\nexec\nV" + code.encode() + b"\no.",
        "after the end of a first pickle": b"\x80\x02}." + b"\x80\x02cbuiltins\nexec\n" + run + b"R.",
        "in a tuple's middle": b"\x80\x02(K\x01cbuiltins\nexec\n" + run + b"RK\x02t.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\ncbuiltins\nobject\n" + text("__subclasses__") + b"\x86R)R0"
        b"cbuiltins\nexec\n" + run + b"R.",
        "dotted name": b"\x80\x04\x8c\x02io\x8c\x04open\x93" + text(str(target)) + text("w") + b"\x86R.",
        "torch's own modules": b"\x80\x02ctorch.serialization\nos.system\n" + text(f"touch {target}") + b"\x85R.",
    }


KINDS = list(programs(Path("x")))


def in_a_zip(program: bytes) -> bytes:
    """What torch.save writes since 1.6, with another pickle."""
    packed = io.BytesIO()
    torch.save({"conv_stem.weight": torch.zeros(4)}, packed)
    out = io.BytesIO()
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, program if member.filename.endswith("data.pkl") else old.read(member))
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_no_opcode_runs_anything(kind: str, canary: Path, inside: Path) -> None:
    path = inside / "b0.pth"
    for content in (programs(canary / "executed")[kind], in_a_zip(programs(canary / "executed")[kind])):
        path.write_bytes(content)
        with pytest.raises(UserError, match="b0.pth"):
            read_checkpoint(path)
        path.with_suffix(".safetensors").write_bytes(content)
        with pytest.raises(UserError, match="b0.safetensors"):
            read_checkpoint(path.with_suffix(".safetensors"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "first pickle" not in kind and "torch" not in kind])
def test_the_programs_are_live(kind: str, inside: Path) -> None:
    with contextlib.suppress(Exception):
        pickle.loads(programs(inside / "executed")[kind])
    assert (inside / "executed").exists()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """4 GB more than this process has now: what asks for more fails here, rather than killing the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
def test_a_zip_bomb(inside: Path) -> None:
    """A tensor of zeros, deflated to a thousandth: torch unpacks what it finds packed."""
    path, count = inside / "b0.pth", 1 << 26
    packed = io.BytesIO()
    torch.save({"conv_stem.weight": torch.zeros(4)}, packed)
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for member in old.infolist():
            if member.filename.endswith("data/0"):
                with new.open(member.filename, "w", force_zip64=True) as file:
                    for _ in range(count * 4 >> 24):
                        file.write(bytes(1 << 24))
            else:
                new.writestr(member.filename, old.read(member))
    assert path.stat().st_size < 8 << 20
    with pytest.raises(UserError, match="would grow from"):
        read_checkpoint(path)


@pytest.mark.usefixtures("little_memory")
def test_a_pickle_that_asks_for_a_terabyte(inside: Path) -> None:
    path = inside / "b0.pth"
    for program in (
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.",
        b"\x80\x04\x96" + (1 << 40).to_bytes(8, "little") + b"x.",  # BYTEARRAY8
        b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"x.",  # BINUNICODE8
        b"\x80\x02(" + b"2" * 100_000 + b"t.",
        b"\x80\x02" + b"](" * 50_000 + b"." + b"e" * 50_000,
    ):
        for content in (program, in_a_zip(program)):
            path.write_bytes(content)
            with pytest.raises(UserError):
                read_checkpoint(path)


@pytest.mark.usefixtures("little_memory")
def test_a_classifier_of_a_billion_classes_in_four_bytes(inside: Path) -> None:
    """One number, of which a stride of 0 makes a matrix."""
    path = inside / "b0.pth"
    wide = torch.zeros(1).as_strided((MOST_CLASSES * 1000, 1280), (0, 0))
    torch.save({"stem.conv.weight": torch.zeros(4), "classifier.weight": wide}, path)
    with pytest.raises(UserError, match="100000000 classes"):
        classes_of(read_checkpoint(path))


def test_a_zip_whose_members_lead_elsewhere(canary: Path, inside: Path) -> None:
    path, packed = inside / "b0.pth", io.BytesIO()
    torch.save({"conv_stem.weight": torch.zeros(4)}, packed)
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
        new.writestr("../outside/canary", "changed")
        new.writestr(str(canary / "canary"), "changed")
    with contextlib.suppress(UserError):
        read_checkpoint(path)


def header(entries: object, length: int | None = None) -> bytes:
    content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content


STEM = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "content",
    {
        "overlapping": header({"stem.conv.weight": STEM, "b": {**STEM, "data_offsets": [4, 12]}}) + bytes(12),
        "the same twice": header({"stem.conv.weight": STEM, "b": STEM}) + bytes(8),
        "a gap": header({"stem.conv.weight": STEM, "b": {**STEM, "data_offsets": [16, 24]}}) + bytes(24),
        "backwards": header({"stem.conv.weight": {**STEM, "data_offsets": [8, 0]}}) + bytes(8),
        "negative": header({"stem.conv.weight": {**STEM, "data_offsets": [-8, 0]}}) + bytes(8),
        "more elements than bytes": header({"stem.conv.weight": {**STEM, "shape": [1 << 40]}}) + bytes(8),
        "elements beyond 64 bits": header({"stem.conv.weight": {**STEM, "shape": [1 << 32, 1 << 32, 2]}}) + bytes(8),
        "no such type": header({"stem.conv.weight": {**STEM, "dtype": "F31"}}) + bytes(8),
        "a type twice as wide": header({"stem.conv.weight": {**STEM, "dtype": "F64"}}) + bytes(8),
        "a name twice": header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        )
        + bytes(8),
        "nested": header(b'{"a":' + b"[" * 100_000) + bytes(8),
        "no text": header(b'{"\xff\xfe":1}') + bytes(8),
        "data after the end": header({"stem.conv.weight": STEM}) + bytes(800),
        "header of no object": header(b"[]") + bytes(8),
    }.items(),
    ids=lambda item: item[0],
)
def test_safetensors_that_lie(content: tuple[str, bytes], inside: Path) -> None:
    path = inside / "b0.safetensors"
    path.write_bytes(content[1])
    with pytest.raises(UserError, match="b0.safetensors"):
        classes_of(read_checkpoint(path))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["b0.safetensors", "b0.pth"])
@pytest.mark.parametrize("size", [1 << 30, 1 << 40], ids=["1 GB", "1 TB"])
def test_a_header_of_a_gigabyte_that_is_really_there(name: str, size: int, inside: Path) -> None:
    """A hole in the disk, as long as the header says."""
    path = inside / name
    with path.open("wb") as file:
        file.write((size - 8).to_bytes(8, "little") + b'{"a":{')
        file.truncate(size)
    with pytest.raises(UserError, match=name):
        read_checkpoint(path)
    path.unlink()


RECIPE = {
    "padding": "same",
    "eps": 1e-3,
    "resolution": 192,
    "crop": 0.9,
    "interpolation": "bilinear",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
}


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 10**9},
        {"resolution": -1},
        {"resolution": 0},
        {"crop": 1e-300},
        {"crop": -1},
        {"crop": 1e999},
        {"eps": 0},
        {"eps": -1},
        {"eps": float("nan")},
        {"std": [0, 1, 1]},
        {"mean": [float("nan"), 0, 0]},
        {"labels": [1, 2]},
        {"labels": "abc"},
        {"labels": ["\x1b[2J", "b"]},
        {"labels": [["a"]]},
        {"padding": ["same"]},
        {"resolution": "9" * 5000},
        {"crop": 10**400},
    ],
    ids=str,
)
def test_recipes_that_would_cost_a_machine(change: dict[str, object], inside: Path) -> None:
    path = inside / "b0.safetensors"
    save_file({"stem.conv.weight": torch.zeros(4)}, path, metadata={"recipe": json.dumps({**RECIPE, **change})})
    with pytest.raises(UserError, match="recipe that can't be read"):
        own_recipe(read_checkpoint(path))


def test_a_recipe_nested_beyond_measure(inside: Path) -> None:
    path = inside / "b0.safetensors"
    save_file({"stem.conv.weight": torch.zeros(4)}, path, metadata={"recipe": "[" * 200_000})
    with pytest.raises(UserError, match="recipe that can't be read"):
        own_recipe(read_checkpoint(path))
