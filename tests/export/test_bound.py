"""make bound: B0 by hand, and whose graph it is that was counted."""

from __future__ import annotations

import shutil

import pytest

from export.bound import EVERY_LAYER, TRACED, graph_of, main
from runtime.artifacts.artifact import read_artifact, sealed
from runtime.errors import UserError
from runtime.measure.bound import DEVICES, bound, kernels_in
from tests.runtime.artifacts.changed_artifacts import unsealed


def test_b0_on_an_agx_orin_is_a_quarter_of_a_millisecond_of_memory_alone(tmp_path, monkeypatch, capsys):
    """By hand: 41.6 MB of activations and 10.5 MB of weights in FP16, at 204.8 GB/s."""
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path))
    assert main(["--variants", "B0", "--device", "agx-orin", "--batches", "1,8"]) == 0
    out = capsys.readouterr().out
    fp16, eight, int8, _ = (line.split() for line in out.splitlines() if line.startswith("b0"))
    assert fp16[:4] == ["b0", "fp16", "1", "115"] and float(fp16[6]) == pytest.approx(0.254, abs=0.002)
    assert float(fp16[9]) == pytest.approx(0.254 + 115 * 0.0005, abs=0.005)
    assert float(eight[6]) == pytest.approx((8 * 41.6 + 10.5) / 204.8, rel=0.01)
    assert float(int8[6]) == pytest.approx(0.127, abs=0.001) and EVERY_LAYER in out and TRACED in out
    assert "latency" not in out and "computed and not measured" in out


def test_an_artifact_is_counted_as_it_is(small, tmp_path, monkeypatch):
    """By its metadata; by its graph where an older export wrote none. INT8 does not inherit FP32's."""
    fp32 = small / "b0" / "b0.fp32.onnx"
    home = shutil.copytree(small / "b0", tmp_path / "b0")
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path))
    told = kernels_in(read_artifact(fp32).metadata)
    assert len(told) == 115 and told == kernels_in(read_artifact(small / "b0" / "b0.fp16.onnx").metadata)
    assert graph_of("b0", "fp32") == (told, str(home / "b0.fp32.onnx"))
    graph, metadata = unsealed(fp32)
    metadata.pop("kernels")
    (home / "b0.fp16.onnx").write_bytes(sealed(graph, "fp16", metadata)[0])
    assert graph_of("b0", "fp16").kernels == told
    assert bound(told, DEVICES["h200"]).ms < bound(told, DEVICES["orin-nano-15w"]).ms


def test_mistakes_are_sentences(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr("export.bound.machine", lambda: {"cpu": "a CPU"})
    for arguments, sentence in (
        ("", "This machine is not in the table of devices: name one with DEVICE="),
        ("--device tx2", "no device 'tx2'"),
        ("--device thor --variants b9", "There is no variant 'b9'"),
        ("--device thor --precisions int4", "There is no precision 'int4'"),
    ):
        with pytest.raises(UserError, match=sentence):
            main(arguments.split())
