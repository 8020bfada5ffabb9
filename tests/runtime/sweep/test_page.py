"""The page and the chart: nothing from elsewhere, nothing hidden, and what is published looks it."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import sys

import pytest

from runtime.sweep.__main__ import write_report
from runtime.sweep.page import page
from runtime.sweep.rows import as_csv, flattened, frontier, read_rows, write_rows
from tests.runtime.sweep.sweep_rows import failed, report, row

HOSTILE = "</script><img src=x onerror=alert(1)>"
ROWS = [
    row("b0", "fp32", 10, 77.0, warnings=["clocks are not locked"]),
    row("b0", "int8", 4, 76.0),
    row("b1", "fp32", 15, published_top1=79.8, published_source="somebody's paper"),
    row("b1", "int8", 6, published_top1=79.8),
    row("b2", "fp32", 20, random=True),
    row("resnet50", "fp32", 18, 76.1, foreign=True),
    failed("b7", "int8", f"no memory {HOSTILE}"),
]


class Cells(html.parser.HTMLParser):
    """Text of the cells of each table row, tags that were left open, and addresses that would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.open, self.addresses, self.cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br", "path", "use"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.addresses += [
            value for name, value in attributes if name in ("src", "href", "xlink:href") and not value.startswith("#")
        ]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.open, tag)
        self.open.pop()

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_needs_no_network_and_escapes_what_it_shows():
    text = page(report(ROWS, name=f"a {HOSTILE}"), ["<svg></svg>", "<svg></svg>"])
    cells = Cells(text)
    assert cells.open == [] and cells.addresses == []
    assert HOSTILE not in text and "no memory &lt;/script&gt;" in text
    assert "clocks are not locked" in text


def test_the_table_marks_what_is_published_and_gives_int8_and_random_weights_no_accuracy():
    rows = {tuple(cells[:2]): cells for cells in Cells(page(report(ROWS), [])).rows if len(cells) > 8}
    assert rows["b0", "fp32"][3] == "77.0 76.0 to 78.0"
    assert rows["b1", "fp32"][3] == "79.8 published"
    assert rows["b1", "int8"][3] == ""
    assert rows["b2 random", "fp32"][3] == ""


def test_a_bound_stands_beside_the_measurement():
    gpu = row("b0", "fp16", 10, bound_ms=4.5, bound_device="orin-nano")
    head, cells = Cells(page(report([gpu]), [])).rows[:2]
    assert cells[head.index("x the bound")] == "2.0"
    table = list(csv.DictReader(io.StringIO(as_csv([gpu]))))
    assert (table[0]["bound_ms"], table[0]["bound_device"]) == ("4.5", "orin-nano")
    assert "x the bound" not in Cells(page(report(ROWS), [])).rows[0]


def test_only_what_was_measured_is_on_the_frontier():
    assert [(each.row.variant, each.row.precision) for each in frontier(ROWS)] == [("b0", "int8"), ("b0", "fp32")]


def test_the_chart_is_drawn_and_fits_into_the_page():
    pytest.importorskip("matplotlib")
    from runtime.sweep import chart

    assert chart.png(ROWS).startswith(b"\x89PNG")
    assert chart.svg(ROWS) == chart.svg(ROWS)  # the same figures are the same file
    drawn = [chart.svg_for_page(ROWS, size, name) for size, name in ((chart.WIDE, "w"), (chart.NARROW, "n"))]
    names = re.findall(r"<text[^>]*>([^<]*)</text>", drawn[0])
    assert sorted(name for name in names if re.match("b[0-9]|resnet", name)) == ["b0", "b0", "b1", "resnet50"]
    assert any("published" in name for name in names)
    text = page(report(ROWS), drawn)
    assert Cells(text).addresses == []
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', text)) <= set(ids)


def test_where_there_is_no_chart_the_page_says_why(tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep.png").write_bytes(b"of another day")
    assert write_report(report([row(random=True), failed("b0", "int8", "broken")]), tmp_path) == ["sweep.html"]
    assert "no accuracy is known" in capsys.readouterr().err and not (tmp_path / "sweep.png").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # not installed
    assert write_report(report(ROWS), tmp_path) == ["sweep.html"]
    assert "pip install matplotlib" in capsys.readouterr().err
    text = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "pip install matplotlib" in text and "77.0" in text


def test_the_files_hold_every_row(tmp_path):
    written = report(ROWS)
    write_rows(written, tmp_path)
    assert read_rows(tmp_path) == read_rows(tmp_path / "sweep.json") == written
    table = list(csv.DictReader(io.StringIO(as_csv(ROWS))))
    assert [line["variant"] for line in table] == [each.variant for each in ROWS]
    assert (table[0]["p50_ms"], table[0]["top1_low"], table[0]["decode_ms"]) == ("10", "76.0", "1")
    assert table[-1]["p50_ms"] == "" and "no memory" in table[-1]["reason"]


def test_a_nested_record_as_lines():
    record = {
        "cpu": "x",
        "gpus": [{"name": "Orin"}],
        "clocks_locked": False,
        "clocks_mhz": {"cpu": [100, 200]},
        "none": [],
    }
    assert flattened(record) == [
        ("cpu", "x"),
        ("gpus name", "Orin"),
        ("clocks locked", "no"),
        ("clocks mhz cpu", "100, 200"),
    ]
