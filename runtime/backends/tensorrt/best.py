"""PRECISION=best: which of an artifact's precisions is built."""

from __future__ import annotations

from typing import List

from ...artifacts.artifact import Artifact
from ...errors import UserError
from ...invocation import typed
from .explain import comparison
from .options import BuildOptions
from .site import Site

# Seen in what its builder makes of every placement that was tried (docs/engines.md), on all GPUs that it builds for.
_RTX = "In TensorRT-RTX each INT8 convolution writes floats, which another kernel rounds"


def why_fp16(artifact: Artifact, site: Site, options: BuildOptions) -> List[str]:
    """Why PRECISION=best took FP16, `options`, on TensorRT-RTX: lines with the rows of FP16 and INT8, where INT8 is there."""
    try:
        rows, said = comparison(artifact, site, options._replace(precision="int8"))
    except UserError as error:
        return [f"PRECISION=best is FP16 here. {_RTX} (docs/engines.md). INT8 was not looked at: {error}"]
    build = f"{typed('engine')} --variant {artifact.variant} --precision int8"
    return [*rows, f"PRECISION=best is FP16 here. {said} {_RTX}. '{build}' builds it all the same."]
