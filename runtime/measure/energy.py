"""Joules, where the machine can tell: a Jetson's power rails, NVIDIA's boards (NVML), an x86 processor (RAPL).

Sources. Jetson: the kernel's Documentation/hwmon/ina3221.rst (JetPack 5 and later: in1_label, in1_input in mV, curr1_input
in mA; in4 and above are shunts and sums), and NVIDIA's older iio driver (JetPack 4: rail_name_0, in_power0_input in mW);
Thor's INA238 (power1_input in uW: Documentation/hwmon/ina238.rst, jetson_stats' jtop/core/thor_power.py); which rail holds the
others: jetson_stats' jtop/core/power.py, energymon's jetson/JetsonPowerRails.md. NVML: nvml.h. RAPL: the
kernel's Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol, Sequence, Union

_PERIOD = 0.05  # seconds between two readings; on a Jetson each is several I2C transfers, which take power too
# What everything else hangs on: Thor and its carrier board; Orin NX and Nano, Xavier NX, TX1, TX2; Nano; Xavier NX's manual.
_TOTALS = ("VIN", "VDD_IN", "POM_5V_IN", "5V_IN")


class Energy(NamedTuple):
    """What was used between start and stop."""

    joules: float  # above idle, where that was measured
    seconds: float
    source: str


class Reader(Protocol):
    """One thing that can be asked. Its methods raise OSError or ValueError if it can't be read."""

    source: str

    def joules(self, seconds: float) -> float:
        """What was used since the last call, `seconds` ago; anything at the first."""
        ...


class Power:
    """A sensor of watts at this moment: the energy is integrated between readings (trapezoids)."""

    def __init__(self, source: str, watts: Callable[[], float]) -> None:
        self.source, self._watts = source, watts
        self._last = watts()

    def joules(self, seconds: float) -> float:
        """See Reader."""
        last, self._last = self._last, self._watts()
        return (last + self._last) / 2 * seconds


class Counter:
    """A counter of energy, of which each count is `unit` joules, and which starts again at 0 after `most`."""

    def __init__(self, source: str, count: Callable[[], int], unit: float, most: Optional[int] = None) -> None:
        self.source, self._count, self._unit, self._most = source, count, unit, most
        self._last = count()

    def joules(self, seconds: float) -> float:
        """See Reader."""
        last, self._last = self._last, self._count()
        grown = self._last - last
        if grown < 0:
            if self._most is None:
                raise ValueError(f"{self.source}: the counter went back")
            grown += self._most + 1
        return grown * self._unit


