"""A few of the kills that `python -m tests.kill` does by the hundred; disks that are full; two at work on one variant."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kill.trials import REPOSITORY, STAGES, litter, start, trials, whole
from tests.warm import command

KILLS = {"export": 1, "calibrate": 4, "engine": 4, "sweep": 2}


@pytest.mark.parametrize("stage", STAGES)
def test_whatever_the_moment_what_is_there_is_whole_and_the_next_run_completes(stage: str, tmp_path: Path) -> None:
    if stage == "engine":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    seen = trials(stage, KILLS[stage], tmp_path / "artifacts", random.Random(f"{stage} test"))
    assert not seen.failures, seen.failures
    assert seen.litter <= 4  # it does not grow: each run removes what the killed ones left


@pytest.mark.parametrize(("stage", "skipped"), [("calibrate", "is calibrated already"), ("engine", "is up to date")])
def test_two_at_once_do_not_corrupt_each_other(stage: str, skipped: str, tmp_path: Path) -> None:
    if stage == "engine":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    folder = tmp_path / "artifacts"
    STAGES[stage].prepare(folder)
    both = [start(stage, folder) for _ in range(2)]
    ended = [each.wait() for each in both]
    assert [each.status for each in ended] == [0, 0], [each.text for each in ended]
    shutil.rmtree(folder / "tmp")
    assert whole(folder) >= len(STAGES[stage].files) and not litter(folder)
    again = start(stage, folder).wait()
    assert again.status == 0 and skipped in again.text, again.text


def test_two_exports_at_once_do_not_corrupt_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    both = [start("export", folder) for _ in range(2)]
    ended = [each.wait() for each in both]
    assert [each.status for each in ended] == [0, 0], [each.text for each in ended]
    shutil.rmtree(folder / "tmp")
    assert whole(folder) == 3 and not litter(folder)
    again = start("export", folder).wait()  # FP16 belongs to the FP32 beside it, or it would be made anew
    assert again.status == 0 and "up to date" in again.text, again.text


# Runs stages in a folder that is a file system of its own, of a few hundred kilobytes.
_FULL = """
mount -t tmpfs -o size=$2k tmpfs "$1" && cp -r "$3"/. "$1"/ && cd "$4" && shift 4 && exec "$@"
"""


def on_a_small_disk(kilobytes: int, content: Path, disk: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """`command` in a mount namespace where `disk` has that much room and holds a copy of `content`; then what is there is
    listed on stdout, behind a line of its own."""
    disk.mkdir()
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        _FULL,
        "sh",
        disk,
        kilobytes,
        content,
        REPOSITORY,
        sys.executable,
        "-m",
        "tests.kill.on_a_small_disk",
        disk,
        *command,
    ]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=900)


def may_mount() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=4k tmpfs /mnt"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.parametrize("stage", ["calibrate", "engine"])
def test_a_full_disk_is_a_sentence_and_the_old_artifact_is_still_there(stage: str, tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("no file system can be mounted here (it takes root): no small disk")
    if stage == "engine":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    content = tmp_path / "content"
    STAGES[stage].prepare(content)
    target = content / STAGES[stage].files[0]
    target.write_bytes(b"the old one" * 100)
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in content.rglob("*") if path.is_file())
    module, *arguments = STAGES[stage].words(tmp_path / "disk")
    ended = on_a_small_disk(used + 12, content, tmp_path / "disk", module, *arguments)
    said = {"calibrate": "Free some space", "engine": "No space left on device"}[stage]
    assert "Traceback" not in ended.stderr and said in ended.stderr, ended.stderr
    status, *files = ended.stdout.splitlines()[-1].split("|")
    assert status != "0"
    assert f"{STAGES[stage].files[0]} {11 * 100}" in files
    assert not [name for name in files if ".tmp" in name], files


@pytest.mark.parametrize(
    ("size", "sentence"),
    [(26_000, "can't be written: File too large"), (20_000, "can't be kept in .*: File too large")],
)
def test_a_limit_on_the_size_of_files_is_a_sentence_too(size: int, sentence: str, tmp_path: Path) -> None:
    """`ulimit -f`: without a handler the kernel would end the process; Python ignores that signal."""
    folder = tmp_path / "artifacts"
    STAGES["calibrate"].prepare(folder)
    target = folder / STAGES["calibrate"].files[0]
    target.write_bytes(b"the old one")
    module, *arguments = STAGES["calibrate"].words(folder)
    ended = command("tests.kill.limited", size, module, *arguments)
    assert ended.status > 0 and "Traceback" not in ended.text, ended.text
    assert re.search(sentence, ended.text)
    assert target.read_bytes() == b"the old one" and not litter(folder)


def test_writers_in_threads_and_processes_leave_one_whole_file(tmp_path: Path) -> None:
    """Eight at once on one path: a reader sees one of the contents, never a mixture."""
    from runtime.whole_file import write_whole

    path, contents = tmp_path / "b0.fp32.onnx", [bytes([i]) * 200_000 for i in range(8)]
    write_whole(path, contents[0])
    threads = [threading.Thread(target=lambda c=c: [write_whole(path, c) for _ in range(5)]) for c in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == [path.name]
