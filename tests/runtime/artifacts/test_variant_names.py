"""One spelling for each network, whichever a user types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.artifacts.artifact import artifact_path, find_artifact
from runtime.artifacts.variant_names import canonical

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("b0", "b0"),
        ("B0", "b0"),
        ("efficientnet_b0", "b0"),
        ("efficientnet-b0", "b0"),
        ("EfficientNet_B7", "b7"),
        ("tf_efficientnetv2_b0", "v2-b0"),
        ("efficientnet_v2_s", "v2-s"),
        ("v2_b3", "v2-b3"),
        ("Lite0", "lite0"),
        ("efficientnet-lite4", "lite4"),
        ("tf_efficientnet_lite0", "lite0"),
        ("EfficientNet_B1-embedding", "b1-embedding"),
        ("lite0-features", "lite0-features"),
        ("timm:resnet50", "timm-resnet50"),
        # networks of one's own and of third parties
        ("birds", "birds"),
        ("birds-b0", "birds-b0"),
        ("b0-birds", "b0-birds"),
        ("b99", "b99"),
        ("swin_v2_s", "swin_v2_s"),
        ("Resnet50", "Resnet50"),
    ],
)
def test_every_spelling_is_one_network(typed: str, name: str) -> None:
    assert canonical(typed) == name
    assert artifact_path(typed, "fp32", Path("x")) == Path("x", name, f"{name}.fp32.onnx")


def test_an_artifact_is_found_by_any_spelling(artifacts: Path) -> None:
    for typed in ("lite0", "Lite0", "efficientnet-lite0", "tf_efficientnet_lite0"):
        assert find_artifact(typed, "fp16", artifacts) == artifacts / "lite0" / "lite0.fp16.onnx"


def test_make_asks_without_any_package_installed() -> None:
    program = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "runpy.run_module('runtime.artifacts.variant_names', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, "B0"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("b0\n", "")
