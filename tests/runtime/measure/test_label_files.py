"""Which files a list of labels means: the same for every way to write the paths, or a refusal; never another image."""

from __future__ import annotations

from typing import List, Optional

import pytest

from runtime.errors import UserError
from runtime.measure.label_files import match_files

FILES = [f"{kind}/IMG_{i:04}.jpg" for kind in ("cats", "dogs", "more/cats") for i in (1, 2)]


def match(listed: List[str], files: List[str]) -> List[Optional[str]]:
    return match_files(listed, files, "/data/photos")


@pytest.mark.parametrize(
    "written",
    [
        "{}",
        "./{}",
        "photos/{}",
        "/data/photos/{}",
        "/home/somebody/Desktop/photos/{}",
        "other/../photos/{}",
        "photos//{}",
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ""])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_paths_as_other_machines_write_them(written: str, suffix: str, slash: str) -> None:
    listed = [written.format(file.replace(".jpg", suffix)).replace("/", slash) for file in FILES]
    assert match(listed, FILES) == FILES


def test_a_drive_and_other_case() -> None:
    assert match(["C:\\photos\\CATS\\img_0001.JPG"], FILES[:4]) == ["cats/IMG_0001.jpg"]
    assert match(["a/X.jpg", "a/x.jpg"], ["a/x.jpg", "a/X.jpg"]) == ["a/X.jpg", "a/x.jpg"]


def test_accents_as_a_mac_writes_them() -> None:
    assert match(["k\u00e4fer.jpg", "ke\u0301fir.jpg"], ["ka\u0308fer.jpg", "k\u00e9fir.jpg"]) == [
        "ka\u0308fer.jpg",
        "k\u00e9fir.jpg",
    ]


def test_names_as_browsers_write_them() -> None:
    files = ["my dog/a.jpg", "b/100%.jpg", "b/a.jpg"]
    assert match_files(["data/my%20dog/a.jpg", "b/100%25.jpg", "b/a.jpg"], files, "photos") == files


def test_the_longest_common_end_decides() -> None:
    assert match(["cats/IMG_0001.jpg", "more/cats/IMG_0001.jpg"], FILES) == [FILES[0], FILES[4]]
    assert match(["x.jpg"], ["x.jpg", "a/x.jpg"]) == ["x.jpg"]
    assert match(["x.png", "x.jpg"], ["x.jpg", "x.png"]) == ["x.png", "x.jpg"]


def test_a_missing_file_is_never_another_of_its_name() -> None:
    assert match(["cats/IMG_0001.jpg", "birds/IMG_0001.jpg"], FILES) == [FILES[0], None]
    assert match(["cats/IMG_0001.jpg", "dogs/IMG_0009.jpg"], FILES) == [FILES[0], None]
    assert match(["cats/IMG_0001.jpg", "birds/IMG_0001.jpg"], ["cats/IMG_0001.jpg"]) == ["cats/IMG_0001.jpg", None]
    assert match(["x.jpg", "x.png"], ["x.jpg"]) == ["x.jpg", None]


def test_names_that_occur_once_are_enough_where_the_folders_are_others() -> None:
    files = ["n01440764/val_00000293.JPEG", "n01443537/val_00000236.JPEG"]
    assert match(["val_00000236", "val_00000293"], files) == files[::-1]
    assert match(["val/val_00000236.JPEG", "val/val_00000293.JPEG"], files) == files[::-1]
    assert match(["a/1.jpg", "b/1.jpg"], ["c/1.jpg"]) == [None, None]


@pytest.mark.parametrize(
    ("listed", "files", "said"),
    [
        (["IMG_0001.jpg"], FILES, "IMG_0001.jpg may be .*/IMG_0001.jpg or "),
        (["x.gif"], ["a/x.jpg", "a/x.png"], "x.gif may be"),
        (["cats/1.jpg", "dogs/1.jpg"], ["1.jpg"], "1.jpg may be cats/1.jpg or dogs/1.jpg"),
    ],
)
def test_what_stays_ambiguous_is_refused(listed: List[str], files: List[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        match(listed, files)
