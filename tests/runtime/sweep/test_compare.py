"""Two sweeps side by side: what is a difference and what is noise."""

from __future__ import annotations

import pytest

from runtime.sweep.compare import SAME, pairs, table
from tests.runtime.sweep.sweep_rows import failed, report, row


@pytest.mark.parametrize(
    ("a", "b", "latency", "accuracy"),
    [
        (row(ms=10, top1=77), row(ms=10.15, top1=78.9), SAME, SAME),
        (row(ms=10, top1=77), row(ms=10.3, top1=79.1), "slower", "better"),
        (row(ms=10, top1=77), row(ms=5, top1=74.9), "faster", "worse"),
        (row(top1=77), row(top1=90, data="others"), SAME, "other images"),
        (row(top1=77), row(), SAME, ""),
        (row("b1"), failed("b1", "fp32", "broken"), None, None),
    ],
)
def test_a_difference_is_one_whose_intervals_do_not_meet(a, b, latency, accuracy):
    found = pairs(report([a]), report([b]))
    if latency is None:  # the one that failed has no backend of its own to be matched by
        assert not found
    else:
        assert (found[0].latency, found[0].accuracy) == (latency, accuracy)


@pytest.mark.smoke
def test_rows_are_matched_by_what_was_measured_and_the_rest_is_named():
    one = report([row("b0"), row("b1"), row("b0", batch=8)], machine={"cpu": "old", "load": {"busy": 1}, "cores": 4})
    two = report(
        [row("b0", ms=5), row("b0", backend_name="tensorrt")], machine={"cpu": "new", "load": {"busy": 2}, "cores": 4}
    )
    assert [(pair.a.variant, pair.change) for pair in pairs(one, two)] == [("b0", -0.5)]
    text = table(one, two)
    assert "only in A: b1 fp32 onnxruntime, b0 fp32 onnxruntime" in text and "only in B: b0 fp32 tensorrt" in text
    assert "old" in text and "new" in text and "busy" not in text and "cores" not in text
    assert "1 faster, 0 slower of 1" in text
