"""How every command ends: a sentence and the exit status Unix expects, whatever a moment Ctrl-C picks."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from runtime.command import number, positive, run, seconds
from runtime.errors import UserError
from runtime.images import find

REPOSITORY = Path(__file__).parents[2]


def ended(main: Callable[[], int]) -> int:
    with pytest.raises(SystemExit) as left:
        run(main)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_ctrl_c_within_an_import_that_wraps_it_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    """Python 3.11 makes "RuntimeError: Error calling __set_name__" of it, seen within torch._dynamo's import."""

    def importing() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__ on 'Field' instance") from error

    def translating() -> int:
        try:
            importing()
        except RuntimeError:
            raise UserError("b1.onnx is damaged.") from None
        return 0

    for main in (importing, translating):
        assert ended(main) == 130
        assert "interrupted" in capsys.readouterr().err


def test_a_folder_of_nothing_but_other_formats_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(find, "LEFT_OUT", find.LeftOut())
    (tmp_path / "clip.MOV").write_bytes(b"")
    assert ended(lambda: len(find.find_images([str(tmp_path)]))) == 2
    assert "has no images" in (said := capsys.readouterr().err) and "1 file left out" in said and "1 .mov" in said


def test_ctrl_c_in_a_destructor_still_ends_the_command() -> None:
    """Python only reports what a destructor raises: without more, the command would go on."""
    code = """
import os, signal, sys, time
from runtime.command import number, positive, run, seconds

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass

def main():
    held = Held()
    del held
    time.sleep(100)
    return 0

signal.signal(signal.SIGINT, signal.default_int_handler)
run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr and "Traceback" not in done.stderr


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    def broken() -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(broken)


@pytest.mark.smoke
def test_errors_of_users_and_of_their_disks_are_sentences(capfd: pytest.CaptureFixture[str]) -> None:
    def wrong() -> int:
        raise UserError("photos holds no images.\nname another folder")

    assert ended(wrong) == 2
    assert capfd.readouterr().err == "error: photos holds no images.\n  name another folder\n"
    code = "from runtime.command import run\ndef main(): raise OSError({}, 'said so')\nrun(main)"
    for code_of_error, status, said in (
        (errno.EPIPE, 141, ""),
        (errno.ENOSPC, 1, "error: the output can't be written: said so.\n"),
    ):
        command = [sys.executable, "-c", code.format(code_of_error)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize(
    "kind,text,sentence",
    [
        (positive, "0", "'0' is not a whole number above 0"),
        (positive, "1.5", "'1.5' is not a whole number above 0"),
        (seconds, "nan", "'nan' is not a number of seconds above 0"),
        (seconds, "inf", "'inf' is not a number of seconds above 0"),
        (number(float, 0, 1), "1.01", "'1.01' is not a number from 0 to 1"),
        (number(int, 0), "-1", "'-1' is not a whole number of at least 0"),
    ],
)
def test_numbers_that_are_none(kind: Callable[[str], Any], text: str, sentence: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as told:
        kind(text)
    assert str(told.value) == sentence


def test_bounds_of_numbers_may_be_reached() -> None:
    assert (positive("1"), seconds("0.5"), number(float, 0, 1)("1"), number(int, 0)("0")) == (1, 0.5, 1.0, 0)


def test_what_was_left_out_is_said_and_an_unreadable_folder_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left = find.LeftOut()
    monkeypatch.setattr(find, "LEFT_OUT", left)
    left.file("clip.mp4")
    assert ended(lambda: 0) == 0
    assert capfd.readouterr().err == "1 file left out, because the format is not read: 1 .mp4\n"
    left.folder(PermissionError(13, "Permission denied", "private"))
    assert (ended(lambda: 0), ended(lambda: 2)) == (1, 2)


def test_every_command_says_its_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["infer.py", "--version"])
    with pytest.raises(SystemExit) as end:
        run(lambda: pytest.fail("the command ran"))
    assert end.value.code == 0 and capsys.readouterr().out.startswith("efficientnet-edge 0.")
