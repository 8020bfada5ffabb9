"""A Python without the packages that a command needs: a sentence with the command that works, not a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.command import run
from runtime.invocation import install, missing, without_make

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", ["runtime.infer", "runtime.evaluate", "runtime.sweep", "models", "export"])
def test_a_python_without_packages_is_a_sentence(command: str, tmp_path: Path) -> None:
    """As a shell outside of the environment has it."""
    words = [sys.executable, "-S", "-m", command, "it's.jpg"]
    done = subprocess.run(
        words, cwd=str(tmp_path), env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert f" is not installed for {sys.executable}" in done.stderr


def test_the_projects_own_environment_is_named_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "runtime.infer", "it's.jpg"], raising=False)
    error = ModuleNotFoundError("No module named 'PIL'", name="PIL.Image")
    assert str(missing(error, tmp_path)).endswith(f"{sys.executable} -m pip install Pillow.")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert str(missing(error, tmp_path)).endswith(""": .venv/bin/python -m runtime.infer 'it'"'"'s.jpg'""")


def test_where_there_is_no_make_none_is_advised(tmp_path: Path) -> None:
    text = "Run 'make calibrate VARIANT=b1 BACKEND=x'."
    assert without_make(text) == text  # beside the Makefile
    assert without_make(text, tmp_path).startswith(f"{text} There is no make here")
    assert without_make("less (WORKSPACE=256M, OPT_LEVEL=1)", tmp_path) == "less (--workspace 256M, --opt-level 1)"
    assert without_make("/data/SPLIT=train is a file.", tmp_path) == "/data/SPLIT=train is a file."


def test_every_message_names_the_pip_of_the_python_that_runs() -> None:
    assert install("aiohttp", "tritonclient[http]").endswith(" -m pip install aiohttp 'tritonclient[http]'")
    for room in ("runtime", "models", "calibration", "export"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for line in path.read_text(encoding="utf-8").splitlines():
                bare = re.search(r"""["'(:;] ?pip install""", line)
                assert not bare or line.startswith(("#", "Needs ", '"""Classifiers of timm')), f"{path}: {line.strip()}"


def test_another_module_that_is_missing_is_a_bug_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise ModuleNotFoundError("No module named 'runtime.imges'", name="runtime.imges")

    with pytest.raises(ModuleNotFoundError):
        run(main)


def test_matplotlib_is_asked_for_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from models.__main__ import main

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as left:
        run(lambda: main(["--chart", "family.png"]))
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == "" and "matplotlib is not installed" in said.err
