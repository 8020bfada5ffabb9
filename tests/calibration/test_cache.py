"""A cache that is damaged, or belongs to something else, is as good as none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.cache import Cache


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "a" * 64)
    assert cache.read("x") is None and cache.read_arrays("y.npz") is None
    cache.write("x", b"content")
    cache.write_arrays("y.npz", {"layer/a/weight": np.arange(3, dtype=np.int8)})
    assert cache.read("x") == b"content"
    assert cache.read_arrays("y.npz")["layer/a/weight"].tolist() == [0, 1, 2]  # type: ignore[index]


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"0" + b[1:], lambda b: b[:80] + b"!" + b[81:], lambda b: b""],
)
def test_damage_is_noticed(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    cache = Cache(tmp_path, "a" * 64)
    cache.write("x", bytes(range(100)))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert cache.read("x") is None


def test_another_key_or_name_does_not_read_it(tmp_path: Path) -> None:
    key = "a" * 16 + "b" * 48  # the same beginning gives the same file name
    Cache(tmp_path, key).write("x", b"content")
    assert Cache(tmp_path, "a" * 16 + "c" * 48).read("x") is None
    (path,) = tmp_path.iterdir()
    path.rename(path.with_name(path.name[:-1] + "z"))
    assert Cache(tmp_path, key).read("z") is None


def test_only_the_last_key_is_kept(tmp_path: Path) -> None:
    for key in ("a" * 64, "b" * 64):
        Cache(tmp_path, key).write("x", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["b" * 16 + ".x"]
