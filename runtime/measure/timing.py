"""What runtime.bench finds of a model at one batch size, as a value and as a row of its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Dict, Mapping, Optional

from .statistics import Summary


@dataclass(frozen=True)
class Timing:
    """Times in ms for a whole batch, sizes in MB of 10^6. None is not known, and absent in JSON."""

    variant: str
    precision: str
    backend: str  # library, version and processor
    backend_name: str
    model: str  # the artifact's file name
    sha256: str
    batch: int
    resolution: int  # px
    file_mb: float  # the file that was loaded: the engine, where there is one
    total: Summary  # from encoded images to the five likeliest classes
    stages: Dict[str, Summary]  # of latency.STAGES
    throughput_per_s: float  # images
    input: str = "float32"
    random: bool = False  # random weights
    noisy: bool = False
    multiply_adds: Optional[int] = None  # MACs of one image
    parameters: Optional[int] = None
    run_batch: Optional[int] = None  # the only batch size that the graph takes
    cold_start_ms: Optional[float] = None  # from a new process to its first answer
    load_ms: Optional[float] = None
    peak_mb: Optional[float] = None
    joules_per_image: Optional[float] = None
    images_per_joule: Optional[float] = None
    bound_ms: Optional[float] = (
        None  # least time of the network alone on `bound_device`: computed, see runtime.measure.bound
    )
    bound_device: Optional[str] = None  # a name of that table
    ratio_to_first: Dict[str, float] = field(default_factory=dict)  # median, low, high: of totals, paired

    @property
    def runs(self) -> int:
        """Times that the graph runs for one batch."""
        return -(-self.batch // self.run_batch) if self.run_batch else 1

    @property
    def times_bound(self) -> Optional[float]:
        """The network's own median time over its bound."""
        network = self.stages.get("compute")
        return network.p50 / self.bound_ms if network and self.bound_ms else None

    @property
    def beside_bound(self) -> str:
        """`2.1 x the bound`, or nothing."""
        return "" if self.times_bound is None else f"{self.times_bound:.1f} x the bound"

    def to_json(self) -> Dict[str, Any]:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        found["total"] = self.total._asdict()
        found["stages"] = {name: stage._asdict() for name, stage in self.stages.items()}
        return {key: value for key, value in found.items() if value is not None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Timing:
        """Ignores keys that it does not know. Raises KeyError or TypeError for a row that lacks one it needs."""
        found = {each.name: row[each.name] for each in fields(cls) if row.get(each.name) is not None}
        found["total"] = Summary(**row["total"])
        found["stages"] = {name: Summary(**stage) for name, stage in row["stages"].items()}
        return cls(**found)
