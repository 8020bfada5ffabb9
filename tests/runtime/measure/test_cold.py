"""Cold starts: what several make, and a child that talks a lot, says what is not ours, or dies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.errors import UserError
from runtime.measure import cold
from runtime.measure.cold import Cold, _one, cold_start
from runtime.networks import opening
from tests.in_process import called

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
        (f"import sys; print('{LOADED}'); print('{ANSWERED}'); sys.exit(3)", "ended with status 3"),
    ],
)
def test_a_child_that_fails_is_told_in_its_words(program: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        _one(child(program))


def test_several_starts_make_medians_and_the_most_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, commands = [Cold(4, 9, 10), Cold(1, 5, None), Cold(2, 6, 30)], []
    monkeypatch.setattr(cold, "_one", lambda command: commands.append(command) or starts[len(commands) - 1])
    assert cold_start(Path("b0.onnx"), "openvino", 8, threads=3) == Cold(2, 6, 30)
    words = ["--model", "b0.onnx", "--backend", "openvino", "--batch", "8", "--threads", "3"]
    assert [command[-8:] for command in commands] == [words] * 3


def test_the_child_answers_the_batch_that_is_asked_for_and_tells_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def opened(model: str, backend: str, threads: int) -> SimpleNamespace:
        asked.update(model=model, backend=backend, threads=threads)
        return SimpleNamespace(
            preprocess=len, logits=lambda count: np.zeros((asked.setdefault("images", count), 2)), close=lambda: None
        )

    monkeypatch.setattr(opening, "open_network", opened)
    monkeypatch.setattr(cold, "peak_bytes", lambda: 42_000_000)
    done = called(cold.main, "--model", "b0.onnx", "--backend", "openvino", "--batch", 8, "--threads", 3)
    assert asked == {"model": "b0.onnx", "backend": "openvino", "threads": 3, "images": 8}
    assert [json.loads(line) for line in done.out.splitlines()] == [{"at": "loaded"}, {"at": "answered", "peak_mb": 42}]
