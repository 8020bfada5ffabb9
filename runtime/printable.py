"""Text from files and file names, as a terminal or a page may safely show it."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with everything that could steer a terminal, or break a line, shown as an escape instead."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
