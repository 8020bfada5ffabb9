"""On the CPU, INT8 is measured beside FP32, and a user is told when it buys nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import calibration.report.speed as speed_module
from calibration.layer_graph import LayerGraph, chunks, logits_of, open_session
from calibration.quantise.placement import quantised_graph
from calibration.quantise.prepare import prepare
from calibration.report.speed import Speed, measure_speed, openvino_logits, verdict
from runtime import bench
from runtime.measure.cold import Cold
from tests.calibration.small_network import SIDE, small_model, write_artifact
from tests.in_process import called


def test_every_engine_is_measured_against_fp32(
    network: LayerGraph, batch: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_module, "_SECONDS", 0.05)
    monkeypatch.setattr(speed_module, "run_module", lambda _, *words: called(bench.main, *words))
    monkeypatch.setattr(bench, "cold_start", lambda *_: Cold(2.0, 3.0, None))
    prepared = prepare(network, lambda: chunks(batch), 1)
    graph = quantised_graph(network, prepared.layers, prepared.identities)
    speeds = measure_speed(network.to_model(), graph, write_artifact(tmp_path, small_model()), 1)
    assert [speed.engine for speed in speeds[:2]] == ["FP32, onnxruntime", "INT8, onnxruntime"]
    assert speeds[0].gain == 1 and all(speed.milliseconds > 0 for speed in speeds)
    assert speeds[1].gain == speeds[0].milliseconds / speeds[1].milliseconds


def test_verdict_names_the_best_engine_or_says_that_it_is_not_worth_it() -> None:
    fp32, slow, quick = (
        Speed("FP32, onnxruntime", 10, 1),
        Speed("INT8, onnxruntime", 40, 0.25),
        Speed("INT8, OpenVINO", 4, 2.5),
    )
    assert "2.50 times as fast" in verdict([fp32, slow, quick]) and "OpenVINO" in verdict([fp32, slow, quick])
    assert verdict([fp32, slow]).startswith("not worth it") and "openvino" in verdict([fp32, slow])
    assert verdict([fp32, slow, Speed("INT8, OpenVINO", 9, 1.11)]).startswith("not worth it")
    saturated = verdict([fp32, slow, Speed("INT8, OpenVINO", 4, 2.5, lost=9.5)])
    assert saturated.startswith("not worth it") and "9.5 % fewer images" in saturated


def test_openvino_is_judged_by_what_it_answers(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    network = LayerGraph(small_model())
    batch = np.random.default_rng(0).normal(0, 0.7, (4, 3, SIDE, SIDE)).astype(np.float32)
    logits = openvino_logits(network.to_model(), [batch[:3], batch[3:]], write_artifact(tmp_path, small_model()))
    assert logits is not None and np.allclose(
        logits, logits_of(open_session(network.to_model(), 1), [batch]), atol=1e-3
    )
