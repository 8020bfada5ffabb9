"""The table of TensorRT's names, from which the fake is made, says what NVIDIA's bindings say."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Dict, Set

import pytest

from tests.runtime.backends.fake_tensorrt import TABLE, VERSIONS

CODE = Path(__file__).resolve().parents[3] / "runtime" / "backends" / "tensorrt"


def rows() -> Dict[str, Dict[str, Set[str]]]:
    """class -> member -> versions that have it."""
    found: Dict[str, Dict[str, Set[str]]] = {}
    for line in TABLE.read_text().splitlines()[2:]:
        name, member, mask, _ = line.split("\t")
        versions = {version for version, mark in zip(VERSIONS, mask) if mark == "x"}
        found.setdefault(name, {}).setdefault(member, set()).update(versions)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_is_that_of_the_bindings(version: str) -> None:
    folder = os.environ.get("EFFICIENTNET_TEST_DATA")
    if not folder:
        pytest.skip("EFFICIENTNET_TEST_DATA is not set: no listing of the bindings to compare with")
    classes = json.loads((Path(folder) / "tensorrt_api" / f"tensorrt-{version}.json").read_text())["classes"]
    for name, members in rows().items():
        there = classes.get(name, {})
        known = {*(there.get("enum") or []), *(there.get("members") or {})}
        ours = {member for member, versions in members.items() if version in versions}
        assert ours == {member for member in known if member in members}, name


def test_every_name_in_the_code_is_in_the_table() -> None:
    """`trt.Class` and `trt.Class.member`, wherever they stand: also in branches that no test takes."""
    table, used = rows(), set()
    for file in CODE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                names = []
                inner: ast.AST = node
                while isinstance(inner, ast.Attribute):
                    names.insert(0, inner.attr)
                    inner = inner.value
                if isinstance(inner, ast.Name) and inner.id == "trt" or names[:1] == ["trt"]:
                    used.add(tuple(name for name in names if name != "trt")[:2])
    used = {names for names in used if names and not names[0].startswith("__")}
    assert ("Builder",) in used and ("BuilderFlag", "FP16") in used
    for names in used:
        assert names[0] in table, names
        assert len(names) == 1 or names[1] in table[names[0]], names
