"""A fault and the tests that must notice it."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault put into the code by hand."""

    fault: str
    file: str
    old: str  # occurs in the file exactly once
    new: str
    tests: str  # files or test ids, as pytest takes them; one of them must fail
