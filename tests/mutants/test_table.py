"""The table of faults follows the code: `make mutants` takes minutes and runs on request, this takes none."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import REPOSITORY
from tests.mutants.mutant import Mutant
from tests.mutants.table import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_fault_fits_the_code_and_its_tests_are_there(mutant: Mutant) -> None:
    code = (REPOSITORY / mutant.file).read_text(encoding="utf-8")
    assert code.count(mutant.old) == 1, f"{mutant.file} holds {mutant.old!r} {code.count(mutant.old)} times"
    for test in mutant.tests.split():
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (REPOSITORY / file).read_text(encoding="utf-8"), test
