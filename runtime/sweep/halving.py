"""Which of several networks to deploy, judged on more and more images: who is clearly out after so many, and who is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ..measure.accuracy import mcnemar, paired_difference, wilson

FIRST = 64  # images of the first round; each later one has twice as many
ALIKE = 256  # images that two must have answered alike: then, with 95 % confidence, less than 1.5 % of others differ
BY_CHANCE = (
    0.001  # a candidate is out if chance alone would make it look so much worse less often: there are many looks
)


class Limits(NamedTuple):
    """What the user asks for; None: nothing."""

    max_ms: Optional[float] = None
    min_top1: Optional[float] = None  # %
    max_mb: Optional[float] = None


@dataclass
class Candidate:
    """An artifact, what is known of it, and its answers so far."""

    name: str  # "b0 int8"
    ms: float  # median, from encoded image to top-5, one image
    mb: float
    macs: int = 0
    backend: str = ""
    noisy: bool = False  # whether `ms` is not known to 2 %
    answers: List[int] = field(default_factory=list)  # class of each image so far; -1: none that is a number
    right: List[bool] = field(default_factory=list)  # whether it is what the label, or the largest network, says
    out: str = ""  # why it is no longer in question

    @property
    def share(self) -> float:
        """%, of images answered rightly."""
        return 100 * sum(self.right) / max(len(self.right), 1)

    @property
    def interval(self) -> Tuple[float, float]:
        """95 %, of `share`."""
        low, high = wilson(sum(self.right), len(self.right))
        return 100 * low, 100 * high


def rounds(count: int) -> List[int]:
    """Images after which to judge: 64, 128, 256, ... and all `count`."""
    sizes = [FIRST << i for i in range(32) if FIRST << i < count]
    return [*sizes, count]


def against(better: Candidate, worse: Candidate) -> Tuple[int, int]:
    """Images that only `better` answered rightly, and only `worse`, of those that both have seen."""
    pairs = list(zip(better.right, worse.right))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def points(better: Candidate, worse: Candidate) -> Tuple[float, float, float]:
    """By how many points `better` is more accurate on the images that both have seen, and the 95 % interval."""
    gained, lost = against(better, worse)
    difference, low, high = paired_difference(gained, lost, min(len(better.right), len(worse.right)))
    return 100 * difference, 100 * low, 100 * high


def breaks(each: Candidate, limits: Limits) -> str:
    """Which limit of time or size `each` does not keep; "" if it keeps both."""
    if limits.max_ms is not None and each.ms > limits.max_ms:
        return f"takes {each.ms:.1f} ms, more than {limits.max_ms:g}"
    if limits.max_mb is not None and each.mb > limits.max_mb:
        return f"has {each.mb:.1f} MB, more than {limits.max_mb:g}"
    return ""


def drop(candidates: Sequence[Candidate], limits: Limits) -> List[Candidate]:
    """Marks who is clearly out, and returns them. A candidate goes if, of those left, one that is

    - more accurate beats it beyond chance, unless `min_top1` says that less accuracy will do and it is the faster one;
    - faster and sure to reach `min_top1` is there;
    - faster has answered all images as it did, ALIKE at least;

    or if it can't reach `min_top1` any more.
    """
    gone = []
    for each in sorted((each for each in candidates if not each.out), key=lambda each: -each.ms):
        others = [other for other in candidates if not other.out and other is not each]
        each.out = _why_out(each, others, limits)
        gone += [each] if each.out else []
    return gone


def _why_out(each: Candidate, others: Sequence[Candidate], limits: Limits) -> str:
    floor, faster = limits.min_top1, [other for other in others if (other.ms, other.mb) < (each.ms, each.mb)]
    if floor is not None and each.interval[1] < floor:
        return f"{each.interval[1]:.1f} % at most, less than {floor:g}"
    for other in others if floor is None else faster:
        gained, lost = against(other, each)
        if gained > lost and mcnemar(gained, lost) < BY_CHANCE:
            return f"less accurate than {other.name}, beyond chance"
    for other in faster:
        if floor is not None and other.interval[0] >= floor:
            return f"slower than {other.name}, which has {floor:g} %"
        if other.answers == each.answers and len(each.answers) >= ALIKE:
            return f"answers as {other.name} does, which is faster"
    return ""


class Decision(NamedTuple):
    """The candidate to deploy (None: no one fits), the most accurate one in question, and why it is that one."""

    best: Optional[Candidate]
    top: Optional[Candidate]
    why: str


def decide(candidates: Sequence[Candidate], limits: Limits) -> Decision:
    """Of those left after the last round: the fastest that reaches `min_top1`; without one, the fastest of those that the
    images can't tell from the most accurate (95 %)."""
    left = [each for each in candidates if not each.out]
    if not left:
        return Decision(None, None, "")
    top = max(left, key=lambda each: (each.share, -each.ms))
    if limits.min_top1 is not None:
        fitting = [each for each in left if each.share >= limits.min_top1]
        why = f"the fastest that has {limits.min_top1:g} %"
    else:
        fitting = [each for each in left if each is top or points(top, each)[1] <= 0]
        why = f"the fastest of {len(fitting)} that the images can't tell from the most accurate, {top.name}"
        if len(fitting) == 1:
            why = "the most accurate; the images tell it from all others"
    if not fitting:
        return Decision(None, top, "")
    best = min(fitting, key=lambda each: (each.ms, each.mb))
    if len(left) == 1:
        why = "the only one left, the table says why the others are out"
    elif best is top and limits.min_top1 is None and len(fitting) > 1:
        why = "the most accurate, and the fastest of those that the images can't tell from it"
    return Decision(best, top, why)
