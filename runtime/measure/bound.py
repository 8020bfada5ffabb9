"""The least time that a device's memory and arithmetic allow a network: a bound, computed from data sheets, never a latency.

An artifact's metadata hold what each fused kernel of its graph moves and computes (export.cost writes them). A kernel takes no
less than its bytes at the memory's full speed or its MACs at the full rate, whichever is longer, and a launch. Every tensor
is counted as if it went through memory once; a GPU whose L2 cache holds a layer's tensors can be faster than that.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ..errors import UserError

KEY = "kernels"  # of an artifact's metadata: [[bytes of activations, bytes of weights, MACs, 1 if INT8 else 0], ...]
# Inside a CUDA graph a kernel of 2.9 us took 3.4 us on a V100: NVIDIA, "Getting Started with CUDA Graphs", 2019. The least that
# was published; nothing was found for the devices below.
LAUNCH = 0.5  # us
GPU_BACKENDS = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda")


class Kernel(NamedTuple):
    """One fused kernel; what is not INT8 counts as FP16. Bytes and MACs are of one image, weights are read once a run."""

    activations: int  # bytes read and written
    weights: int  # bytes read
    macs: int
    int8: bool


class Device(NamedTuple):
    """What a device can do at most. Rates are dense, in 10^12 operations a second, two to a MAC."""

    key: str
    name: str
    bandwidth: float  # GB/s
    int8: float  # FP16 with FP16 sums is half, FP32 as TF32 at most a quarter
    source: str  # of both numbers
    model: str  # regular expression for what the machine calls itself or its GPU
    least_gb: float = 0.0  # memory that tells it from a smaller one of the same name

    @property
    def told(self) -> str:
        """Its numbers, for the user."""
        return f"{self.name}: {self.bandwidth:g} GB/s, dense INT8 {self.int8:g} TOPS, FP16 half of that; {self.source}"


_ORIN = "NVIDIA's Jetson Orin module data sheets"
# Jetsons' data sheets give sparse TOPS, of GPU and DLA together where there is one. What is here is the GPU alone, dense: tensor
# cores x 512 INT8 MACs a cycle x the largest clock (AGX Orin 64 x 1.30 GHz, Orin NX 32 x 0.918, Orin Nano 32 x 0.625 and 1.02).
DEVICES = {
    device.key: device
    for device in (
        Device("orin-nano-15w", "Orin Nano 8 GB, 15 W", 68, 20, f"{_ORIN} (40 sparse)", r"Orin Nano", 5),
        Device("orin-nano", "Orin Nano 8 GB, 25 W", 102, 33, f"{_ORIN}, JetPack 6.2 (67 sparse)", r"Orin Nano", 5),
        Device("orin-nx", "Orin NX 16 GB", 102.4, 30, f"{_ORIN} (GPU 60 sparse of 100)", r"Orin NX", 10),
        Device("agx-orin", "AGX Orin 64 GB", 204.8, 85, f"{_ORIN} (GPU 170 sparse of 275)", r"AGX Orin", 40),
        Device(
            "thor",
            "Thor (T5000)",
            273,
            517,
            "NVIDIA's Jetson Thor data sheet (FP8: 1035 sparse; INT8 counted as FP8)",
            r"Thor",
        ),
        Device(
            "rtx-3060",
            "GeForce RTX 3060",
            360,
            102,
            "NVIDIA's Ampere GA102 whitepaper, data of the board",
            r"RTX 3060$",
        ),
        Device("rtx-4090", "GeForce RTX 4090", 1008, 661, "NVIDIA's Ada whitepaper", r"RTX 4090$"),
        Device("rtx-5090", "GeForce RTX 5090", 1792, 838, "NVIDIA's RTX Blackwell whitepaper", r"RTX 5090$"),
        Device("a100", "A100 80 GB SXM", 2039, 624, "NVIDIA's A100 data sheet", r"A100-SXM\S*80GB"),
        Device("h200", "H200 SXM", 4800, 1979, "NVIDIA's H200 data sheet (3958 sparse)", r"H200$"),
    )
}


def device_named(name: str) -> Device:
    """The row of `name`, however it is spelt. Raises UserError that lists them."""
    found = DEVICES.get(re.sub(r"[\s_]+", "-", name.strip().lower()))
    if found is None:
        raise UserError(f"There is no device '{name}' in the table: choose of {', '.join(DEVICES)}.")
    return found


def device_of(machine: Mapping[str, Any]) -> Optional[Device]:
    """The row of a machine that runtime.measure.machine describes; None if it is in none, or can't be told.

    A Jetson whose power mode can't be read counts as the fastest of its rows, so that the bound holds.
    """
    jetson = machine.get("jetson", {}).get("model", "")
    names = [jetson] if jetson else [gpu["name"] for gpu in machine.get("gpus", [])[:1]]
    memory = machine.get("memory_gb", 0.0)
    fitting = [
        device
        for device in DEVICES.values()
        for name in names
        if re.search(device.model, name) and memory >= device.least_gb
    ]
    if not fitting:
        return None
    watts = re.match(r"(7|10|15)W", machine.get("power_mode", ""))
    return fitting[0] if watts else fitting[-1]


def kernels_in(metadata: Mapping[str, str]) -> List[Kernel]:
    """What an artifact says of its kernels; [] for one that says nothing, as older ones and third-party files do."""
    try:
        rows = json.loads(metadata.get(KEY, "[]"))
        return [Kernel(int(read), int(weights), int(macs), bool(int8)) for read, weights, macs, int8 in rows]
    except (ValueError, TypeError):
        return []


def kernels_fact(kernels: Sequence[Kernel]) -> Dict[str, str]:
    """The metadata that `kernels_in` reads."""
    rows = [[each.activations, each.weights, each.macs, int(each.int8)] for each in kernels]
    return {KEY: json.dumps(rows, separators=(",", ":"))}


def all_int8(kernels: Sequence[Kernel]) -> List[Kernel]:
    """The same as if every layer were INT8, every tensor one byte an element: no placement of Q/DQ moves less."""
    return [
        each if each.int8 else Kernel(each.activations // 2, each.weights // 2, each.macs, True) for each in kernels
    ]


class Bound(NamedTuple):
    """The least time of a run of `batch` images, and what it is made of. Milliseconds."""

    ms: float
    memory: float  # all bytes at the full bandwidth
    arithmetic: float  # all MACs at the full rate
    launches: float
    megabytes: float


def bound(kernels: Sequence[Kernel], device: Device, batch: int = 1, fp32: bool = False) -> Bound:
    """Of one run. `fp32`: tensors that are not INT8 have four bytes an element, and their MACs TF32's rate."""
    wide = 2 if fp32 else 1
    bytes_, memory, arithmetic, longest = 0.0, 0.0, 0.0, 0.0
    for each in kernels:
        factor = 1 if each.int8 else wide
        moved = (each.activations * batch + each.weights) * factor
        rate = device.int8 * 1e12 / 2 / (1 if each.int8 else 2 * factor)  # MACs a second
        spent, computed = moved / (device.bandwidth * 1e9), each.macs * batch / rate
        bytes_, memory, arithmetic = bytes_ + moved, memory + spent, arithmetic + computed
        longest += max(spent, computed)
    launches = len(kernels) * LAUNCH * 1e-6
    return Bound((longest + launches) * 1e3, memory * 1e3, arithmetic * 1e3, launches * 1e3, bytes_ / 1e6)
