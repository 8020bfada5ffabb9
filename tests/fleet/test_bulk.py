"""runtime.infer over a real cluster of several nodes, of which one is killed, and then the driver: `make test-ray`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest

pytest.importorskip("ray", reason="ray is not installed: make test-ray installs it")
import pyarrow
import pyarrow.parquet as parquet

from tests.fleet.nodes import Done, Nodes, run, started, until


def parts(out: Path, kind: str = "results") -> Dict[str, bytes]:
    """The files of a table."""
    return (
        {path.name: path.read_bytes() for path in sorted((out / kind).glob("part-*"))} if (out / kind).is_dir() else {}
    )


def rows(out: Path, kind: str = "results") -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    for path in sorted((out / kind).glob("part-*")):
        found += parquet.read_table(path).to_pylist()
    return found


def require_each_once(out: Path, alone: Done) -> None:
    """Every image of `alone` is in one of the two tables, and in one place of it, with the same numbers and words."""
    lines = [json.loads(line) for line in alone.out.splitlines()]
    expected = [(i, line["file"], line["predictions"]) for i, line in enumerate(lines) if "error" not in line]
    assert [(row["position"], row["file"], row["predictions"]) for row in rows(out)] == expected
    expected = [(i, line["file"], line["error"]) for i, line in enumerate(lines) if "error" in line]
    assert [(row["position"], row["file"], row["reason"]) for row in rows(out, "unreadable")] == expected


def test_prints_what_one_machine_prints(nodes, model, photographs, alone, tmp_path):
    done = run(tmp_path, "runtime.infer", photographs, "--json", "--model", model, "--ray", nodes.address)
    assert (done.status, done.out) == (1, alone.out), done.err
    network, *errors = alone.err.splitlines()
    assert done.err.startswith(f"{network.partition(' on ')[0]} on 2 x onnxruntime")
    assert [line for line in done.err.splitlines() if line.startswith("error") or "images failed" in line] == errors
    assert not any(tmp_path.glob("reports/.infer*")), "what was only for the time of the job is left"


def test_parquet_and_a_second_run(nodes, model, photographs, alone, tmp_path):
    arguments = ("runtime.infer", photographs, "--model", model, "--out", tmp_path / "out", "--ray", nodes.address)
    done = run(tmp_path, *arguments)
    assert done.status == 1 and f"{len(alone.out.splitlines()) - 3} images in {tmp_path}/out/results" in done.out, (
        done.err
    )
    require_each_once(tmp_path / "out", alone)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/part-*")}
    again = run(tmp_path, *arguments)
    assert (again.status, again.out) == (1, done.out)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/part-*")} == stamps
    other = run(tmp_path, *arguments, "--top", 1)
    assert other.status == 2 and "another job (other top)" in other.err


def test_a_node_is_killed_in_the_middle(model, photographs, alone, tmp_path):
    cluster = Nodes(2)
    try:
        arguments = (
            "runtime.infer",
            photographs,
            "--model",
            model,
            "--out",
            tmp_path / "out",
            "--ray",
            cluster.address,
        )
        with started(tmp_path, *arguments) as driver:
            until(lambda: len(parts(tmp_path / "out")) > 1, driver)
            os.kill(driver.pid, signal.SIGSTOP)  # so that nothing gets written while the node dies
            before = parts(tmp_path / "out")
            cluster.kill(0)
            os.kill(driver.pid, signal.SIGCONT)
            driver.wait(timeout=600)
        facts = json.loads((tmp_path / "out" / "_job.json").read_text())
        count, size, lead = facts["groups"]
        assert len(before) < -(-(count - lead) // size), "the job was over before the node was killed"
        assert driver.returncode == 1, (tmp_path / "stderr.txt").read_text()
        require_each_once(tmp_path / "out", alone)
        assert {name: content for name, content in parts(tmp_path / "out").items() if name in before} == before
    finally:
        cluster.stop()


def test_the_driver_is_killed_and_run_again(nodes, model, photographs, alone, tmp_path):
    arguments = ("runtime.infer", photographs, "--model", model, "--out", tmp_path / "out", "--ray", nodes.address)
    with started(tmp_path, *arguments) as driver:
        until(lambda: len(parts(tmp_path / "out")) > 1, driver)
        driver.kill()
        driver.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("results/part-*")}
    assert kept
    done = run(tmp_path, *arguments)
    assert done.status == 1 and "are done already" in done.err, done.err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was done was done again"
    require_each_once(tmp_path / "out", alone)


def test_manifest_parquet_and_url(nodes, model, photographs, alone, tmp_path):
    lines = [json.loads(line) for line in alone.out.splitlines()]
    (tmp_path / "all.txt").write_text("".join(f"{line['file']}\n" for line in lines))
    encoded = [Path(line["file"]).read_bytes() if Path(line["file"]).exists() else None for line in lines]
    table = pyarrow.table({"path": [line["file"] for line in lines], "image": pyarrow.array(encoded, pyarrow.binary())})
    parquet.write_table(table, tmp_path / "all.parquet", row_group_size=20)
    expected = run(tmp_path, "runtime.infer", *3 * [photographs], "--json", "--model", model)
    sources = (tmp_path / "all.txt", tmp_path / "all.parquet", f"file://{photographs}")
    done = run(tmp_path, "runtime.infer", *sources, "--json", "--model", model, "--ray", nodes.address)
    assert done.status == 1, done.err
    answers = [[json.loads(line).get("predictions") for line in each.out.splitlines()] for each in (done, expected)]
    assert answers[0] == answers[1] and len(answers[0]) == 3 * len(lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/*.jpg", "--ray"], "No file matches nowhere/*.jpg"),
        (["empty", "--ray"], "There are no images in empty"),
        (["-", "--ray"], "can't read standard input"),
        (["empty", "--ray", "127.0.0.1:1"], "There are no images in empty"),
        (["a.jpg", "--ray", "127.0.0.1:1"], "No Ray cluster answers at 127.0.0.1:1"),
        (["a.jpg", "--ray", "ray://127.0.0.1:1"], "for Ray's client"),
        (["a.jpg", "--ray", "nonsense"], "'nonsense' is no address of a Ray cluster"),
        (["s4://bucket/photos", "--ray"], "s4://bucket/photos: Protocol not known"),
        (["a.jpg", "--ray", "--ray-gpus", "1"], "The cluster has 0 GPUs"),
    ],
)
def test_mistakes(arguments, said, model, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run(tmp_path, "runtime.infer", *arguments, "--model", model)
    assert done.status == 2 and said in done.err and "Traceback" not in done.err, done.err
    assert len(done.err.splitlines()) == 1
