"""Energy from recorded-looking sysfs trees, counters that wrap, and a stand-in for NVML."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Dict, List, Union

import pytest

from runtime.measure.energy import Counter, Energy, Meter, Power, boards, jetson_rails, open_meter, rapl

# Orin Nano, JetPack 6: one chip, whose first rail feeds the others; in4 and above are shunts and sums.
ORIN_NANO = {
    "name": "ina3221",
    "in1_label": "VDD_IN",
    "in1_input": "4984",
    "curr1_input": "1856",
    "in2_label": "VDD_CPU_GPU_CV",
    "in2_input": "4976",
    "curr2_input": "480",
    "in3_label": "VDD_SOC",
    "in3_input": "4976",
    "curr3_input": "520",
    "in7_label": "sum of shunt voltages",
    "in7_input": "360",
    "curr4_input": "2856",
}
# AGX Orin: two chips, no rail that feeds all, channels that are not connected.
AGX_ORIN = (
    {
        "name": "ina3221",
        "in1_label": "VDD_GPU_SOC",
        "in1_input": "20000",
        "curr1_input": "150",
        "in2_label": "VDD_CPU_CV",
        "in2_input": "20000",
        "curr2_input": "20",
        "in3_label": "VIN_SYS_5V0",
        "in3_input": "5000",
        "curr3_input": "800",
    },
    {
        "name": "ina3221",
        "in1_label": "NC",
        "in1_input": "0",
        "curr1_input": "0",
        "in2_label": "VDDQ_VDD2_1V8AO",
        "in2_input": "5000",
        "curr2_input": "80",
        "in3_label": "NC",
        "in3_input": "0",
        "curr3_input": "0",
    },
)
FAN = {"name": "pwmfan", "in1_label": "VDD_IN", "in1_input": "12000", "curr1_input": "9000"}


def tree(root: Path, files: Dict[str, Any]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="ascii")
    return root


def hwmon(root: Path, *chips: Dict[str, str]) -> Path:
    for index, chip in enumerate(chips):
        tree(root / f"sys/class/hwmon/hwmon{index}", chip)
    return root


def watts(readers: List[Any]) -> float:
    assert len(readers) == 1
    return readers[0].joules(1.0)


def test_orin_nano(tmp_path: Path) -> None:
    readers = jetson_rails(hwmon(tmp_path, FAN, ORIN_NANO))
    assert readers[0].source == "rail VDD_IN"
    assert watts(readers) == pytest.approx(4.984 * 1.856)


def test_agx_orin_adds_its_rails(tmp_path: Path) -> None:
    readers = jetson_rails(hwmon(tmp_path, *AGX_ORIN))
    assert readers[0].source == "rails VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO"
    assert watts(readers) == pytest.approx(3 + 0.4 + 4 + 0.4)


def test_thor_tells_all_with_one_sensor(tmp_path: Path) -> None:
    """The INA238 at the carrier board's inlet, beside an INA3221 for three rails behind it."""
    inlet = {"name": "ina238", "power1_input": "23040000", "in1_input": "19968", "curr1_input": "1153"}
    rails = {"name": "ina3221", "in1_label": "VDD_GPU", "in1_input": "12000", "curr1_input": "200"}
    readers = jetson_rails(hwmon(tmp_path, rails, inlet))
    assert readers[0].source == "rail VIN"
    assert watts(readers) == pytest.approx(23.04)


@pytest.mark.parametrize("folder", ["iio:device0", "iio_device"])
def test_jetpack_4(tmp_path: Path, folder: str) -> None:
    chip = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040" / folder
    rails = {"POM_5V_IN": 2875, "POM_5V_GPU": 40, "POM_5V_CPU": 700}
    for index, (name, power) in enumerate(rails.items()):
        tree(chip, {f"rail_name_{index}": name, f"in_power{index}_input": power})
    readers = jetson_rails(tmp_path)
    assert readers[0].source == "rail POM_5V_IN"
    assert watts(readers) == pytest.approx(2.875)


def test_a_rail_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    first = {**AGX_ORIN[0], "curr2_input": ""}  # as a driver in trouble gives them
    readers = jetson_rails(hwmon(tmp_path, first, AGX_ORIN[1]))
    assert readers[0].source == "rails VDD_GPU_SOC + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO"
    assert jetson_rails(hwmon(tmp_path / "other", FAN)) == []


def test_parts_are_not_taken_for_the_whole(tmp_path: Path) -> None:
    assert jetson_rails(hwmon(tmp_path, {**ORIN_NANO, "in1_input": "n/a"})) == []


def package(energy: int, most: int = 262143328850, name: str = "package-0") -> Dict[str, Any]:
    return {"name": name, "energy_uj": energy, "max_energy_range_uj": most}


def powercap(root: Path, zones: Dict[str, Dict[str, Any]]) -> Path:
    for zone, files in zones.items():
        tree(root / "sys/class/powercap" / zone, files)
    return root


def test_rapl_takes_packages_and_memory_once(tmp_path: Path) -> None:
    zones = {
        "intel-rapl:0": package(5_000_000),
        "intel-rapl:0:0": package(3_000_000, name="core"),
        "intel-rapl:0:1": package(1_000_000, name="dram"),
        "intel-rapl:1": package(9_000_000, name="psys"),
    }
    readers = rapl(powercap(tmp_path, zones))
    assert [reader.source for reader in readers] == ["RAPL package-0", "RAPL dram"]
    tree(tmp_path / "sys/class/powercap/intel-rapl:0", package(7_500_000))
    assert [reader.joules(1) for reader in readers] == [2.5, 0]


