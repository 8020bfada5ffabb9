"""The one way to write a network's artifacts, and to tell whether those that lie there were made from just the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Optional, Sequence

from ..errors import UserError
from ..whole_file import write_whole
from .artifact import PRECISIONS, Artifact, artifact_path, read_artifact, sealed
from .facts import Facts
from .onnx_metadata import verify


class Graph(NamedTuple):
    """An ONNX graph in one precision, ready to be sealed as an artifact."""

    content: bytes  # a serialised ModelProto without metadata
    facts: Mapping[str, str] = {}  # metadata of its own


def write(
    facts: Facts, graphs: Mapping[str, Graph], made_from: str, folder: Optional[Path], fp32_sha256: str = ""
) -> Dict[str, Path]:
    """Writes `graphs` (by precision) as the artifacts of the network `facts.variant` below `folder`; their paths.

    `made_from`: the sha256 of all that they depend on, for `fitting`. Every artifact but the FP32 one records the sha256 of the
    FP32 artifact that it belongs to: that in `graphs`, or `fp32_sha256`, which is given where they are derived from one that
    lies there already. Without `fp32_sha256` the network is a new one: an older FP32 or FP16 that it has none of is removed.
    """
    derived = bool(fp32_sha256)
    order = sorted(graphs, key=PRECISIONS.index)
    paths = {precision: artifact_path(facts.variant, precision, folder) for precision in order}
    for precision in order:
        own = {"made_from": made_from, "made_for": json.dumps(order)}
        if fp32_sha256:
            own["fp32_sha256"] = fp32_sha256
        content, sha256 = sealed(
            graphs[precision].content, precision, {**facts.as_metadata(), **graphs[precision].facts, **own}
        )
        write_whole(paths[precision], content)
        if precision == "fp32":
            fp32_sha256 = sha256
    for precision in () if derived else ("fp32", "fp16"):
        stale = artifact_path(facts.variant, precision, folder)
        if precision not in graphs and stale.is_file():
            stale.unlink()
    return paths


def fitting(
    name: str, folder: Optional[Path], made_from: str, precisions: Sequence[str] = ("fp32",)
) -> Optional[Artifact]:
    """The artifact of `name` in the first of `precisions` that is there, if it and all that were written with it are whole, made
    from just `made_from`, and of one FP32 network. None: they have to be made (again)."""
    try:
        path = next(path for precision in precisions if (path := artifact_path(name, precision, folder)).is_file())
        first = read_artifact(path)
        fp32_sha256 = first.metadata.get("fp32_sha256", "")
        for precision in json.loads(first.metadata["made_for"]):
            artifact = read_artifact(artifact_path(name, precision, folder))
            sha256 = verify(artifact.path)
            fp32_sha256 = fp32_sha256 or sha256
            of_one = precision == "fp32" or artifact.metadata.get("fp32_sha256", sha256) == fp32_sha256
            if artifact.metadata.get("made_from") != made_from or not of_one:
                return None
    except (UserError, StopIteration, KeyError, ValueError, TypeError):  # not there, another one, or damaged
        return None
    return first
