"""The rooms of docs/structure.md: nothing imports what stands above it, and no modules import each other in a circle."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "export", "calibration", "runtime")


def module_name(path: Path) -> str:
    """runtime/images/find.py -> runtime.images.find; a package's __init__.py has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """The project's modules that `module` imports, wherever in the file, for annotations too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # a module of the package, or a name out of the module itself
                found = f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source
                if found in MODULES and found != module:
                    yield found


IMPORTS: Dict[str, Set[str]] = {module: set(imports(module)) for module in MODULES}


def levels() -> Dict[str, int]:
    """Room -> level, from the table of docs/structure.md: `| 3 | `runtime/artifacts/` | … |`."""
    text = (ROOT / "docs" / "structure.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    return {
        room.strip("/").replace("/", "."): int(level)
        for level, rooms in rows
        for room in re.findall("`([^`]+)`", rooms)
    }


LEVELS = levels()


def room_of(module: str) -> str:
    """The longest prefix that the table names."""
    parts = module.split(".")
    named = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((name for name in named if name in LEVELS), "")


def test_every_module_is_in_a_room_of_the_table() -> None:
    assert not [module for module in MODULES if not room_of(module) and module != "runtime"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_imports_what_stands_above_it(module: str) -> None:
    if module == "runtime":  # the package's face hands on the names of its networks
        return
    here = room_of(module)
    for other in IMPORTS[module] - {"runtime"}:
        there = room_of(other)
        assert there == here or LEVELS[there] < LEVELS[here], f"{module} ({here}) imports {other} ({there})"


def test_no_circles() -> None:
    done: Set[str] = set()

    def visit(module: str, path: List[str]) -> None:
        assert module not in path, "a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(IMPORTS[module]):
                visit(other, [*path, module])
            done.add(module)

    for module in sorted(MODULES):
        visit(module, [])


@lru_cache(maxsize=None)
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@lru_cache(maxsize=None)
def names_in(path: Path) -> Set[str]:
    """What a module defines or imports, at its top or under an `if` or `try` there."""
    found: Set[str] = set()
    todo: List[ast.AST] = list(parsed(path).body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.ExceptHandler))]
    return found


SCRIPTS = [path for folder in ("tests", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_what_tests_and_benchmarks_import_is_there() -> None:
    """Benchmarks run on request only, and would be found broken a month later."""
    known = {**MODULES, **{module_name(path): path for path in SCRIPTS}}
    for path in SCRIPTS:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.module in known and not node.level:
                there = names_in(known[node.module])
                face = {"__getattr__"} <= there  # hands on the names of others
                lost = [a.name for a in node.names if a.name not in there and f"{node.module}.{a.name}" not in known]
                assert face or not lost, f"{path.relative_to(ROOT)}: {node.module} has no {', '.join(lost)}"