def test_rapl_wraps(tmp_path: Path) -> None:
    (reader,) = rapl(powercap(tmp_path, {"intel-rapl:0": package(9_000_000, 9_999_999)}))
    powercap(tmp_path, {"intel-rapl:0": package(500_000, 9_999_999)})
    assert reader.joules(1) == pytest.approx(1.5)


def test_rapl_that_only_root_may_read_is_absent(tmp_path: Path) -> None:
    powercap(tmp_path, {"intel-rapl:0": package(0)})
    energy = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    energy.unlink()
    energy.mkdir()  # OSError when read, for root too
    assert rapl(tmp_path) == [] and open_meter(tmp_path) is None


def test_nothing_to_read(tmp_path: Path) -> None:
    assert open_meter(tmp_path) is None


class Nvml:
    """libnvidia-ml with boards that each have an energy counter (mJ), only a power (mW), or neither."""

    def __init__(self, *boards: Dict[str, int]) -> None:
        self.boards = boards

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.boards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 0

    def _tell(self, key: str, handle: ctypes.c_void_p, value: Any) -> int:
        board = self.boards[(handle.value or 0) - 1]
        value._obj.value = board.get(key, 0)
        return 0 if key in board else 3  # NVML_ERROR_NOT_SUPPORTED

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value: Any) -> int:
        return self._tell("energy", handle, value)

    def nvmlDeviceGetPowerUsage(self, handle: ctypes.c_void_p, value: Any) -> int:
        return self._tell("power", handle, value)


def test_boards() -> None:
    library = Nvml({"energy": 1000, "power": 9}, {"power": 50_000}, {}, {"power": 70_000})
    counter, second, fourth = boards(library)
    assert [each.source for each in (counter, second, fourth)] == ["NVML board 0", "NVML board 1", "NVML board 3"]
    library.boards[0]["energy"] = 4500
    assert counter.joules(1) == 3.5
    assert second.joules(2) == 100 and fourth.joules(2) == 140


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meter's thread takes no readings of its own; the test does."""
    monkeypatch.setattr("runtime.measure.energy._PERIOD", 60.0)


def test_power_is_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch)
    clock, power = Clock(), [10.0]
    meter = Meter([Power("rail", lambda: power[0])], clock)
    meter.start()
    for now, reading in ((1.0, 20.0), (3.0, 0.0)):
        clock.now, power[0] = now, reading
        meter.read()
    clock.now = 4.0
    assert meter.stop() == Energy(15 + 20 + 0, 4.0, "rail")


def test_idle_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch)
    clock, count = Clock(), [1000]
    meter = Meter([Counter("counter", lambda: count[0], 0.001)], clock)

    def doing_nothing(seconds: float) -> None:
        clock.now += seconds
        count[0] += round(seconds * 5000)  # 5 W

    monkeypatch.setattr("runtime.measure.energy.time.sleep", doing_nothing)
    meter.measure_idle(2.0)
    assert meter.idle_watts == pytest.approx(5)
    meter.start()
    clock.now += 10
    count[0] += 120_000
    energy = meter.stop()
    assert energy is not None and energy.joules == pytest.approx(120 - 50) and energy.seconds == 10


def test_what_happened_before_start_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch)
    clock, count = Clock(), [0]
    meter = Meter([Counter("counter", lambda: count[0], 1.0)], clock)
    count[0], clock.now = 500, 9.0
    meter.start()
    count[0], clock.now = 507, 10.0
    assert meter.stop() == Energy(7, 1, "counter")


@pytest.mark.parametrize("failure", [OSError("gone"), ValueError("n/a")])
def test_a_reader_that_fails_leaves_no_figure(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    still(monkeypatch)
    answers: List[Union[float, Exception]] = [1.0, 1.0, failure, 1.0]

    def ask() -> float:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    meter = Meter([Power("rail", ask)])
    meter.start()
    meter.read()
    assert meter.stop() is None


def test_the_thread_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("runtime.measure.energy._PERIOD", 0.001)
    asked, enough = [0], threading.Event()

    def count() -> int:
        asked[0] += 1
        if asked[0] > 5:
            enough.set()
        return asked[0]

    meter = Meter([Counter("counter", count, 1.0)])
    meter.start()
    assert enough.wait(30)
    energy = meter.stop()
    assert energy is not None and energy.joules == asked[0] - 2  # made with the first, started with the second
    assert [thread for thread in threading.enumerate() if thread.name == "energy"] == []


def test_a_counter_that_begins_again_at_zero_has_counted_that_step_too() -> None:
    """RAPL's counts up to max_energy_range_uj, and the next count after that is 0."""
    counts = iter([65_530, 65_535, 0, 4])
    counter = Counter("counter", lambda: next(counts), 0.5, most=65_535)
    assert [counter.joules(1) for _ in range(3)] == [2.5, 0.5, 2.0]


def test_a_counter_without_a_limit_that_goes_back() -> None:
    counts = iter([100, 50])
    counter = Counter("counter", lambda: next(counts), 1.0)
    with pytest.raises(ValueError, match="went back"):
        counter.joules(1)


def test_sources_are_named() -> None:
    meter = Meter([Power("NVML board 0", lambda: 1), Power("RAPL package-0", lambda: 2)])
    assert meter.source == "NVML board 0 + RAPL package-0"
