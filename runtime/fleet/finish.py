"""A job brought to its end, from wherever an earlier run of it stopped."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional, Sequence, Tuple

from ..artifacts.artifact import Artifact, find_artifact, read_artifact, require_classes
from ..artifacts.model_path import model_file
from ..backends.backend import Engines
from ..errors import UserError
from ..images.decode import Decoding
from ..networks.pipeline import recipes_of
from ..printable import printable
from .actor import Answering, Form, Job, Model
from .bulk import Running, answering_of, share_of
from .cluster import joined
from .decoding import Listing
from .groups import Groups, cut
from .options import Fleet
from .results import Folder
from .sources import Entry

_SCHEMA = 1  # of _job.json


class Task(NamedTuple):
    """What a command asks of the cluster."""

    artifacts: Sequence[Artifact]
    backend: str
    engines: Engines
    decoding: Decoding
    fleet: Fleet
    growing: bool
    form: Callable[[Answering], Form]
    entries: Callable[[], Iterable[Entry]]
    asked: Dict[str, Any]  # what the numbers depend on besides


def artifact_of(model: Optional[str], variant: Optional[str] = None, precision: Optional[str] = None) -> Artifact:
    """The classifier that a command's options mean; unlike `open_model`, it is not opened here. Raises UserError."""
    path = model_file(model, precision) if model else find_artifact(variant, precision)
    if path.suffix == ".engine":
        raise UserError(
            f"{path} fits one kind of GPU: name the ONNX file it was made from; with --backend tensorrt each node builds its own."
        )
    artifact = read_artifact(path)
    require_classes(artifact)
    return artifact


Seen = Callable[[int, int, Optional[int]], None]  # images done, of how many, and which group just got done


def finish(task: Task, folder: Folder, seen: Seen, fresh: bool) -> Tuple[Dict[str, Any], Groups]:
    """Does what is missing in `folder`; what is in its _job.json, and the groups. Raises UserError; a folder with another
    job's results is left as it is."""
    asked = asked_of(task)
    if fresh:
        folder.clear()
    done = folder.job()
    if done:
        _require_same(done.get("asked", {}), asked, folder)
    elif folder.store.names("results"):
        raise UserError(f"{folder.store.location} has results/ of something else: choose another folder.")
    listing = folder.listing() if done else None
    if listing is None:
        done = {}
        folder.list(task.entries())
        listing = folder.listing()
        assert listing is not None
    if done and len(folder.done(Groups(*done["groups"]))) == len(Groups(*done["groups"])):
        return done, Groups(*done["groups"])
    with joined(task.fleet.address) as ray:
        chunks = [ray.put(listing.read_row_group(i)) for i in range(listing.num_row_groups)]
        count = listing.metadata.num_rows
        del listing
        return _advance(task, folder, done, asked, Listing(chunks), count, ray, seen)


def _advance(
    task: Task,
    folder: Folder,
    state: Dict[str, Any],
    asked: Dict[str, Any],
    listing: Listing,
    count: int,
    ray: Any,
    seen: Seen,
) -> Tuple[Dict[str, Any], Groups]:
    """Does what is missing. `state`: what _job.json holds; {} for a new job."""
    models = tuple(_model(artifact, task, ray) for artifact in task.artifacts)
    job = Job(models, task.decoding, task.growing, _nothing)
    share = share_of(task.fleet)
    answering = answering_of(job, task.fleet, share)
    network = printable(task.artifacts[0].told)
    where = f"{share.actors} x {answering.description} ({answering.processor}), {answering.batch} a time"
    print(f"answering: {network} on {where}", file=sys.stderr)
    recipes = recipes_of(task.artifacts)
    if not state:
        groups = cut(count, answering.batch, recipes, share.actors, task.growing)
        state = {
            "asked": asked,
            "groups": list(groups),
            "backend": answering.backend,
            "description": answering.description,
            "batch": answering.batch,
            "answered": [],
        }
        folder.begin(state)
    elif (state["description"], state["batch"]) != (answering.description, answering.batch):
        raise UserError(
            f"{folder.store.location} was begun on {state['description']}, {state['batch']} a time, and this cluster has "
            f"{answering.description}, {answering.batch} a time: the numbers would not be of one kind. --fresh begins anew."
        )
    groups = Groups(*state["groups"])
    done = folder.done(groups)
    missing = [group for group in range(len(groups)) if group not in done]
    folder.clear(missing)
    images = count - sum(stop - start for start, stop in map(groups.span, missing))
    if done:
        print(f"{images} of {count} images are done already (--fresh begins anew)", file=sys.stderr)
    seen(images, count, None)
    job = job._replace(form=task.form(answering))
    with Running(job, groups, missing, listing, recipes, task.fleet, share, answering) as running:
        for group, part in running.parts():
            folder.keep(group, part.table, part.bad)
            images += part.images
            if part.answered not in state["answered"]:
                state["answered"].append(part.answered)
                folder.begin(state)
                if len(state["answered"]) > 1:
                    several = " and on ".join(state["answered"])
                    print(f"note: answered on {several}: last digits may differ", file=sys.stderr)
            seen(images, count, group)
    return state, groups


def _nothing(*_: Any) -> Tuple[bytes, bytes]:
    return b"", b""


def _model(artifact: Artifact, task: Task, ray: Any) -> Model:
    return Model(
        str(artifact.path.resolve()),
        artifact.metadata["sha256"],
        ray.put(artifact.path.read_bytes()),
        task.backend,
        task.fleet.threads,
        task.engines,
    )


def asked_of(task: Task) -> Dict[str, Any]:
    """What the job's numbers depend on, as it stands in _job.json."""
    return {
        "schema": _SCHEMA,
        "artifacts": [artifact.metadata["sha256"] for artifact in task.artifacts],
        "backend": task.backend,
        "threads": task.fleet.threads,
        "decoding": list(task.decoding),
        **task.asked,
    }


def own_folder(task: Task, kind: str) -> str:
    """Where a job keeps what it has done when nobody names a folder: named by all that it depends on, its images' names too."""
    digest = hashlib.sha256(json.dumps(asked_of(task)).encode())
    for entry in task.entries():
        digest.update(f"{entry}\n".encode("utf-8", "surrogateescape"))
    return str(Path("reports") / f".{kind}-{digest.hexdigest()[:16]}")


def _require_same(before: Dict[str, Any], now: Dict[str, Any], folder: Folder) -> None:
    differs = [key for key in now if before.get(key) != now[key]]
    if differs:
        raise UserError(
            f"{folder.store.location} has the results of another job (other {', '.join(differs)}): choose another folder, or "
            "--fresh to write over them."
        )
