"""Which images a command line means."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, List

import pytest

from runtime.errors import UserError
from runtime.images import find
from runtime.images.find import find_images
from runtime.invocation import install


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images in photos/ and below."""
    names = (
        "z.jpg",
        "b/10.JPG",
        "b/9.png",
        "b/11.AVIF",
        "a/x.tiff",
        "a/c/d.webp",
        "notes.txt",
        ".hidden.jpg",
        ".thumbs/t.jpg",
    )
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*arguments: str) -> List[str]:
    images = find_images(arguments)
    assert all(name == source for name, source in images)
    return [str(name).replace(os.sep, "/") for name, _ in images]


def test_folder_and_all_below_sorted(folder: Path) -> None:
    below = [
        "photos/z.jpg",
        "photos/a/x.tiff",
        "photos/a/c/d.webp",
        "photos/b/10.JPG",
        "photos/b/11.AVIF",
        "photos/b/9.png",
    ]
    assert found("photos") == below
    assert [name.replace("photos//", "photos/") for name in found("photos/")] == below
    assert found(str(folder / "photos" / "b")) == [
        f"{folder}/photos/b/{name}" for name in ("10.JPG", "11.AVIF", "9.png")
    ]


def test_files_are_taken_as_they_are(folder: Path) -> None:
    """In the order given, whatever they are called, also twice, also if they don't exist."""
    names = ["photos/z.jpg", "photos/notes.txt", "gone.jpg", "photos/.hidden.jpg", "photos/z.jpg"]
    assert found(*names) == names


def test_patterns(folder: Path) -> None:
    assert found("photos/*") == ["photos/notes.txt", "photos/z.jpg"]  # files: what is asked for by name is tried
    assert found("photos/b/*.[pJ]*") == ["photos/b/10.JPG", "photos/b/9.png"]
    assert found("photos/**/?.*", "photos/z.jpg") == [
        "photos/a/c/d.webp",
        "photos/a/x.tiff",
        "photos/b/9.png",
        "photos/z.jpg",
        "photos/z.jpg",
    ]


def test_brackets_in_a_name_are_no_pattern(folder: Path) -> None:
    (folder / "holiday [1].jpg").write_bytes(b"")
    (folder / "holiday 1.jpg").write_bytes(b"")
    assert found("holiday [1].jpg") == ["holiday [1].jpg"]
    assert found("holiday [0-9].jpg") == ["holiday 1.jpg"]


@pytest.mark.parametrize("argument", ["empty", "photos/*.gif", "nowhere/*"])
def test_nothing_there(folder: Path, argument: str) -> None:
    (folder / "empty" / "deeper").mkdir(parents=True)
    (folder / "empty" / "text.txt").write_bytes(b"")
    with pytest.raises(UserError, match="has no images .*.jpg|No file matches photos|No file matches nowhere"):
        find_images(["photos/z.jpg", argument])


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_names_that_are_not_utf8(folder: Path) -> None:
    name = os.fsdecode(b"photos/caf\xe9.jpg")
    try:
        Path(name).write_bytes(b"")
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    assert name in found("photos") and name in found("photos/c*")


def test_folder_that_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images must not go missing without a word, and others not with them."""
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(find, "LEFT_OUT", find.LeftOut())
    assert found("photos") == ["photos/z.jpg", "photos/a/x.tiff", "photos/a/c/d.webp"]
    assert capsys.readouterr().err == "error: the folder photos/b can't be read: Permission denied.\n"
    assert find.LEFT_OUT.folders == 1


def test_links_to_folders_are_followed(folder: Path) -> None:
    """As people make subsets of a data set: linked class folders count like others."""
    (folder / "subset" / "real").mkdir(parents=True)
    (folder / "subset" / "real" / "1.jpg").write_bytes(b"")
    (folder / "subset" / "linked").symlink_to(folder / "photos" / "a")
    (folder / "subset" / "one.png").symlink_to(folder / "photos" / "b" / "9.png")
    (folder / "subset" / "hidden").symlink_to(folder / "photos" / ".thumbs")
    expected = ["one.png", "hidden/t.jpg", "linked/x.tiff", "linked/c/d.webp", "real/1.jpg"]
    assert found("subset") == [f"subset/{name}" for name in expected]
    (folder / "all").symlink_to("subset")
    assert found("all") == [f"all/{name}" for name in expected]


def test_a_link_to_a_folder_that_is_not_there_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of a data set was passed over without a word where its drive was not mounted."""
    monkeypatch.setattr(find, "LEFT_OUT", find.LeftOut())
    plain = found("photos")
    for name, target in (("n01", "/nowhere/n01"), ("other.txt", "nowhere"), ("lost.jpg", "nowhere.jpg")):
        (folder / "photos" / name).symlink_to(target)
    assert sorted(found("photos")) == sorted(
        [*plain, "photos/lost.jpg"]
    )  # an image, which will be reported among the others
    assert capsys.readouterr().err == "error: the folder photos/n01 can't be read: it is a link that leads nowhere.\n"
    assert find.LEFT_OUT.folders == 1


def test_loops_of_links_end_and_show_each_image_once(folder: Path) -> None:
    photos = folder / "photos"
    plain = found("photos")
    (photos / "self").symlink_to("self")
    (photos / "here").symlink_to(".")
    (photos / "a" / "up").symlink_to("..")
    (photos / "b" / "side").symlink_to("../a")
    assert [name for name in found("photos") if not name.endswith("self")] == plain
    for name, other in (("one", "two"), ("two", "three"), ("three", "one")):
        (folder / "outside" / name).mkdir(parents=True)
        (folder / "outside" / name / "it.jpg").write_bytes(b"")
        (folder / "outside" / name / "next").symlink_to(folder / "outside" / other)
        (folder / "outside" / name / "back").symlink_to(folder)
    (photos / "b" / "linked").symlink_to(folder / "outside" / "one")
    linked = ["it.jpg", "back/outside/three/it.jpg", "back/outside/two/it.jpg"]
    assert found("photos") == [*plain, *(f"photos/b/linked/{name}" for name in linked)]


def test_files_of_other_formats_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1.MOV", "2.mov", "raw.dng", "labels.csv", "README"):
        (folder / "photos" / name).write_bytes(b"")
    monkeypatch.setattr(find, "LEFT_OUT", find.LeftOut())
    assert len(found("photos")) == 6
    assert find.LEFT_OUT.sentence() == "3 files left out, because the format is not read: 1 .dng, 2 .mov"
    monkeypatch.setattr(find, "SUFFIXES", (".jpg",))
    find.LEFT_OUT.file("it.HEIC")
    assert find.LEFT_OUT.sentence().endswith(f"1 .heic, 2 .mov; {install('pillow-heif')} to have HEIC read")


def test_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [(name, source), after] = find_images(["-", "photos/z.jpg"])
    assert name == "standard input" and source is sys.stdin.buffer
    assert after == ("photos/z.jpg", "photos/z.jpg")
    (folder / "-").write_bytes(b"")
    assert found("./-") == ["./-"]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input"):
        find_images(["-"])
