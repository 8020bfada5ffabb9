"""Files are written whole or not at all, whatever happens in the middle."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import pytest

from runtime.errors import UserError
from runtime.whole_file import require_room, write_together, write_whole

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = b"old" * 1000, b"new" * 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "b0.fp32.onnx"
    path.write_bytes(OLD)
    return path


def names(path: Path) -> List[str]:
    return sorted(os.listdir(str(path.parent)))


def start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def failing(number: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_writes_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "artifacts" / "b0" / "b0.fp32.onnx"
    for content in (OLD, NEW, b""):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert names(path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_umask(path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(path, NEW)
        assert path.stat().st_mode & 0o777 == mode
        assert os.umask(mask) == mask  # and that is as it was
    finally:
        os.umask(before)


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=["Ctrl-C", "memory"])
def test_interrupted(path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    def interrupt(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, interrupt)
        with pytest.raises(type(error)):
            write_whole(path, NEW)
    assert path.read_bytes() == OLD
    assert names(path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_killed(path: Path, step: str) -> None:
    """Killed before each step that follows the writing: the old file is there, and the next writer cleans up."""
    program = (
        "import os, pathlib, signal, sys\n"
        "from runtime.whole_file import write_whole\n"
        "setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "write_whole(pathlib.Path(sys.argv[1]), b'new' * 2000)\n"
    )
    for _ in range(2):  # the second removes what the first left
        assert start(program, path, step).wait(300) == -signal.SIGKILL
        assert path.read_bytes() == OLD
        assert len(names(path)) == 2
    write_whole(path, NEW)
    assert path.read_bytes() == NEW
    assert names(path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_killed_at_any_moment(path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from runtime.whole_file import write_whole\n"
        "print('started', flush=True)\n"
        "while True:\n"
        "    for content in (b'old' * 1000, b'new' * 1000000):\n"
        "        write_whole(pathlib.Path(sys.argv[1]), content)\n"
    )
    generator = random.Random(0)
    for _ in range(5):
        child = start(program, path)
        assert child.stdout is not None and child.stdout.readline() == b"started\n"
        end = time.monotonic() + generator.uniform(0.01, 0.1)
        while time.monotonic() < end:  # a reader meets whole files only
            assert path.read_bytes() in (OLD, b"new" * 1000000)
        child.kill()
        child.communicate(timeout=300)
        assert path.read_bytes() in (OLD, b"new" * 1000000)
    write_whole(path, NEW)
    assert names(path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="process ids are looked up on POSIX alone")
@pytest.mark.parametrize("name", ["b0.fp32.onnx", "a[b]*.onnx"])
def test_only_the_dead_are_cleaned_up_after(tmp_path: Path, name: str) -> None:
    dead = start("pass")
    dead.communicate(timeout=300)
    left = {
        f".{name}.{dead.pid}.abc.tmp": False,
        f".{name}.{os.getppid()}.abc.tmp": True,  # at work
        f".{name}.note.tmp": True,  # not ours
        f".ab.onnx.{dead.pid}.abc.tmp": True,  # another file's
        f"{name}.{dead.pid}.abc.tmp": True,
    }
    for file in left:
        (tmp_path / file).write_bytes(b"half")
    write_whole(tmp_path / name, NEW)
    assert names(tmp_path / name) == sorted([name, *(file for file, kept in left.items() if kept)])


@pytest.mark.skipif(os.name != "posix", reason="process ids are looked up on POSIX alone")
def test_other_users_are_not_cleaned_up_after(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = path.with_name(f".{path.name}.1.abc.tmp")
    theirs.write_bytes(b"half")
    monkeypatch.setattr(os, "kill", failing(errno.EPERM))
    write_whole(path, NEW)
    assert names(path) == [theirs.name, path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_disk_full_or_broken(path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing(number))
        with pytest.raises(UserError, match=f"b0.fp32.onnx can't be written: {os.strerror(number)}"):
            write_whole(path, NEW)
    assert path.read_bytes() == OLD
    assert names(path) == [path.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_disk_full_while_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fdopen = os.fdopen

        def full(handle: int, mode: str) -> Any:
            os.close(handle)
            return fdopen(os.open("/dev/full", os.O_WRONLY), mode)

        patch.setattr(os, "fdopen", full)
        with pytest.raises(UserError, match=os.strerror(errno.ENOSPC)):
            write_whole(path, NEW)
    assert path.read_bytes() == OLD
    assert names(path) == [path.name]


def test_where_no_file_can_be(path: Path) -> None:
    for wrong in (path / "b0.onnx", path.parent):  # below a file; a folder itself
        with pytest.raises(UserError, match="can't be written"):
            write_whole(wrong, NEW)
    assert path.read_bytes() == OLD


def test_unwritable_folder(path: Path) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("every folder can be written by root")
    path.parent.chmod(0o500)
    try:
        with pytest.raises(UserError, match="can't be written: Permission denied"):
            write_whole(path, NEW)
        assert path.read_bytes() == OLD
    finally:
        path.parent.chmod(0o700)


def test_files_that_belong_together_are_all_new_or_all_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the second leaves the first as it was."""
    first, second = tmp_path / "b0.fp32.onnx", tmp_path / "b0.fp16.onnx"
    write_together({first: OLD, second: OLD})
    sync, room = os.fsync, [True, False]

    def full(handle: int) -> None:
        if not room.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"b0.fp16.onnx can't be written: No space left on device. Free some space"):
            write_together({first: NEW, second: NEW})
    assert first.read_bytes() == second.read_bytes() == OLD and names(first) == sorted([first.name, second.name])
    write_together({first: NEW, second: NEW})
    assert first.read_bytes() == second.read_bytes() == NEW and names(first) == sorted([first.name, second.name])


def test_room_is_asked_for_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "artifacts" / "b0"
    require_room(folder, 1000)
    assert not folder.parent.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    require_room(folder, 3_000_000)
    with pytest.raises(UserError, match="has 3 MB left, and about 9 MB will be written. Free some space"):
        require_room(folder, 9_000_000)
    (tmp_path / "artifacts").touch()
    with pytest.raises(UserError, match=r"b0 can't be written: Not a directory. Choose another folder\.$"):
        require_room(folder, 1)
