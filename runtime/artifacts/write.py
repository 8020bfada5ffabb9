"""The one way to write a network's artifacts, and to tell whether those that lie there were made from just the same."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Optional, Sequence

from ..errors import UserError
from ..whole_file import write_together
from .artifact import PRECISIONS, Artifact, artifact_path, head_named, read_artifact, sealed, with_head_name
from .facts import HEADS, Facts
from .identity import Replaced, put_aside, same_weights
from .onnx_metadata import read_metadata, verify


class Graph(NamedTuple):
    """An ONNX graph in one precision, ready to be sealed as an artifact."""

    content: bytes  # a serialised ModelProto without metadata
    facts: Mapping[str, str] = {}  # metadata of its own


class Written(NamedTuple):
    """The artifacts that were written, and what was in their way."""

    files: Dict[str, Path]  # by precision
    replaced: Optional[Replaced] = None


def require_same_weights(
    name: str, weights_sha256: Optional[str], folder: Optional[Path], tensors_sha256: Optional[str] = None
) -> None:
    """Raises UserError if the network that lies under `name` has other weights: it is not overwritten unasked,
    nor is its embedding (`b1-embedding`) put beside another one's classes.

    `weights_sha256`: of the new ones' file; None: random ones. `tensors_sha256`: of the weights themselves, which are the same in
    a .pth file and in a .safetensors file that was made of it.
    """
    new = {"weights_sha256": weights_sha256 or ""}
    if tensors_sha256:
        new["tensors_sha256"] = tensors_sha256
    base = head_named(name)[0]
    for each in (name, *(with_head_name(base, head) for head in HEADS)):
        there = _network_there(each, folder)
        if there and not same_weights(new, there):
            raise UserError(
                f"{artifact_path(each, 'fp32', folder).parent} holds another network: {there.get('weights')}. Give this one a "
                "name of its own (make export NAME=birds), or replace that one (make export FORCE=1)."
            )


def write(
    facts: Facts, graphs: Mapping[str, Graph], made_from: str, folder: Optional[Path], fp32_sha256: str = ""
) -> Written:
    """Writes `graphs` (by precision) as the artifacts of the network `facts.variant` below `folder`.

    `made_from`: the sha256 of all that they depend on, for `fitting`. Every artifact but the FP32 one records the sha256 of the
    FP32 artifact that it belongs to: that in `graphs`, or `fp32_sha256`, which is given where they are derived from one that
    lies there already. Without `fp32_sha256` the network is a new one: what was made from the one before is put aside.
    """
    network, there = fp32_sha256, {} if fp32_sha256 else _network_there(facts.variant, folder)
    before = there.get("fp32_sha256") or there.get("sha256", "")
    order = sorted(graphs, key=PRECISIONS.index)
    paths = {precision: artifact_path(facts.variant, precision, folder) for precision in order}
    contents = {}
    for precision in order:
        own = {"made_from": made_from, "made_for": json.dumps(order)}
        if fp32_sha256:
            own["fp32_sha256"] = fp32_sha256
        contents[paths[precision]], sha256 = sealed(
            graphs[precision].content, precision, {**facts.as_metadata(), **graphs[precision].facts, **own}
        )
        network = network or sha256
        if precision == "fp32":
            fp32_sha256 = sha256
    write_together(contents)
    replaced = None
    if before and before != network:
        home = paths[order[0]].parent
        replaced = put_aside(home, home.name, before, list(paths.values()))
    return Written(paths, replaced)


def _network_there(name: str, folder: Optional[Path]) -> Dict[str, str]:
    """Metadata of the network that lies under `name`, of FP32 where there is one; {} if there is none, or it is damaged."""
    for precision in PRECISIONS:
        with contextlib.suppress(UserError):
            return read_metadata(artifact_path(name, precision, folder))
    return {}


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
