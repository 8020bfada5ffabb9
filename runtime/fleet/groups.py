"""Work given out by position alone: which images share a batch is the same on one machine and on a hundred.

A network's last bits depend on how many images it gets at once (libraries choose their kernels by it), so a group begins
and ends where a batch of `runtime.networks.pipeline.overlapped` does.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence, Tuple

from ..images.preprocess import Preprocessing
from ..networks.pipeline import grown

_MOST = 1024  # images a group: seconds that are lost with a node
_BYTES = 64 << 20  # of squares on their way between nodes
_EACH = 8  # groups for each actor, so that the last ones end together


class Groups(NamedTuple):
    """`images` in order, cut into groups."""

    images: int
    size: int  # images of each but the first and last; a multiple of the batch
    lead: int = 0  # images in the small batches that the first group begins with

    def __len__(self) -> int:
        rest = max(0, self.images - self.lead - self.size)
        return 1 + -(-rest // self.size) if self.images else 0

    def span(self, group: int) -> Tuple[int, int]:
        """The first image of `group`, and the first after it."""
        start = 0 if group == 0 else self.lead + group * self.size
        return start, min(self.images, self.lead + (group + 1) * self.size)


def cut(count: int, batch: int, recipes: Sequence[Preprocessing], actors: int, growing: bool) -> Groups:
    """Groups of `count` images that are run `batch` at a time; `growing` as in `overlapped`."""
    square = sum(3 * recipe.resolution**2 for recipe in recipes)
    wanted = min(_MOST, _BYTES // square, count // (_EACH * actors))
    return Groups(count, max(1, wanted // batch) * batch, grown(batch) if growing else 0)
