"""What a measurement ran on, and what disturbed it. What can't be read is absent, never guessed.

Everything is read from files below `root`, so that trees recorded on other machines can be read too. Where the facts about
Jetsons come from: NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance" (power modes, over-current
counters, thermal zones), and jetson_stats' jtop/core (nvpmodel, gpu, power, jetson_variables).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

_LIBRARIES = (
    "numpy",
    "Pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "tensorrt_rtx",
    "pycuda",
    "torch",
)

# https://developer.nvidia.com/embedded/jetpack-archive; a release that came later is shown by its L4T number alone.
_JETPACK = {
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
_GPU_NAMES = {
    "gv11b",
    "gp10b",
    "ga10b",
    "gpu",
    "gpu-gpc-0",
}  # by the device tree or devfreq: Xavier, TX2, Orin, any, Thor
_BUSY = 0.1  # of all cores, taken by other programs, from where it is worth a warning
_SLOW_GOVERNORS = ("powersave", "conservative")


def machine(root: Union[str, Path] = "/") -> Dict[str, Any]:
    """This machine now, as JSON-able values; call it before and after, and give both to `warnings`.

    Keys, each only where it can be read: cpu, cores, architecture, memory_gb (10^9 bytes), os, kernel, python, libraries,
    gpus, driver, jetson {model, l4t, jetpack}, power_mode, governor, clocks_locked, clocks_mhz {cpu, gpu: [least, most]},
    temperatures {zone: degrees C}, throttled {counter: events}, load {seconds, busy, own: seconds of CPU since boot}.
    """
    root = Path(root)
    clocks = _clocks(root)
    found: Dict[str, Any] = {
        "cpu": _cpu(root),
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "memory_gb": _memory(root),
        "os": _os(root),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": _libraries(),
        "gpus": _gpus(),
        "driver": _match(r"Kernel Module.*?\s(\d+\.[\d.]+)", _text(root / "proc/driver/nvidia/version")),
        "jetson": _jetson(root),
        "power_mode": _power_mode(root),
        "governor": _governor(root),
        "clocks_locked": all(low == high for low, high in clocks.values()) if clocks else None,
        "clocks_mhz": {name: [low, high] for name, (low, high) in clocks.items()},
        "temperatures": temperatures(root),
        "throttled": _throttled(root),
        "load": _load(root),
    }
    return {key: value for key, value in found.items() if value not in (None, "", {}, [])}


def warnings(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    """What made, or may have made, a measurement between two `machine()` worse than it need be, as sentences."""
    said = []
    events = {
        name: count - before.get("throttled", {}).get(name, 0)
        for name, count in after.get("throttled", {}).items()
        if count > before.get("throttled", {}).get(name, 0)
    }
    if events:
        told = ", ".join(f"{name} {count} times" for name, count in events.items())
        said.append(f"The machine throttled itself during the run ({told}): cool it, or give it a stronger supply.")
    if before.get("clocks_locked") is False:
        lock = "'sudo jetson_clocks' does" if "jetson" in before else "'cpupower frequency-set' does"
        ranges = ", ".join(
            f"{name} {low:.0f} to {high:.0f} MHz" for name, (low, high) in before.get("clocks_mhz", {}).items()
        )
        said.append(f"The clocks are not locked ({ranges}): figures vary with what ran before ({lock}).")
    if before.get("governor") in _SLOW_GOVERNORS:
        said.append(f"The CPU's governor is {before['governor']}: it saves power rather than time.")
    if before.get("power_mode") != after.get("power_mode"):
        said.append(
            f"The power mode changed from {before.get('power_mode')} to {after.get('power_mode')} during the run."
        )
    share = _others(before, after)
    if share is not None and share > _BUSY:
        said.append(f"Other programs took {share:.0%} of the CPU during the run: close them, or trust only the ratios.")
    return said


def _others(before: Dict[str, Any], after: Dict[str, Any]) -> Optional[float]:
    """Share of all cores' time that went to other processes than this one and its children."""
    if "load" not in before or "load" not in after:
        return None
    wall, busy, own = (after["load"][key] - before["load"][key] for key in ("seconds", "busy", "own"))
    return (busy - own) / (wall * before["cores"]) if wall > 1 else None


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return ""


def _number(path: Path) -> Optional[float]:
    with contextlib.suppress(ValueError):
        return float(_text(path))
    return None


def _match(pattern: str, text: str) -> Optional[str]:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else None


def _cpu(root: Path) -> Optional[str]:
    text = _text(root / "proc/cpuinfo")
    named = _match(r"^model name\s*: (.*)", text) or _match(r"^Model\s*: (.*)", text)
    return named or platform.processor() or None


