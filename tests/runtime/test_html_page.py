"""What the HTML reports share: hostile text stays text, and a page is whole."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import List

from runtime.html_page import definitions, document, escape, tag

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