class Meter:
    """Adds up what several readers say, from a thread of its own: counters wrap, and powers must be integrated."""

    def __init__(self, readers: Sequence[Reader], clock: Callable[[], float] = time.monotonic) -> None:
        self.source = " + ".join(reader.source for reader in readers)
        self.idle_watts: Optional[float] = None
        self._readers, self._clock = readers, clock
        self._thread: Optional[threading.Thread] = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._joules, self._began, self._last = 0.0, 0.0, 0.0
        self._failed = False

    def measure_idle(self, seconds: float) -> None:
        """Does nothing for so long; the power of that is subtracted from what is measured afterwards."""
        self.idle_watts = None
        self.start()
        time.sleep(seconds)
        energy = self.stop()
        if energy is not None and energy.seconds > 0:
            self.idle_watts = energy.joules / energy.seconds

    def start(self) -> None:
        """Begins to count."""
        self._failed = False
        self._last = self._clock()
        self.read()
        self._joules, self._began = 0.0, self._last
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample, name="energy", daemon=True)
        self._thread.start()

    def stop(self) -> Optional[Energy]:
        """What was used since start(), above idle; None if a reader failed meanwhile."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.read()
        if self._failed:
            return None
        seconds = self._last - self._began
        return Energy(self._joules - (self.idle_watts or 0.0) * seconds, seconds, self.source)

    def read(self) -> None:
        """Asks every reader once."""
        with self._lock:
            now = self._clock()
            try:
                self._joules += sum(reader.joules(now - self._last) for reader in self._readers)
            except (OSError, ValueError):
                self._failed = True
            self._last = now

    def _sample(self) -> None:
        while not self._stop.wait(_PERIOD):
            self.read()


def open_meter(root: Union[str, Path] = "/") -> Optional[Meter]:
    """What this machine has; None if it has nothing that can be read. A Jetson's rails hold its GPU: nothing is added there.

    RAPL needs root on most kernels since 5.10 (CVE-2020-8694), then it is absent.
    """
    root = Path(root)
    readers = jetson_rails(root)
    if not readers:
        library = _library() if root == Path("/") else None
        readers = [*(boards(library) if library else []), *rapl(root)]
    return Meter(readers) if readers else None


def jetson_rails(root: Path) -> List[Reader]:
    """The rail that feeds the module; where none does (AGX), all the rails that have a name, as jtop adds them up."""
    rails = {**_hwmon_rails(root), **_iio_rails(root)}
    readable: Dict[str, Callable[[], float]] = {}
    for name, watts in rails.items():
        with contextlib.suppress(OSError, ValueError):
            watts()
            readable[name] = watts
    total = next((name for name in _TOTALS if name in rails), None)
    if total:  # without it the others would be taken for the whole
        return [Power(f"rail {total}", readable[total])] if total in readable else []
    if not readable:
        return []
    return [Power(f"rails {' + '.join(readable)}", lambda: sum(watts() for watts in readable.values()))]


def _hwmon_rails(root: Path) -> Dict[str, Callable[[], float]]:
    rails = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _word(chip / "name")
        if name == "ina238" and (chip / "power1_input").exists():
            rails["VIN"] = _scaled(chip / "power1_input", 1e-6)
        if name != "ina3221":
            continue
        for channel in (1, 2, 3):
            label = _word(chip / f"in{channel}_label")
            if label and label != "NC" and (chip / f"curr{channel}_input").exists():
                rails[label] = _product(chip / f"in{channel}_input", chip / f"curr{channel}_input")
    return rails


def _iio_rails(root: Path) -> Dict[str, Callable[[], float]]:
    rails = {}
    for path in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio*device*/rail_name_*")):
        label, channel = _word(path), path.name.rpartition("_")[2]
        if label and label != "NC":
            rails[label] = _scaled(path.with_name(f"in_power{channel}_input"), 1e-3)
    return rails


def boards(library: Any) -> List[Reader]:
    """Every NVIDIA board that `library` (libnvidia-ml, initialised) sees: the energy counter (mJ, from Volta on), else
    the power (mW). Those that are not used idle, and idle power is subtracted."""
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    readers: List[Reader] = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
            continue
        with contextlib.suppress(OSError):
            energy = _asked(library.nvmlDeviceGetTotalEnergyConsumption, handle, ctypes.c_ulonglong)
            try:
                readers.append(Counter(f"NVML board {index}", energy, 1e-3))
            except OSError:
                power = _asked(library.nvmlDeviceGetPowerUsage, handle, ctypes.c_uint)
                readers.append(Power(f"NVML board {index}", lambda power=power: power() * 1e-3))  # type: ignore[misc]
    return readers


def rapl(root: Path) -> List[Reader]:
    """The packages, and memory where it is counted apart. Cores and "uncore" are parts of a package, psys holds them all."""
    readers: List[Reader] = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):  # AMD's processors too, from Linux 5.11 on
        name = _word(zone / "name")
        if not (name.startswith("package") or name == "dram"):
            continue
        with contextlib.suppress(OSError, ValueError):
            most = int(_word(zone / "max_energy_range_uj"))
            readers.append(Counter(f"RAPL {name}", _counted(zone / "energy_uj"), 1e-6, most))
    return readers


def _library() -> Optional[Any]:
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            return library if library.nvmlInit_v2() == 0 else None
    return None


def _asked(function: Any, handle: ctypes.c_void_p, kind: Any) -> Callable[[], int]:
    def ask() -> int:
        value = kind()
        code = function(handle, ctypes.byref(value))
        if code != 0:
            raise OSError(f"NVML error {code}")
        return int(value.value)

    return ask


def _word(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").strip("\0\n ")
    return ""


def _counted(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text(encoding="ascii"))


def _scaled(path: Path, unit: float) -> Callable[[], float]:
    return lambda: float(path.read_text(encoding="ascii")) * unit


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    volts, amperes = _scaled(millivolts, 1e-3), _scaled(milliamperes, 1e-3)
    return lambda: volts() * amperes()
