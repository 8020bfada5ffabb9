"""What an engine is built for: precision, batch sizes, memory, and the rest of what a user may choose."""

from __future__ import annotations

import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ...errors import UserError

PRECISIONS = ("fp32", "fp16", "int8")  # that may be asked for
BEST = "best"  # of these, what is fastest
ANY = "any"  # the target of an engine that runs on more than one architecture


class Batch(NamedTuple):
    """An optimisation profile: the engine runs any number of images from `least` to `most`, `best` fastest."""

    least: int
    best: int
    most: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


class BuildOptions(NamedTuple):
    """Options of one build. None leaves a choice to TensorRT."""

    precision: str = "fp16"
    batch: Batch = Batch(1, 1, 8)
    workspace: Optional[int] = None  # bytes of device memory that kernels may use while they are tried and run
    opt_level: Optional[int] = None  # 0 to 5: seconds of building against speed
    dla: Optional[int] = None  # core of the deep learning accelerator; what it can't do falls back to the GPU
    higher: Optional[Tuple[str, ...]] = None  # INT8 layers that are put back to FP16; None: as the generation wants it
    implicit: bool = False  # INT8 from a file without Q/DQ, with ranges that mean nothing: to be timed, not to be used
    target: Optional[str] = None  # "sm_89", for a GPU that is not in this machine, or ANY; TensorRT-RTX only

    def as_dict(self) -> Dict[str, Any]:
        return {**self._asdict(), "batch": list(self.batch)}

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> BuildOptions:
        """Raises ValueError, TypeError or KeyError where `values` are not what `as_dict` gives."""
        higher = values.get("higher")
        if higher is not None:
            higher = tuple(higher)
            if not all(isinstance(name, str) for name in higher):
                raise ValueError(f"impossible layers {higher!r:.80}")
        made = cls(**{**values, "batch": Batch(*values["batch"]), "higher": higher})
        numbers = (*made.batch, *(n for n in (made.workspace, made.opt_level, made.dla) if n is not None))
        if made.precision not in PRECISIONS or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"impossible options {values!r:.200}")
        if made.target is not None and not (
            isinstance(made.target, str) and re.fullmatch(rf"sm_[0-9]{{2,4}}|{ANY}", made.target)
        ):
            raise ValueError(f"target {made.target!r:.80}")
        return made


def parse_batch(text: str) -> Batch:
    """ "8" (just that many) or "1,8,32" (least, best, most). Raises UserError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2] <= 4096:
        raise UserError(f"'{text}' is no batch: give one number, or least,best,most in ascending order, as 1,8,32.")
    return Batch(*numbers)


def parse_target(text: str) -> str:
    """ "sm_89", "sm89", "89" or "8.9" -> "sm_89"; "any" -> ANY. Raises UserError."""
    if text.strip().lower() == ANY:
        return ANY
    found = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"'{text}' is no GPU architecture: give its compute capability, as sm_89, or {ANY}.")
    return f"sm_{found[1]}{found[2]}"
