"""What Prometheus is told: requests, failures, milliseconds by stage, dropped frames, temperature and power."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Dict, Optional

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..images.live import Stop
from ..measure.energy import open_meter
from ..measure.machine import temperatures

_PERIOD = 2.0  # seconds between two readings of the sensors
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


class Metrics:
    """A registry of its own: two servers in one process don't share figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "requests", "Answers by HTTP status", ["status"], "efficientnet", registry=self.registry
        )
        self.images = Counter("images", "Images classified", namespace="efficientnet", registry=self.registry)
        self.failures = Counter(
            "failures", "Images that could not be classified", namespace="efficientnet", registry=self.registry
        )
        self.stages = Histogram(
            "stage_seconds",
            "Time of an image in each stage",
            ["stage"],
            "efficientnet",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.dropped = Gauge(
            "dropped_frames",
            "Frames of the camera that a newer one replaced",
            namespace="efficientnet",
            registry=self.registry,
        )
        self.degrees = Gauge("temperature_celsius", "Thermal zones", ["zone"], "efficientnet", registry=self.registry)
        self.watts = Gauge(
            "power_watts", "What the machine draws, where it tells", ["source"], "efficientnet", registry=self.registry
        )

    def classified(self, milliseconds: Dict[str, float]) -> None:
        """One image was classified, in so many milliseconds by stage."""
        self.images.inc()
        for stage, spent in milliseconds.items():
            self.stages.labels(stage).observe(spent / 1e3)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return bytes(generate_latest(self.registry))


class Sensors:
    """Temperature and power, read in a thread; what a machine does not report is left out."""

    def __init__(self, metrics: Metrics, root: Path = Path("/")) -> None:
        self.metrics, self.root, self.stop = metrics, root, Stop()
        self.temperatures: Dict[str, float] = {}
        self.watts: Optional[float] = None
        threading.Thread(target=self._read, name="sensors", daemon=True).start()

    def _read(self) -> None:
        meter = open_meter(self.root)
        while not self.stop:
            if meter is not None:
                meter.start()
            self.stop.pause(_PERIOD)
            energy = meter.stop() if meter is not None else None
            if energy is not None and energy.seconds > 0:
                self.watts = energy.joules / energy.seconds
                self.metrics.watts.labels(energy.source).set(self.watts)
            self.temperatures = temperatures(self.root)
            for zone, degrees in self.temperatures.items():
                self.metrics.degrees.labels(zone).set(degrees)

    def state(self) -> Dict[str, object]:
        """For the page: {"temperatures": {zone: degrees C}, "watts": W or None}."""
        return {"temperatures": self.temperatures, "watts": round(self.watts, 2) if self.watts is not None else None}
