"""The small network and random images for it."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.network import Network
from tests.calibration.small_network import SIDE, small_model


@pytest.fixture
def network() -> Network:
    return Network(small_model())


@pytest.fixture
def batch() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.7, (16, 3, SIDE, SIDE)).astype(np.float32)
