"""What a machine is said to be, read from trees like those of a Jetson Orin Nano, a desktop, and nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict

import pytest

from runtime.measure.machine import machine, warnings

CPUFREQ = "sys/devices/system/cpu/cpu{}/cpufreq"
GPU = "sys/class/devfreq/17000000.gpu"
ORIN_NANO = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"',
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS\t: 62.50",
    "proc/meminfo": "MemTotal:        7802568 kB\nMemFree:         1000000 kB",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
    "etc/nvpmodel.conf": (
        "# comment: POWER_MODEL ID=2 NAME=WRONG\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< POWER_MODEL ID=12 NAME=OTHER >\n< PM_CONFIG DEFAULT=0 >"
    ),
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "63625",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "60500",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",  # off: it can't be read
    "sys/class/thermal/cooling_device3/type": "gpu-throttle-alert",
    "sys/class/thermal/cooling_device3/cur_state": "0",
    "sys/class/thermal/cooling_device4/type": "pwm-fan",
    "sys/class/thermal/cooling_device4/cur_state": "2",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "15",
    f"{GPU}/min_freq": "306000000",
    f"{GPU}/max_freq": "1020000000",
    "sys/class/devfreq/15340000.vic/min_freq": "115200000",
    "sys/class/devfreq/15340000.vic/max_freq": "729600000",
    **{f"{CPUFREQ.format(core)}/scaling_min_freq": "729600" for core in range(6)},
    **{f"{CPUFREQ.format(core)}/scaling_max_freq": "1728000" for core in range(6)},
    **{f"{CPUFREQ.format(core)}/scaling_governor": "schedutil" for core in range(6)},
}
LOCKED = {
    f"{GPU}/min_freq": "1020000000",
    **{f"{CPUFREQ.format(core)}/scaling_min_freq": "1728000" for core in range(6)},
}


def tree(root: Path, *layers: Dict[str, str]) -> Path:
    for name, content in {name: text for layer in layers for name, text in layer.items()}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n", encoding="utf-8")
    return root


def test_orin_nano(tmp_path: Path) -> None:
    found = machine(tree(tmp_path, ORIN_NANO))
    assert found["jetson"] == {"model": "NVIDIA Jetson Orin Nano Developer Kit", "l4t": "36.4.3", "jetpack": "6.2"}
    assert (found["power_mode"], found["governor"], found["clocks_locked"]) == ("MAXN_SUPER (2)", "schedutil", False)
    assert found["clocks_mhz"] == {"cpu": [729.6, 1728], "gpu": [306, 1020]}
    assert found["temperatures"] == {"cpu-thermal": 63.625, "gpu-thermal": 60.5}
    assert found["throttled"] == {"oc1": 0, "oc3": 15, "gpu-throttle-alert": 0}
    assert (found["os"], found["memory_gb"]) == ("Ubuntu 22.04.5 LTS", 8.0)
    assert found["cpu"] == "ARMv8 Processor rev 1 (v8l)"
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    "release, l4t, jetpack",
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", "35.4.1", "5.1.2"),
        ("# R39 (release), REVISION: 2.0, GCID: 1", "39.2.0", "7.2"),
        ("# R36 (release), REVISION: 4.0, GCID: 1", "36.4.0", "6.1"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None),
    ],
)
def test_jetpack(tmp_path: Path, release: str, l4t: str, jetpack: Any) -> None:
    found = machine(tree(tmp_path, {"etc/nv_tegra_release": release}))["jetson"]
    assert (found["l4t"], found.get("jetpack")) == (l4t, jetpack)


def test_clocks_locked(tmp_path: Path) -> None:
    found = machine(tree(tmp_path, ORIN_NANO, LOCKED))
    assert found["clocks_locked"] is True
    assert warnings(found, found) == []


@pytest.mark.parametrize(
    "files",
    [
        {"gpu-gpc-0/min_freq": "315000000", "gpu-gpc-0/max_freq": "1575000000"},  # Thor
        {  # Xavier: named by its node only
            "57000000.x/device/of_node/name": "gv11b\0",
            "57000000.x/min_freq": "315000000",
            "57000000.x/max_freq": "1575000000",
        },
    ],
)
def test_clocks_of_other_gpus(tmp_path: Path, files: Dict[str, str]) -> None:
    found = machine(tree(tmp_path, {f"sys/class/devfreq/{name}": text for name, text in files.items()}))
    assert found["clocks_mhz"] == {"gpu": [315, 1575]} and found["clocks_locked"] is False


def test_one_free_core_is_not_locked(tmp_path: Path) -> None:
    free = {f"{CPUFREQ.format(3)}/scaling_min_freq": "729600"}
    assert machine(tree(tmp_path, ORIN_NANO, LOCKED, free))["clocks_locked"] is False


def test_nothing_can_be_read(tmp_path: Path) -> None:
    found = machine(tmp_path)
    unknown = {"jetson", "power_mode", "governor", "clocks_locked", "clocks_mhz", "temperatures", "throttled", "load"}
    assert not unknown & set(found)
    assert {"cores", "architecture", "python", "libraries", "kernel", "os"} <= set(found)
    assert "numpy" in found["libraries"]
    assert warnings(found, found) == []


def test_this_machine() -> None:
    found = machine()
    assert found["cores"] == os.cpu_count()
    json.dumps(found)


def test_throttling_during_the_run(tmp_path: Path) -> None:
    before = machine(tree(tmp_path, ORIN_NANO, LOCKED))
    events = {"sys/class/hwmon/hwmon3/oc3_event_cnt": "19", "sys/class/thermal/cooling_device3/cur_state": "1"}
    after = machine(tree(tmp_path, events))
    (said,) = warnings(before, after)
    assert "oc3 4 times" in said and "gpu-throttle-alert 1 times" in said and "oc1" not in said


def test_x86_throttling_counts_each_package_once(tmp_path: Path) -> None:
    counts = {"cpu0": ("3", "7"), "cpu1": ("5", "7")}
    for cpu, (core, package) in counts.items():
        folder = f"sys/devices/system/cpu/{cpu}/thermal_throttle"
        tree(tmp_path, {f"{folder}/core_throttle_count": core, f"{folder}/package_throttle_count": package})
    assert machine(tmp_path)["throttled"] == {"core": 5, "package": 7}


def test_doubtful_settings(tmp_path: Path) -> None:
    governors = {f"{CPUFREQ.format(core)}/scaling_governor": "powersave" for core in range(6)}
    before = machine(tree(tmp_path, ORIN_NANO, governors))
    after = machine(tree(tmp_path, {"var/lib/nvpmodel/status": "pmode:0000"}))
    said = " ".join(warnings(before, after))
    for words in ("not locked", "cpu 730 to 1728 MHz", "jetson_clocks", "powersave", "from MAXN_SUPER (2) to 15W (0)"):
        assert words in said


def test_load_of_other_programs() -> None:
    before = {"cores": 4, "load": {"seconds": 100.0, "busy": 1000.0, "own": 10.0}}
    busy = {"load": {"seconds": 110.0, "busy": 1032.0, "own": 22.0}}  # 20 of 40 s of CPU were others'
    assert ["50%" in said for said in warnings(before, busy)] == [True]
    quiet = {"load": {"seconds": 110.0, "busy": 1013.0, "own": 22.0}}
    assert warnings(before, quiet) == []
