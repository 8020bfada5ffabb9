"""Names of classes in the files that people have them in."""

from __future__ import annotations

import pytest

from models.labels import read_labels
from runtime.errors import UserError

FILES = {
    "plain": "\ufefftench, Tinca tinca\r\n1 fish\r\nshark\r\n\r\n",
    "Python's": "{0: 'tench, Tinca tinca',\n 1: '1 fish',\n 2: 'shark'}",
    "Keras's": '{"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "1 fish"], "2": ["n01484850", "shark"]}',
    "label2id": '{\n "1 fish": 1,\n "tench, Tinca tinca": 0,\n "shark": 2\n}',
    "list": '["tench, Tinca tinca", "1 fish", "shark"]',
    "numbers": "0: tench, Tinca tinca\n1: 1 fish\n2: shark\n",
    "numbers from 1": "1 tench, Tinca tinca\n2 1 fish\n3 shark\n",
    "Caffe's": "n01440764 tench, Tinca tinca\nn01443537 1 fish\nn01484850 shark\n",
}


@pytest.mark.parametrize("how", FILES)
def test_names_are_those_that_are_meant(how, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(FILES[how].encode())
    assert read_labels(path, 3) == ["tench, Tinca tinca", "1 fish", "shark"]


def test_names_that_are_numbers_stay(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("0\n1\n2\n")
    assert read_labels(path, 3) == ["0", "1", "2"]


def test_one_name_too_many_is_shown(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("background\na\nb\nc\n")
    with pytest.raises(UserError, match="4 lines for 3 classes.*'background', one that this network does not have"):
        read_labels(path, 3)
