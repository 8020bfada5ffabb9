"""On the node of a network: holds the models of a job, and answers a group as `runtime.networks.pipeline` does on one machine."""

from __future__ import annotations

import json
import os
import platform
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pyarrow
import ray
from PIL import Image

from ..artifacts.artifact import read_artifact
from ..backends.backend import Engines
from ..errors import UserError
from ..images.decode import Decoding, ImageError
from ..measure.machine import machine
from ..networks.classifier import Classifier
from ..networks.pipeline import Answer, Squares, overlapped, recipes_of
from ..whole_file import write_whole

# Names and answers of a group that begins at a position -> what is kept of it, and what of the unreadable (b"": there are none).
Form = Callable[[int, Sequence[str], Sequence[Answer], Sequence[Classifier]], Tuple[bytes, bytes]]


class Model(NamedTuple):
    """An artifact, wherever it is to be opened."""

    path: str
    sha256: str
    content: Any  # ObjectRef of the file's bytes
    backend: str
    threads: int
    engines: Engines


class Job(NamedTuple):
    """What is done to every image."""

    models: Tuple[Model, ...]
    decoding: Decoding
    growing: bool  # of the very first images, as runtime.infer begins
    form: Form


class Facts(NamedTuple):
    """What answers, as far as the numbers depend on it."""

    batch: int  # images a run
    backend: str  # its name
    description: str  # library, its version and where it runs
    processor: str


class Networks:
    """The job's models, opened once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.opened: List[Classifier] = []

    def get(self) -> List[Classifier]:
        """Raises UserError where they can't be opened."""
        if not self.opened:
            self.opened = [
                Classifier(
                    local_copy(model),
                    backend=model.backend,
                    threads=model.threads,
                    engines=model.engines,
                    decoding=self.job.decoding,
                )
                for model in self.job.models
            ]
        return self.opened

    def facts(self) -> Facts:
        networks = self.get()
        first = networks[0].backend
        batch = min(network.backend.batch for network in networks)
        here = machine()
        gpus = [gpu.get("name", "") for gpu in here.get("gpus") or []] if "CPU" not in first.description else []
        return Facts(batch, first.name, first.description, ", ".join(gpus) or here.get("cpu") or platform.machine())


def local_copy(model: Model) -> Path:
    """The artifact where the driver has it, if this node sees the same there (with the engines beside it); else in the node's
    cache, where engines that are built for it stay too."""
    path = Path(model.path)
    if not _is(path, model.sha256):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        path = Path(cache) / "efficientnet-edge" / model.sha256[:16] / path.name
        if not _is(path, model.sha256):
            write_whole(path, ray.get(model.content))
    return path


def _is(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and read_artifact(path).metadata["sha256"] == sha256
    except UserError:
        return False


class Classify:
    """An actor of Ray Data's pool. Whatever goes wrong with a group becomes part of its row, so that what does raise is a node
    that was lost."""

    def __init__(self, job: Job, expected: Facts) -> None:
        self.networks, self.expected = Networks(job), expected
        self.facts: Optional[Facts] = None  # of this node

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        group, start, text = (block.column(name)[0].as_py() for name in ("group", "start", "facts"))
        facts = json.loads(text)
        found = {
            "group": group,
            "answered": "",
            "pictures": len(facts["names"]),
            "unreadable": len(facts["errors"]),
            "lost": facts["lost"],
            "node": platform.node(),
            "failure": facts["failure"],
            "user": facts["user"],
        }
        table, bad = b"", b""
        if not found["failure"]:
            try:
                pixels = np.frombuffer(block.column("pixels")[0].as_buffer(), np.uint8)
                table, bad = self._answered(start, facts, pixels)
                assert self.facts is not None
                found["answered"] = f"{self.facts.description}, {self.facts.processor}"
            except UserError as error:
                found.update(failure=str(error), user=True)
            except Exception:
                found.update(failure=traceback.format_exc(), user=False)
        kind = pyarrow.large_binary()
        return pyarrow.table(
            {
                "found": [json.dumps(found)],
                "table": pyarrow.array([table], kind),
                "bad": pyarrow.array([bad], kind),
            }
        )

    def _answered(self, start: int, facts: Dict[str, Any], pixels: np.ndarray) -> Tuple[bytes, bytes]:
        networks, job = self.networks.get(), self.networks.job
        if self.facts is None:
            self.facts = self.networks.facts()
        if self.facts.batch != self.expected.batch:
            raise UserError(
                f"{platform.node()} would run {self.facts.batch} images at a time ({self.facts.description}), and other nodes "
                f"{self.expected.batch} ({self.expected.description}): name the --backend that all have."
            )
        answers = list(answered(networks, job, facts, pixels, self.facts.batch, growing=job.growing and start == 0))
        return job.form(start, facts["names"], answers, networks)


def answered(
    networks: Sequence[Classifier], job: Job, facts: Dict[str, Any], pixels: np.ndarray, batch: int, growing: bool
) -> Iterator[Answer]:
    """As on one machine, from the squares on."""
    names, errors = facts["names"], facts["errors"]
    arrays, first = [], 0
    for recipe in recipes_of([network.artifact for network in networks]):
        shape = (len(names), recipe.resolution, recipe.resolution, 3)
        last = first + int(np.prod(shape))
        arrays.append(pixels[first:last].reshape(shape))
        first = last

    def opened(row: int) -> Tuple[str, Squares]:
        if str(row) in errors:
            raise ImageError(errors[str(row)])
        return names[row], Squares(Image.fromarray(array[row]) for array in arrays)

    return overlapped(
        networks, range(len(names)), opened, batch=batch, readers=1, decoding=job.decoding, growing=growing
    )