def _memory(root: Path) -> Optional[float]:
    kilobytes = _match(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"))
    return round(int(kilobytes) * 1024 / 1e9, 1) if kilobytes else None


def _os(root: Path) -> str:
    name = _match(r'^PRETTY_NAME="?([^"\n]*)', _text(root / "etc/os-release"))
    return name or f"{platform.system()} {platform.release()}"


def _libraries() -> Dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _gpus() -> List[Dict[str, Any]]:
    from ..backends.cuda.driver import gpus

    return [
        {
            "name": gpu.name,
            "capability": ".".join(map(str, gpu.capability)),
            "driver": f"for CUDA {gpu.driver // 1000}.{gpu.driver % 1000 // 10}",
            "memory_gb": round(gpu.memory / 1e9, 1),
        }
        for gpu in gpus()[0]
    ]


def _jetson(root: Path) -> Dict[str, str]:
    """From "# R36 (release), REVISION: 4.3, GCID: ..." and the device tree, whose strings end with a zero byte."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    if release is None:
        return {}
    l4t = ".".join(release.groups())
    found = {"model": _text(root / "proc/device-tree/model"), "l4t": l4t}
    found["jetpack"] = _JETPACK.get(l4t) or _JETPACK.get(f"{l4t}.0") or ""
    return {key: value for key, value in found.items() if value}


def _power_mode(root: Path) -> Optional[str]:
    """nvpmodel keeps the number of its mode in a file ("pmode:0002 fmode:..."), and the modes' names in its table."""
    mode = _match(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if mode is None:
        return None
    name = _match(rf"^<\s*POWER_MODEL\s+ID={mode}\s+NAME=([^\s>]+)", _text(root / "etc/nvpmodel.conf"))
    return f"{name} ({mode})" if name else mode


def _governor(root: Path) -> Optional[str]:
    """Of all cores; several names where they differ."""
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({_text(path) for path in cores} - {""})) or None


def _clocks(root: Path) -> Dict[str, Tuple[float, float]]:
    """MHz from the lowest to the highest that the CPU's and the Jetson GPU's governors may choose: locked if one."""
    found = {}
    limits = [
        (_number(folder / "scaling_min_freq"), _number(folder / "scaling_max_freq"))
        for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")
    ]
    known = [(low / 1e3, high / 1e3) for low, high in limits if low is not None and high is not None]  # kHz
    if known:
        # The widest core speaks for all: cores of several kinds have limits of their own.
        found["cpu"] = max(known, key=lambda limit: limit[1] - limit[0])
    for folder in (root / "sys/class/devfreq").glob("*"):
        names = {_text(folder / "device/of_node/name"), folder.name.rpartition(".")[2]}
        low, high = _number(folder / "min_freq"), _number(folder / "max_freq")
        if names & _GPU_NAMES and low is not None and high is not None:
            found["gpu"] = (low / 1e6, high / 1e6)  # Hz
    return found


def temperatures(root: Path) -> Dict[str, float]:
    """Degrees C by thermal zone. A zone that is off (a Jetson's cv0-thermal) fails to be read and is left out."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        degrees = _number(zone / "temp")
        if degrees is not None and degrees > -200_000:
            found[_text(zone / "type") or zone.name] = degrees / 1e3
    return found


def _throttled(root: Path) -> Dict[str, int]:
    """Events since boot: over-current on a Jetson Orin and later (oc1: under voltage, oc2: average, oc3: instantaneous
    over-current), thermal on an x86 CPU; and a Jetson's throttle alerts, which are 1 while they last."""
    found: Dict[str, int] = {}
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        found[path.name.partition("_")[0]] = int(_number(path) or 0)
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")):
        kind = path.name.partition("_")[0]  # core or package; each core of a package counts the package's
        found[kind] = max(found.get(kind, 0), int(_number(path) or 0))
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        if _text(device / "type").endswith("throttle-alert"):
            found[_text(device / "type")] = int(_number(device / "cur_state") or 0)
    return found


def _load(root: Path) -> Dict[str, float]:
    """Seconds on the clock, of CPU that all programs took (proc(5): user, nice, system of /proc/stat), and of it our own."""
    fields = _match(r"^cpu +([\d ]+)", _text(root / "proc/stat"))
    if not fields or not hasattr(os, "sysconf"):
        return {}
    ticks = fields.split()
    busy = sum(int(tick) for tick in (*ticks[:3], *ticks[5:7])) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return {"seconds": time.monotonic(), "busy": busy, "own": sum(own[:4])}
