"""Cold starts: a child that talks a lot, says what is not ours, or dies."""

from __future__ import annotations

import sys

import pytest

from runtime.errors import UserError
from runtime.measure.cold import _one

LOADED, ANSWERED = '{"at": "loaded"}', '{"at": "answered", "peak_mb": 12.5}'


def child(program: str) -> list:
    return [sys.executable, "-c", program, "-", "b0.onnx"]


def test_a_child_may_say_more_on_stderr_than_a_pipe_holds() -> None:
    cold = _one(child(f"import sys; sys.stderr.write('x' * 200_000); print('{LOADED}'); print('{ANSWERED}')"))
    assert cold.peak_mb == 12.5 and 0 < cold.load_ms <= cold.start_ms


def test_lines_of_a_library_among_ours_are_passed_over() -> None:
    cold = _one(child(f"print('TensorRT: loading'); print('{LOADED}'); print('[1, 2]'); print('{ANSWERED}')"))
    assert cold.peak_mb == 12.5


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; print('error: no GPU', file=sys.stderr); sys.exit(2)", "can't run b0.onnx: error: no GPU"),
        (f"print('{LOADED}')", "ended with status 0 and without a word"),
    ],
)
def test_a_child_that_fails_is_told_in_its_words(program: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        _one(child(program))
