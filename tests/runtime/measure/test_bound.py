"""The bound of a network on a device, by hand; and whose bound it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

from runtime.artifacts.artifact import read_artifact
from runtime.errors import UserError
from runtime.measure.bound import (
    DEVICES,
    KEY,
    LAUNCH,
    Kernel,
    all_int8,
    bound,
    device_named,
    device_of,
    kernels_fact,
    kernels_in,
)

ORIN = DEVICES["agx-orin"]  # 204.8 GB/s; 85e12 INT8 operations are 42.5e12 MACs a second, in FP16 21.25e12
MOVES = Kernel(activations=20_480_000, weights=2_048_000, macs=1, int8=False)  # 0.1 ms and 0.01 ms
COMPUTES = Kernel(activations=2, weights=2, macs=21_250_000_000, int8=False)  # 1 ms


def test_each_kernel_takes_its_memory_or_its_arithmetic_and_a_launch() -> None:
    found = bound([MOVES, COMPUTES], ORIN)
    assert found.ms == pytest.approx(0.11 + 1 + 2 * LAUNCH / 1e3, rel=1e-4)
    assert (found.memory, found.arithmetic) == (pytest.approx(0.11, rel=1e-4), pytest.approx(1, rel=1e-4))
    both = MOVES._replace(macs=1_062_500_000)  # 0.05 ms of arithmetic, meanwhile
    assert bound([both], ORIN).ms == pytest.approx(0.11 + LAUNCH / 1e3)
    assert bound([MOVES], ORIN, batch=8).ms == pytest.approx(0.81 + LAUNCH / 1e3), "weights are read once a run"
    assert bound([MOVES], ORIN, fp32=True).ms == pytest.approx(0.22 + LAUNCH / 1e3)
    assert bound([COMPUTES], ORIN, fp32=True).ms == pytest.approx(2 + LAUNCH / 1e3), "TF32 has half of FP16's rate"
    assert bound([COMPUTES._replace(int8=True)], ORIN, fp32=True).ms == pytest.approx(0.5 + LAUNCH / 1e3)
    assert bound(all_int8([MOVES, COMPUTES]), ORIN).memory == pytest.approx(0.055, rel=1e-4)


def test_kernels_go_through_metadata_and_damage_is_none() -> None:
    kernels = [MOVES, COMPUTES._replace(int8=True)]
    assert kernels_in(kernels_fact(kernels)) == kernels
    assert [kernels_in({"kernels": text}) for text in ("[[1,2]]", "{", "[1]", '[["a",1,1,0]]')] == [[]] * 4
    assert kernels_in({}) == []


def test_kernels_belong_to_one_file(model: Path) -> None:
    """What is made of it, as INT8, has others."""
    artifact = read_artifact(model)
    assert len(kernels_in(artifact.metadata)) == 51 and KEY not in artifact.more


def jetson(model: str, memory: float, mode: str = "") -> Dict[str, Any]:
    return {"jetson": {"model": f"NVIDIA Jetson {model} Developer Kit"}, "memory_gb": memory, "power_mode": mode}


@pytest.mark.parametrize(
    ("machine", "device"),
    [
        (jetson("Orin Nano", 8.0, "15W (0)"), "orin-nano-15w"),
        (jetson("Orin Nano", 8.0, "25W (1)"), "orin-nano"),
        (jetson("Orin Nano", 8.0), "orin-nano"),  # the mode can't be read: the faster one, so that the bound holds
        (jetson("Orin Nano", 4.1, "10W (0)"), None),  # 4 GB: half the memory's width
        (jetson("Orin NX", 16.3), "orin-nx"),
        (jetson("AGX Orin", 65.9, "MAXN (0)"), "agx-orin"),
        (jetson("AGX Orin", 32.8), None),
        (jetson("AGX Thor", 131.9), "thor"),
        ({"gpus": [{"name": "NVIDIA GeForce RTX 4090"}], "memory_gb": 64.0}, "rtx-4090"),
        ({"gpus": [{"name": "NVIDIA GeForce RTX 4090 Laptop GPU"}], "memory_gb": 64.0}, None),
        ({"gpus": [{"name": "NVIDIA A100-SXM4-80GB"}], "memory_gb": 64.0}, "a100"),
        ({"gpus": [{"name": "NVIDIA A100-SXM4-40GB"}], "memory_gb": 64.0}, None),
        ({"gpus": [{"name": "NVIDIA H200"}], "memory_gb": 64.0}, "h200"),
        ({"cpu": "a CPU", "memory_gb": 64.0}, None),
    ],
)
def test_a_machine_is_found_in_the_table_or_not(machine: Dict[str, Any], device: Any) -> None:
    assert getattr(device_of(machine), "key", None) == device


def test_names_are_forgiving_and_the_table_is_told() -> None:
    assert device_named("AGX Orin") is ORIN
    with pytest.raises(UserError, match="no device 'tx2' in the table: choose of orin-nano-15w, orin-nano, "):
        device_named("tx2")
    assert all(device.source and device.bandwidth > 0 for device in DEVICES.values())
