"""What make does with the words on its command line. `make -n` tells: nothing is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from make_variables import taken_by

REPOSITORY = Path(__file__).parents[1]


def make(*words: str, folder: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    """make, as a user's shell starts it: not as a part of the make that runs these tests."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env={**own, **environment}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("export", "VARIENT=b1"), "There is no variable VARIENT, did you mean VARIANT?"),
        (("evaluate", "DATA=x", "CALIB=y"), "make evaluate does not take CALIB. make evaluate takes "),
        (("compare", "A=x", "B=y", "NMAE=z"), "There is no variable NMAE, did you mean NAME? make compare takes A, B."),
        (("VARIANT=b1",), "make help does not take VARIANT."),
        (("engine", "LABELS=x"), "make engine takes BACKEND, BATCH, CLASSES, CLASS_NAMES,"),
        (
            ("sweep", "QQ=1"),
            "There is no variable QQ. make sweep takes BACKENDS, BATCHES, CALIB",
        ),  # not FRESH, BATCH
        (("test-python", "TETS=x"), "There is no variable TETS, did you mean TESTS?"),
    ],
)
def test_a_variable_that_the_target_does_not_take_is_an_error(words: tuple[str, ...], sentence: str) -> None:
    done = make("-n", *words)
    assert done.returncode == 2 and done.stdout == "" and sentence in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("export", "VARIANT=b1", "RESOLUTION=200", "PYTHON=python3"),
        ("evaluate", "DATA=x", "LIMIT=20", "WEIGHTS=own.pth"),  # evaluate exports first
        ("export", "calibrate", "VARIANT=b1", "CALIB=x"),  # one of two goals takes it
        ("finetune", "DATA=x", "FORCE=1"),
        ("embed", "DATA=x", "PICTURE=nearest.png"),  # an old name of SHEET
        ("sweep", "FRESH=1", "PYTHON=python3"),  # an old name of FORCE
    ],
)
def test_what_the_help_line_names_is_taken(words: tuple[str, ...]) -> None:
    assert make("-n", *words).returncode == 0


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("export", "LABELS=it's.txt"), r"--class-names 'it'\''s.txt'"),
        (("engine", "TARGET=sm_89"), "--gpu 'sm_89'"),
        (("embed", "DATA=x", "COUNT=3", "PICTURE=a  b.png"), "--top '3' --sheet 'a  b.png'"),
        (("bench", "BATCH=1,8"), "--batches '1,8'"),
        (("sweep", "BATCH=1,8", "FRESH=1"), "--batches '1,8'"),
        # where the name keeps its meaning
        (("evaluate", "DATA=x", "LABELS=y.csv"), "--labels 'y.csv'"),
        (("calibrate", "TARGET=cpu"), "--target 'cpu'"),
        (("engine", "BATCH=1,8,32"), "--batch '1,8,32'"),
    ],
)
def test_an_old_name_reaches_the_command_under_the_new_one(words: tuple[str, ...], option: str, tmp_path: Path) -> None:
    """A copy without an environment: nothing is made there first."""
    for name in ("Makefile", "make_variables.py", "runtime"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".demo", ".export", ".sweep", ".engine"):
        (tmp_path / ".venv" / name).touch()
    (tmp_path / "pyproject.toml").touch()
    os.utime(tmp_path / "pyproject.toml", (0, 0))
    done = make("-n", *words, "PYTHON=python3", folder=tmp_path)
    assert option in done.stdout, done.stdout + done.stderr


def test_a_help_line_names_every_variable_that_its_recipe_passes_on() -> None:
    """One that it did not name would be refused."""
    makefile = (REPOSITORY / "Makefile").read_text()
    taken, seen = taken_by(makefile, set(), {}), 0
    for target, recipe in re.findall(r"^([a-z0-9-]+):.*## .*\n((?:\t.*\n)+)", makefile, re.MULTILINE):
        passed = set(" ".join(re.findall(r"\$\(call (?:options|switch|option,[a-z]+),([^)]*)\)", recipe)).split())
        used = {name for name in passed if re.fullmatch("[A-Z_]+", name)}
        assert used <= taken[target], f"{target} does not name {used - taken[target]}"
        seen += len(used)
    assert seen > 80


TYPED = {
    "DATA": "it's mine",
    "OUT": "two  spaces",
    "NEAREST": "a$b",
    "SHEET": "c#d",
    "CALIB": '"quoted"',
    "IMAGES": "back\\slash",
    "JSON": "`date`",
    "NAME": "$(date)",
    "WEIGHTS": "ü; rm -rf x",
}


@pytest.mark.parametrize("target", ["echoed", "echoed-below"])
def test_a_value_reaches_the_command_as_it_was_typed(target: str, tmp_path: Path) -> None:
    """Through one make and through the make that it starts."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    shutil.copy(REPOSITORY / "make_variables.py", tmp_path)
    with open(tmp_path / "Makefile", "a") as file:
        file.write(f"\nechoed:\n\t@printf '%s\\n' $(call options,{' '.join(TYPED)})\n")
        file.write("\nechoed-below:\n\t@$(MAKE) echoed\n")
    done = make(target, *(f"{name}={value}" for name, value in TYPED.items()), folder=tmp_path)
    expected = [word for name, value in TYPED.items() for word in (f"--{name.lower()}", value)]
    assert done.stdout.splitlines()[-len(expected) :] == expected, done.stderr
