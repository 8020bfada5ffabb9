"""The small network and random images for it."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.layer_graph import LayerGraph
from tests.calibration.small_network import SIDE, small_model


@pytest.fixture
def network() -> LayerGraph:
    return LayerGraph(small_model())


@pytest.fixture
def batch() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.7, (16, 3, SIDE, SIDE)).astype(np.float32)
