"""What PRECISION=best measured on a GPU: the record in the manifest of the engine that it kept."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import UserError
from ...printable import printable
from ..cuda.driver import gpus
from .manifest import read_manifest

EARLIER = "INT8 before TensorRT 10.15"  # what calibration calls the artifact with its depthwise layers in FP16


class Outcome(NamedTuple):
    """What became of a candidate."""

    name: str
    milliseconds: Optional[float] = None  # median of a batch; None: it was not built
    speedup: float = 0.0  # over FP16 in the same turns, median
    at_least: float = 0.0  # lower end of that median's 99 % interval
    agreement: Optional[float] = (
        None  # %, with FP32, as calibration judged it; of a form that it did not judge at least that
    )
    judged: str = ""  # the form that `agreement` is of
    put_back: int = 0  # layers
    error: str = ""


class Record(NamedTuple):
    """What stands in the manifest of the engine that was kept."""

    chosen: str
    why: str
    batch: int
    library: str
    gpu: str
    seconds: float
    stopped: str  # why the search ended before its end, or ""
    candidates: List[Outcome]

    @classmethod
    def of(cls, values: Dict[str, Any]) -> Record:
        """Raises ValueError, TypeError or KeyError where `values` are not what `as_dict` gives."""
        made = cls(**{**values, "candidates": [Outcome(**each) for each in values["candidates"]]})
        texts = [made.chosen, made.why, made.gpu, made.library, made.stopped]
        numbers = [made.seconds]
        for each in made.candidates:
            texts += [each.name, each.judged, each.error]
            numbers += [each.milliseconds or 0, each.speedup, each.at_least, each.agreement or 0, each.put_back]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, (int, float)) for n in numbers):
            raise ValueError("an impossible record")
        return made

    def as_dict(self) -> Dict[str, Any]:
        return {**self._asdict(), "candidates": [each._asdict() for each in self.candidates]}


def faster(slow: Sequence[float], fast: Sequence[float]) -> Tuple[float, float]:
    """How many times as fast `fast` was as `slow`, times of the same rounds: (median, lower end of its 99 % interval).

    The interval is that of order statistics: the number of ratios below the median is binomial, whatever their distribution.
    """
    ratios = sorted(a / b for a, b in zip(slow, fast))
    count = len(ratios)
    return statistics.median(ratios), ratios[max(0, int(count / 2 - 2.576 * count**0.5 / 2))]


def lines(record: Record) -> Iterator[str]:
    """Lines about a search, the candidates in its order."""
    for each in record.candidates:
        if each.error:
            yield f"  {each.name}: not built: {each.error}"
            continue
        line = f"  {each.name}: {each.milliseconds:.3f} ms, {each.speedup:.2f} times as fast as FP16"
        line += f" (at least {each.at_least:.2f})" if each.name != "fp16" else ""
        if each.put_back:
            line += f", {each.put_back} layers put back to FP16"
        if each.agreement is not None:
            line += f"; agreement with FP32 {each.agreement:.1f} % ({each.judged})"
        yield line
    if record.stopped:
        yield f"The search ended early: {record.stopped}. Run it again with more time to go on from its result."
    yield f"{record.chosen} is kept for {record.gpu}: {record.why}."


def tuned_layers(engine: Path) -> Optional[Tuple[str, ...]]:
    """The layers that a search put back in `engine`; None if none did."""
    with contextlib.suppress(UserError):
        manifest = read_manifest(engine)
        return manifest.options.higher if manifest.tuning is not None else None
    return None


def fastest_here(folder: Path, variant: str) -> Optional[Tuple[str, str]]:
    """The precision that was measured to be fastest for `variant`, whose engines are in `folder`, on the GPU of this machine, and
    how that is known; None where nothing was measured."""
    measured = []
    for path in sorted(folder.glob(f"{variant}.*.engine")):
        with contextlib.suppress(UserError):
            manifest = read_manifest(path)
            if manifest.tuning is not None:
                measured.append(manifest)
    here = gpus().found if measured else []
    for manifest in measured:
        if here and here[0].name == manifest.gpu:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                found = Record.of(manifest.tuning or {})
                why = f"{found.chosen}, {found.why}, measured on this {manifest.gpu} with {found.library}"
                return manifest.options.precision, printable(why)
    return None
