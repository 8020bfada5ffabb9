"""Faults of a line each, and the tests that must notice them: what a user would be told wrong, and nobody would see."""

from __future__ import annotations

from tests.mutants import making, measuring, running
from tests.mutants.mutant import Mutant

MUTANTS: list[Mutant] = [*making.MUTANTS, *measuring.MUTANTS, *running.MUTANTS]
