"""docs/troubleshooting.md: each message on it exists, and each file that raises UserError has one there."""

from __future__ import annotations

import re

import pytest

from tests.docs.user_errors import ANY, ROOT, messages

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
MESSAGES = messages()


def found(row: str, message: str) -> bool:
    """Whether the words of `row` stand in `message`, whatever either of them fills in."""
    pattern = ".*".join(re.escape(part.strip()) for part in row.split(ANY))
    return re.search(pattern, message, re.DOTALL) is not None


def test_every_row_has_a_message_a_cause_and_a_remedy() -> None:
    table = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(table) > 50 and len(ROWS) == len(table)


@pytest.mark.parametrize("row", ROWS)
def test_a_message_on_the_page_exists(row: str) -> None:
    assert any(found(row, message) for texts in MESSAGES.values() for message in texts)


@pytest.mark.parametrize("module", sorted(MESSAGES))
def test_every_file_that_raises_user_errors_is_on_the_page(module: str) -> None:
    assert any(found(row, text) for row in ROWS for text in MESSAGES[module]), (
        f"give docs/troubleshooting.md a row for one of the messages of {module}: {MESSAGES[module]}"
    )
