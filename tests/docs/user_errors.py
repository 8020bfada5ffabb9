"""The messages of every UserError that the sources raise, read with ast: what docs/troubleshooting.md has to explain."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "export", "calibration", "runtime")
ANY = "…"  # stands for what a message fills in


def _trees() -> dict[str, ast.Module]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def _kinds(trees: dict[str, ast.Module]) -> set[str]:
    """UserError, and every class below it."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    kinds = {"UserError"}
    while more := {name for name, above in bases.items() if above & kinds} - kinds:
        kinds |= more
    return kinds


def _text(node: ast.expr) -> str:
    """The words of a message: "{path} is damaged" -> "… is damaged"; "" for what is not written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else ANY for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ANY


def _messages(tree: ast.Module, kinds: set[str]) -> Iterator[str]:
    """What is given to one of `kinds`, and what one of them gives to the class above it; parts of a sentence are not."""
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node) in kinds]
    own = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name in kinds)
    raised += [
        node for each in own for node in ast.walk(each) if isinstance(node, ast.Call) and _name(node) == "__init__"
    ]
    for text in (_text(argument) for node in raised for argument in node.args):
        if len(re.findall(r"[A-Za-z]{2,}", text)) > 2:
            yield text


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def messages() -> dict[str, list[str]]:
    """Module -> its messages, for each module that has any."""
    trees = _trees()
    kinds = _kinds(trees)
    found = {module: list(_messages(tree, kinds)) for module, tree in trees.items()}
    return {module: texts for module, texts in found.items() if texts}
