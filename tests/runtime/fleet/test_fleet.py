"""Bulk work, as far as it needs no Ray: which images are meant, how they are grouped, what a folder of results holds."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import List, Optional

import pytest

from runtime.errors import UserError
from runtime.fleet.groups import Groups, cut
from runtime.fleet.sources import Entry, contents, entries
from runtime.fleet.store import Store
from runtime.images.decode import DECODING, ImageError
from runtime.images.preprocess import Preprocessing
from runtime.networks.pipeline import grown

CORGI = Path(__file__).resolve().parents[2] / "data" / "corgi.jpg"
RECIPE = Preprocessing(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def names(*arguments: object, column: Optional[str] = None) -> List[str]:
    return [entry.name for entry in entries([str(argument) for argument in arguments], column)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.png", "notes.txt", ".hidden.jpg", "sub/c.JPG"):
        path = tmp_path / "my photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "my photos"


def test_folder_pattern_and_file(photos):
    assert names(photos) == [f"{photos}/a.png", f"{photos}/b.jpg", f"{photos}/sub/c.JPG"]
    assert names(f"{photos}/*.jpg", "gone.jpg") == [f"{photos}/b.jpg", "gone.jpg"]
    assert next(entries(["gone.jpg"])).where == os.path.abspath("gone.jpg")


def test_names_that_are_no_utf8(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert os.fsencode(names(tmp_path)[0]).endswith(b"caf\xe9.jpg")


def test_manifests(photos, tmp_path):
    lines = tmp_path / "all.txt"
    lines.write_text("my photos/b.jpg\n\n/elsewhere/d.jpg\ns3://bucket/e.jpg\n", encoding="utf-8-sig")
    assert list(entries([str(lines)])) == [
        Entry(f"{tmp_path}/my photos/b.jpg", f"{tmp_path}/my photos/b.jpg"),
        Entry("/elsewhere/d.jpg", "/elsewhere/d.jpg"),
        Entry("s3://bucket/e.jpg", "s3://bucket/e.jpg"),
    ]
    table = tmp_path / "all.csv"
    table.write_text('id,file,thumb\n1,"/a, b.jpg",/t.jpg\n')
    assert names(table) == ["/a, b.jpg"] and names(table, column="thumb") == ["/t.jpg"]


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("id,photo\n1,a.jpg\n", None, "Which column .* id, photo: name one with --column"),
        ("id,photo\n1,a.jpg\n", "pic", "no column 'pic': it has id, photo"),
        ("id,file\n1,a.jpg\n2\n", None, "row 3: no file"),
        ("file\n", None, "There are no images in"),
        ("", None, "Which column"),
    ],
)
def test_manifests_that_can_not_be_read(text, column, said, tmp_path):
    (tmp_path / "all.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        names(tmp_path / "all.csv", column=column)


def test_nothing_to_do(tmp_path):
    for argument, said in (
        (tmp_path, "There are no images in"),
        (f"{tmp_path}/*.jpg", "No file matches"),
        ("-", "standard"),
    ):
        with pytest.raises(UserError, match=said):
            names(argument)


def test_parquet_of_pictures_and_of_paths(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    struct = [{"bytes": CORGI.read_bytes(), "path": "x"}, None, {"bytes": b"no image", "path": "y"}]
    tables = {
        "bytes": {
            "name": ["one", None, "three"],
            "jpg": [CORGI.read_bytes(), None, b"no image"],
            "path": ["p", None, "q"],
        },
        "struct": {"image": struct},
        "paths": {"url": ["a.jpg", "/b.jpg"], "size": [1, 2]},
    }
    for name, columns in tables.items():
        parquet.write_table(pyarrow.table(columns), str(tmp_path / f"{name}.parquet"), row_group_size=1)
    assert names(tmp_path / "paths.parquet") == [f"{tmp_path}/a.jpg", "/b.jpg"]
    assert names(tmp_path / "bytes.parquet") == ["p", f"{tmp_path}/bytes.parquet:1", "q"]
    for name in ("bytes", "struct"):
        listed = list(entries([str(tmp_path / f"{name}.parquet")]))
        found = [content for _, content in contents([listed[0], listed[2], listed[1]], DECODING)]  # backwards too
        assert found[:2] == [CORGI.read_bytes(), b"no image"]
        assert isinstance(found[2], ImageError) and "nothing in this row" in str(found[2])
    with pytest.raises(UserError, match="should hold bytes or paths"):
        names(tmp_path / "paths.parquet", column="size")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="can't be read as Parquet"):
        names(tmp_path / "bad.parquet")


def test_object_storage(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for name in ("b.jpg", "a.jpg", ".thumbs/a.jpg", "readme.md"):
        files.pipe_file(f"/bucket/{name}", name.encode())
    listed = list(entries(["memory://bucket"]))
    assert [entry.name for entry in listed] == ["memory:///bucket/a.jpg", "memory:///bucket/b.jpg"]
    gone = Entry("memory://bucket/gone.jpg", "memory://bucket/gone.jpg")
    found = [content for _, content in contents([*listed, gone], DECODING)]
    assert found[:2] == [b"a.jpg", b"b.jpg"]
    assert str(found[2]) == "memory://bucket/gone.jpg: cannot be opened: No such file or directory."
    assert len(next(contents(listed[:1], DECODING._replace(max_bytes=2)))[1]) == 3
    store = Store("memory://bucket/out")
    store.write("results/part-1", b"1")
    assert store.names("results") == {"part-1"} and store.read("results/part-1") == b"1"
    assert store.names("unreadable") == set() and store.read("gone") is None
    store.remove("results/part-1")
    store.remove("gone")
    assert store.names("results") == set()
    with pytest.raises(UserError, match="s4://x: Protocol not known"):
        names("s4://x")


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("growing", [True, False])
def test_groups_begin_where_a_batch_does(batch, growing):
    begins, size, at = {0}, 1 if growing else batch, 0
    while at < 5000:
        at, size = at + size, min(2 * size, batch)
        begins.add(at)
    assert not growing or grown(batch) in begins
    for count in (0, 1, 7, 8, 100, 4999):
        groups = cut(count, batch, [RECIPE], 2, growing)
        spans = [groups.span(group) for group in range(len(groups))]
        assert [start for start, _ in spans[1:]] == [stop for _, stop in spans[:-1]]
        assert (spans[0][0], spans[-1][1]) == (0, count) if count else not spans
        assert {start for start, _ in spans} <= begins and all(start < stop for start, stop in spans)


def test_a_group_is_bounded():
    assert cut(10_000_000, 8, [RECIPE], 100, True).size == (64 << 20) // (3 * 224 * 224) // 8 * 8
    assert cut(10_000_000, 8, [RECIPE._replace(resolution=600)], 100, True).size == 56
    assert Groups(10, 8, 7).span(0) == (0, 10)


def test_a_second_process_is_told(tmp_path):
    store = Store(str(tmp_path / "out"))
    with store.mine(), pytest.raises(UserError, match="Another process is writing"), Store(
        str(tmp_path / "out")
    ).mine():
        pass
    with store.mine():
        pass


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("infer", ["a.jpg", "--ray"], "Ray can't be imported"),
        ("evaluate", ["--data", "photos", "--ray"], "Ray can't be imported"),
        ("sweep.__main__", ["--ray"], "Ray can't be imported"),
        ("infer", ["--ray", str(CORGI), str(CORGI)], "put --ray last"),
        ("infer", ["a.jpg", "--out", "results"], "add --ray"),
        ("infer", ["a.jpg", "--ray-gpus", "1"], "add --ray"),
        ("infer", ["a.jpg", "--ray", "--ray-gpus", "some"], None),
    ],
)
def test_mistakes(module, arguments, said, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # as on a machine without it
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    for variable in (
        "RAY_USAGE_STATS_ENABLED",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    ):
        monkeypatch.setenv(variable, "0")
    with pytest.raises(UserError if said else SystemExit, match=said) as raised:
        importlib.import_module(f"runtime.{module}").main()
    assert raised.value.status == 2 if said else "is no number of GPUs" in capsys.readouterr().err
