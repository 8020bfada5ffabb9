"""README.md, CONTRIBUTING.md and docs/: links lead somewhere, and commands name targets, modules and options that exist."""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
from functools import lru_cache
from pathlib import Path

import pytest

from make_variables import mistake, taken_by
from tests.docs.user_errors import PACKAGES
from tests.in_process import called

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The headings of `page`, as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and f": {page.name}\n" not in site] == []
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and f"({page.name})" not in index] == [
        "README.md"
    ]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def commands(page: Path) -> list[list[str]]:
    """The words of every `make ...` and `python -m ...` on `page`: lines of code blocks, and code within sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = [found[0] for found in FENCE.finditer(text)]
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    found = []
    for line in lines:
        for part in re.split(r" && | \| |; ", re.sub(r"^(\$|ExecStart=\S*?(?=python3)) ?", "", line)):
            if re.match(r"(\S*/)?(make|python3? -m) ", part) and "{" not in part:
                found.append(shlex.split(part, comments=True))
    return found


MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*(?: [a-z][a-z0-9-]*)*):", MAKEFILE, re.MULTILINE))
SETTINGS = set(re.findall(r"^SETTINGS := (.*)$", MAKEFILE, re.MULTILINE)[0].split())
TAKEN = taken_by(MAKEFILE, SETTINGS, {})  # by the names that are shown: no page says an old one


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_has_the_target_and_takes_the_variables(page: Path) -> None:
    targets = {target for several in TARGETS for target in several.split()}
    for words in commands(page):
        if not words[0].endswith("make"):
            continue
        goals = [word for word in words[1:] if "=" not in word and word != "…"]
        given = [word.partition("=")[0] for word in words[1:] if "=" in word]
        assert set(goals) <= targets, f"{' '.join(words)}: no such target"
        assert not mistake(goals, given, TAKEN), " ".join(words)


@lru_cache(maxsize=None)
def told(module: str) -> str:
    """What `python -m module --help` prints, "" if there is no such module; tests/test_help.py starts each of them."""
    for name in (f"{module}.__main__", module):
        with contextlib.suppress(ModuleNotFoundError):
            return called(importlib.import_module(name).main, "--help").out
    return ""


def test_python_has_the_module_and_takes_the_options() -> None:
    used = [words for page in PAGES for words in commands(page) if words[1] == "-m"]
    for module in {
        words[2] for words in used if words[2].startswith("tests.")
    }:  # they may need an environment of their own
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), (
            f"python -m {module}: no such file"
        )
    used = [words for words in used if words[2].split(".")[0] in PACKAGES]
    assert {"runtime.infer", "runtime.watch", "runtime.embed", "models"} <= {words[2] for words in used}
    for words in used:
        usage = told(words[2])
        assert usage, f"{' '.join(words)}: no such module, or its --help fails"
        for word in words[3:]:
            option = word.partition("=")[0]
            assert not option.startswith("--") or re.search(rf"{option}\b", usage), f"{' '.join(words)}: no {option}"
