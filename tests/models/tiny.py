"""The smallest network that has what B0 has: a block of each stage, a sixteenth of the weights."""

from __future__ import annotations

from dataclasses import replace

from models.variants import VARIANTS

TINY = replace(VARIANTS["b0"], width=0.25, depth=0.25)
