"""Metadata at the end of ONNX files: what goes in comes out, also for onnxruntime, and damage is told."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Dict

import onnxruntime
import pytest

from runtime.artifacts.onnx_metadata import read_metadata, verify, with_metadata
from runtime.errors import UserError

GRAPH = b"\x08\x08\x3a\x03abc"  # ir_version 8, and a graph of three bytes: ONNX as far as the wire format goes
ODD = {
    "empty": "",
    "unicode": "Käfer 甲虫 🪲 \u202e \x00 \n",
    "lengths": "x" * 127,
    "two bytes of length": "y" * 128,
    "long": "é" * 300_000,
    "": "without a key",
}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "a.onnx"
    if path.exists():
        path.unlink()  # some file systems wait for the disk where a file is overwritten
    path.write_bytes(content)
    return path


def test_round_trip(tmp_path: Path) -> None:
    content, digest = with_metadata(GRAPH, ODD)
    path = written(tmp_path, content)
    assert content.startswith(GRAPH)
    assert read_metadata(path) == {**ODD, "sha256": digest}
    assert verify(path) == digest == verify(str(path))
    assert digest == hashlib.sha256(content[: content.rindex(b"\n\x06sha256") - 2]).hexdigest()


def test_as_onnxruntime_reads_it(model: Path, tmp_path: Path) -> None:
    def theirs(path: Path) -> Dict[str, str]:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.get_modelmeta().custom_metadata_map

    assert theirs(model) == read_metadata(model)
    more = written(tmp_path, with_metadata(model.read_bytes(), {"Käfer": "甲虫" * 1000})[0])
    assert theirs(more) == read_metadata(more)
    assert read_metadata(more)["Käfer"] == "甲虫" * 1000


def test_other_fields_and_orders(tmp_path: Path) -> None:
    """Others put metadata before the graph, and fields of all wire types between."""
    tail, _ = with_metadata(b"", {"key": "value"})
    fixed = b"\xa5\x06\x01\x02\x03\x04" + b"\xa1\x06" + bytes(8)  # fields 100 of 4 and of 8 bytes
    varint = b"\xa0\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    assert read_metadata(written(tmp_path, tail + fixed + varint + GRAPH))["key"] == "value"


def test_size_does_not_matter(tmp_path: Path) -> None:
    """A graph of 5 GB, nearly all of it a hole in the file, is stepped over."""
    path = written(tmp_path, b"\x3a" + b"\x80\xe4\x97\xd0\x12")  # field 7, length 5 000 000 000
    with open(path, "r+b") as file:
        file.truncate(6 + 5_000_000_000)
        file.seek(0, 2)
        file.write(with_metadata(b"", {"key": "value"})[0])
    assert read_metadata(path)["key"] == "value"
    path.unlink()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello, this is text and no model at all\n",
        b"\x08\x08",  # an ONNX header without a graph
        b"\x3a\x05abc",  # a graph longer than the file
        b"\x3a" + b"\xff" * 12,  # a length without an end
        b"\x3b\x03abc",  # a wire type of protobuf's past
        GRAPH + b"\x72\x02\x0a\x05",  # a key longer than its entry
        GRAPH + b"\x72\x01\x08",  # an entry that stops within itself
        GRAPH + bytes(1000),
    ],
)
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    for reader in (read_metadata, verify):
        with pytest.raises(UserError, match="a.onnx"):
            reader(path)


def test_no_such_file(tmp_path: Path) -> None:
    for reader in (read_metadata, verify):
        with pytest.raises(UserError, match="There is no file .*nowhere.onnx"):
            reader(tmp_path / "nowhere.onnx")
        with pytest.raises(UserError, match="can't be read"):
            reader(tmp_path)


def test_every_flipped_bit_is_told(tmp_path: Path) -> None:
    content, _ = with_metadata(GRAPH, {"variant": "b0", "labels": "[]"})
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            with pytest.raises(UserError):
                verify(written(tmp_path, bytes(damaged)))


def test_damage_in_an_artifact_is_told(small_model: Path, tmp_path: Path) -> None:
    content = bytearray(small_model.read_bytes())
    path, generator = written(tmp_path, content), random.Random(0)
    verify(path)
    offsets = [0, 1, len(content) - 1, *(generator.randrange(len(content)) for _ in range(25))]
    with open(path, "r+b", buffering=0) as file:
        for offset in offsets:
            for value in (content[offset] ^ 1 << generator.randrange(8), content[offset]):  # damaged, and mended
                file.seek(offset)
                file.write(bytes([value]))
                if value != content[offset]:
                    with pytest.raises(UserError):
                        verify(path)
    assert verify(path)


def test_what_was_added_later_is_told(tmp_path: Path) -> None:
    content, _ = with_metadata(GRAPH, {"variant": "b0"})
    for more in (b"\x08\x08", with_metadata(b"", {"variant": "b7"})[0], content):
        with pytest.raises(UserError, match="checksum"):
            verify(written(tmp_path, content + more))
