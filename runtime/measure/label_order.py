"""Whether a data set's labels mean the model's classes, told from what the model sees. Labels in another order are found, and
the order is named where it is one that people have.

A label is a number in some order of the classes. Data sets count from 0 or from 1, put a background class first, or sort
folders as text ("10" before "2"); ILSVRC's development kit has an order of its own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Set

from ..artifacts.artifact import Artifact
from .accuracy import wilson

_LEAST = 20  # images, with less of which nothing is concluded
_UNLIKELY = 1e-3  # probability below which chance explains nothing


class Seen(NamedTuple):
    """One labelled image."""

    label: int  # class index as the data set has it; may be one too large, see dataset.ClassNames.require
    found: int  # the model's likeliest class


class Order(NamedTuple):
    """How labels may have been numbered."""

    name: str
    remedy: str
    class_of: Callable[[int], int]  # label -> the model's class; a number outside of those: none
    tries: int = 1  # how many orders it was chosen from


def doubt(seen: Sequence[Seen], artifact: Artifact) -> Optional[str]:
    """Why the labels are probably not in the order of `artifact`'s classes, in words; None if nothing speaks for that.

    It is said where another order fits far better, and where no more images are right than by chance. Few images, or many of
    a few classes, prove nothing: then None.
    """
    n, classes = len(seen), artifact.classes
    outside = next((image.label for image in seen if image.label >= classes), None)
    right = sum(image.label == image.found for image in seen)
    as_is = f"{right / max(n, 1):.1%} of {n} images are right in top-1 as they are"
    if n >= _LEAST:
        orders = _orders(seen, artifact)
        tried = sorted(((_right(seen, order), order) for order in orders), key=lambda each: -each[0])
        for hits, order in tried:
            if _fits(seen, order, hits, right, classes, len(orders)):
                return f"They seem to be {order.name}: {as_is}, and {hits / n:.1%} {order.remedy}."
        shifted = _shifted_part(seen)
        if shifted is not None:
            return (
                f"Those from {shifted.first} to {shifted.last} seem to be shifted by {-shifted.by}, as where a class is missing "
                f"before them: {as_is}, and {(right + shifted.gained) / n:.1%} with {shifted.by:+d} added to those."
            )
        learnt = _learnt(seen)
        if learnt is not None:
            return (
                f"They seem to be numbered in another order: {as_is}, and {learnt.share:.1%} if a label means what most of its "
                f"images show ({_examples(learnt, artifact)}). Label them by name or wnid."
            )
    if outside is not None:
        return f"{outside} is none of the classes, which count from 0 to {classes - 1}."
    chance = n / classes
    if n and _poisson_tail(right, chance) > _UNLIKELY and wilson(right, n)[1] < min(0.25, max(0.1, 2.5 / classes)):
        return f"{right} of {n} images are right in top-1, which is no more than by chance ({chance:.2g})."
    return None


def _orders(seen: Sequence[Seen], artifact: Artifact) -> List[Order]:
    """Those that people have, and the shift that fits best."""
    n = artifact.classes
    orders = [
        Order(
            "counted from 1, or with a background class first", "with 1 subtracted from each", lambda label: label - 1
        ),
        Order("one too low, as without the model's background class", "with 1 added to each", lambda label: label + 1),
        _sorted("folders sorted as text: 0, 1, 10, 100, 101", [str(i) for i in range(n)]),
        _sorted("folders sorted as text, from 1: 1, 10, 100, 1000, 101", [str(i + 1) for i in range(n)]),
        _sorted("classes sorted by name", [label.casefold() for label in artifact.labels]),
        _sorted("classes sorted by name, capitals first", artifact.labels),
        Order("counted backwards", "counted forwards", lambda label: n - 1 - label),
    ]
    try:
        wnids = [str(wnid) for wnid in json.loads(artifact.metadata.get("wnids", "[]"))]
    except (ValueError, TypeError, RecursionError):
        wnids = []
    if len(wnids) == n:
        orders.append(_sorted("classes sorted by wnid", wnids))
    shifts = Counter(image.found - image.label for image in seen)
    shift, _ = max(shifts.items(), key=lambda each: (each[0] not in (-1, 0, 1), each[1]))
    orders.append(Order(f"shifted by {-shift}", f"with {shift:+d} added to each", lambda label: label + shift, 2 * n))
    return orders


def _sorted(name: str, keys: Sequence[str]) -> Order:
    """Labels that are places in the sorted `keys` of the classes."""
    classes = sorted(range(len(keys)), key=lambda index: keys[index])
    return Order(f"numbers of {name}", "if read so", lambda label: classes[label] if label < len(classes) else -1)


def _right(seen: Sequence[Seen], order: Order) -> int:
    return sum(order.class_of(image.label) == image.found for image in seen)


def _fits(seen: Sequence[Seen], order: Order, hits: int, right: int, classes: int, orders: int) -> bool:
    """Whether `hits` under `order` are no luck, and many more than the `right` ones as the labels are.

    Images of one label hit together, so labels with a hit are counted: each has one by chance with a probability of how many
    classes its images are taken for, of all.
    """
    if hits < 4 * right or (order.tries > 1 and 4 * hits < len(seen)):
        return False
    taken: Dict[int, Set[int]] = {}
    for image in seen:
        taken.setdefault(image.label, set()).add(image.found)
    labels = sum(order.class_of(label) in found for label, found in taken.items())
    expected = sum(map(len, taken.values())) / classes
    return labels > 1 and (2 * hits >= len(seen) or order.tries * orders * _poisson_tail(labels, expected) < _UNLIKELY)


class _Shifted(NamedTuple):
    """Labels that lie one beside the other, and are all off by the same."""

    first: int
    last: int
    by: int  # to be added
    gained: int  # images that are right then and are not now


def _shifted_part(seen: Sequence[Seen]) -> Optional[_Shifted]:
    """The labels of which far more images are right if a little is added to each: a folder that was left out moves all behind it.
    None if there are none, or fewer than ten of them show it."""
    images = sorted(seen)
    found = None
    for by in (-1, 1, -2, 2, -3, 3):
        best, start, total = (0, 0, 0), 0, 0  # the piece with the most gained (Kadane's algorithm)
        for i, image in enumerate(images):
            total += (image.label + by == image.found) - (image.label == image.found)
            if total <= 0:
                start, total = i + 1, 0
            elif total > best[0]:
                best = (total, start, i + 1)
        gained, start, end = best
        piece = images[start:end]
        hits = [image.label for image in piece if image.label + by == image.found]
        right = sum(image.label == image.found for image in piece)
        fits = len(set(hits)) >= 10 and 2 * len(hits) >= len(piece) and len(hits) >= 4 * right
        if fits and (found is None or gained > found.gained):
            found = _Shifted(piece[0].label, piece[-1].label, by, gained)
    return found


class _Learnt(NamedTuple):
    """An order that was learnt from half of the images and tried on the other."""

    class_of: Dict[int, int]
    share: float


def _learnt(seen: Sequence[Seen]) -> Optional[_Learnt]:
    """The order in which each label means another class, if there is one that holds on images that it was not learnt from."""
    halves: List[List[Seen]] = [[], []]
    count: Counter = Counter()
    for image in seen:
        halves[count[image.label] % 2].append(image)
        count[image.label] += 1
    known = _one_to_one(halves[0])
    tried = [image for image in halves[1] if image.label in known]
    moved = {label: found for label, found in known.items() if label != found}
    there = [image for image in tried if image.label in moved]
    hit = Counter(image.label for image in there if known[image.label] == image.found)
    hits, right = sum(hit.values()), sum(image.label == image.found for image in there)
    several = (
        sum(count > 2 for count in hit.values()) > 1 or len(hit) >= 10
    )  # or it is a class that the model is bad at
    if len(there) < _LEAST // 2 or not several or 2 * hits < len(there) or 4 * right > hits:
        return None
    return _Learnt(moved, sum(known[image.label] == image.found for image in tried) / len(tried))


def _one_to_one(seen: Sequence[Seen]) -> Dict[int, int]:
    """Each label's class and each class's label, the most frequent pairs first."""
    classes: Dict[int, int] = {}
    for image, _ in Counter(seen).most_common():
        if image.label not in classes and image.found not in classes.values():
            classes[image.label] = image.found
    return classes


def _examples(learnt: _Learnt, artifact: Artifact) -> str:
    first = sorted(learnt.class_of.items())[:2]
    return ", ".join(f"{label} is class {found}, '{artifact.labels[found]}'" for label, found in first)


def _poisson_tail(k: int, mean: float) -> float:
    """Probability of `k` or more where `mean` are expected by chance."""
    if mean <= 0:
        return float(k == 0)
    return max(0.0, 1 - sum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(k)))
