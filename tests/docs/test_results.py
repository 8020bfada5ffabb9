"""Results of machines: what make results keeps, what it takes out, and that every file in docs/results fits its schema."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from runtime.errors import UserError
from runtime.sweep.rows import Report, write_rows
from tests.benchmarks import results
from tests.in_process import called
from tests.runtime.sweep.sweep_rows import failed, report, row

pytest.importorskip("jsonschema", reason="jsonschema is not installed: make test installs it")
DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMA = DOCS / "results" / "schema.json"


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """A sweep in reports/ of the current folder, with all that tells whose machine it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results.platform, "node", lambda: "annas-orin")
    monkeypatch.setattr(results, "_user", lambda: "annamaria")
    monkeypatch.setattr(results, "gpus", lambda: ([], "", []))
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "schema.json").write_text(SCHEMA.read_text())
    site = {"node": "annas-orin", "machine": "aarch64", "python": "3.10.12"}
    rows = [
        row("b0", "fp32", 10, 80.0, site=site, artifact="/home/annamaria/edge net/artifacts/b0/b0.fp32.onnx"),
        row("b0", "int8", 5, 79.0, site=site, agreement=99.0, warnings=["annas-orin throttled itself"]),
        row("b1", "fp32", 20, site=site, random=True, published_top1=79.1, published_source="the paper"),
        replace(
            failed("b7", "fp32", "There is no /home/annamaria/x/b7.onnx (C:\\Users\\annamaria\\b7.onnx)."), site=site
        ),
    ]
    found = report(rows, "sweep", {"cpu": "Cortex-A78AE", "load": {"seconds": 1}})
    write_rows(found, tmp_path / "reports" / "sweep")
    return found


def make(name: str = "orin-nano", drawn: bool = False) -> dict:
    with contextlib.ExitStack() as stack:
        if not drawn:  # drawing takes seconds
            stack.enter_context(mock.patch.object(results.chart, "can_draw", lambda rows: False))
        done = called(results.main, "--name", name, "--docs", Path("docs"))
    assert done.status == 0 and "fits docs/results/schema.json" in done.out, done.err
    return json.loads(Path("docs", "results", name, "results.json").read_text())


def test_one_file_without_paths_and_names(swept: Report) -> None:
    collected, text = make(drawn=True), Path("docs/results/orin-nano/results.json").read_text()
    for private in ("anna", "home", "Users", "edge net", '"node"', '"load"'):
        assert private not in text, private
    assert [each["artifact"] for each in collected["rows"]][0] == "b0.fp32.onnx"
    assert collected["rows"][3]["reason"] == "There is no b7.onnx (b7.onnx)."
    assert collected["gpu"]["not_measured"] == ["all: there is no NVIDIA driver"]
    table = Path("docs/results/orin-nano/README.md").read_text()
    assert "| **b0** | fp32 | onnxruntime | 10.00 | 12.0 | 80.0 (79.0 to 81.0) |" in table
    assert "| 79.1 *published* | - | 21.0 | *random* |" in table and "There is no b7.onnx" in table
    for name in ("sweep.png", "scaling.png", "sweep.html"):
        assert Path("docs/results/orin-nano", name).stat().st_size > 1000


def test_the_overview_has_every_board(swept: Report) -> None:
    make("orin-nano")
    make("a-desktop")
    lines = Path("docs/results.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    assert [line.split("]")[0] for line in rows] == ["| [a-desktop", "| [orin-nano"]
    assert "| 3 of 4 | b0 int8: 5.0 ms, 79.0 % | b0 fp32: 10.0 ms, 80.0 % | no GPU |" in rows[0]


def test_steps_on_a_gpu_with_what_failed_and_why(swept: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "gpus", lambda: ([object()], "", []))
    printed = (
        "driver  CUDA driver 12.2\nBELOW THE BAR  b0 fp16 batch 1: cosine 0.9\n"
        "NOT MEASURED   pycuda: pycuda is not installed in /home/annamaria/.venv/lib (status 3)\n"
    )

    def measure(command: list, **_: object) -> subprocess.CompletedProcess:
        assert command[1].endswith("tests/gpu/measure.py")
        Path(command[3]).write_text(json.dumps({"driver": [{"what": "CUDA driver 12.2", "call_us": 1.5}]}))
        return subprocess.CompletedProcess(command, 1, printed)

    monkeypatch.setattr(results.subprocess, "run", measure)
    gpu = make()["gpu"]
    assert gpu["below_the_bar"] == ["b0 fp16 batch 1: cosine 0.9"] and list(gpu["steps"]) == ["driver"]
    assert gpu["not_measured"] == ["pycuda: pycuda is not installed in lib (status 3)"]
    assert "- driver: CUDA driver 12.2. call_us 1.5" in Path("docs/results/orin-nano/README.md").read_text()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"artifact": "/home/anna/b0.onnx"}, "rows/0/artifact"),
        ({"site": {"node": "annas-orin"}}, "rows/0/site"),
        ({"reason": "no room on /media/anna/stick"}, "rows/0/reason"),
        ({"top1": 140.0}, "rows/0/top1"),
        ({"total": {"p50": 3.0}}, "rows/0/total"),
    ],
)
def test_the_schema_refuses(swept: Report, change: dict, where: str) -> None:
    collected = make()
    collected["rows"][0].update(change)
    with pytest.raises(UserError, match=where):
        results.valid(collected, SCHEMA)


def test_every_kept_file_fits_and_its_pages_are_of_it() -> None:
    kept = results.boards(DOCS / "results")
    for name, collected in kept:
        assert results.valid(collected, SCHEMA).startswith("fits") and collected["name"] == name
        written = (DOCS / "results" / name / "README.md").read_text()
        assert written == results.table(collected, results.report_of(collected), True), f"{name}: run make results"
    assert (DOCS / "results.md").read_text() == results.overview(DOCS / "results")
