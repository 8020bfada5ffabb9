"""What the HTML reports share: hostile text stays text, and a page is whole."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import List

from runtime.html_page import BLUE, ORANGE, Axis, Chart, definitions, document, escape, round_axis, tag

HOSTILE = "</title><script>alert(1)</script>\x1b[2J\ud83d"


class Tags(HTMLParser):
    """Names of the elements in a page; raises where one is closed that is not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: List[str] = []
        self.open: List[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.names.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_whole_and_hostile_text_is_shown_as_text() -> None:
    page = document(HOSTILE, definitions([(HOSTILE, HOSTILE)]) + tag("p", "x", title=f'"{HOSTILE}', lang=None))
    tags = Tags(page)
    assert not tags.open and tags.names.count("title") == 1 and "script" not in tags.names
    page.encode()  # a lone surrogate would not
    assert "\x1b" not in page and r"\x1b[2J" in page and "lang=None" not in page


def test_attributes_are_written_as_html_calls_them() -> None:
    assert tag("td", escape("<1"), class_="n", data_v=1, aria_label='a "b"') == (
        '<td class="n" data-v="1" aria-label="a &quot;b&quot;">&lt;1</td>'
    )


def texts(svg: str) -> List[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_an_axis_has_round_names_and_no_minus_zero() -> None:
    names = [name for _, name in round_axis([-0.004, 0.31]).ticks]
    assert names == ["-0.1", "0.0", "0.1", "0.2", "0.3", "0.4"]
    share = round_axis([97.2, 100.0], " %", 100)
    assert (share.low, share.high) == (97, 100) and share.ticks[-1][1] == "100 %"
    assert [name for _, name in round_axis([100.0, 100.0], " %", 100, 1).ticks] == ["99.75 %", "100.00 %"]


def test_everything_of_a_chart_is_within_it_and_of_coinciding_curves_both_are_seen() -> None:
    chart = Chart(Axis(0, 4, [(0, "0"), (4, "4 layers\n97.7 %")]), round_axis([20.0, 201.4], " dB"))
    points = [(0.0, 20.0), (4.0, 201.4), (9.0, 900.0)]
    chart.line(points, BLUE, 1.7)
    chart.line(points, ORANGE)
    chart.mark(2, "var(--ink)", HOSTILE)
    svg = chart.svg(HOSTILE)
    assert not Tags(svg).open and HOSTILE not in svg
    assert "4 layers" in texts(svg) and "97.7 %" in texts(svg) and "200 dB" in texts(svg)
    for name, most in (("x", chart.width), ("y", chart.height)):
        found = [float(value) for value in re.findall(rf'\b(?:c{name}|{name}[12]?)="([^"]*)"', svg)]
        assert found and min(found) >= 0 and max(found) <= most
    for x, _, name in re.findall(r'<text x="([^"]*)" y="([^"]*)" text-anchor="end">([^<]*)<', svg):
        assert float(x) - 7 * len(name) >= 0  # nothing cut off at the left
    widths = [float(width) for width in re.findall(r'<polyline[^>]*stroke-width="([^"]*)"', svg)]
    assert widths[0] > 1.5 * widths[1]
