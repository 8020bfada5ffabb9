"""On the node of a network: holds the models of a job, and answers a group as `runtime.networks.pipeline` does on one machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import ray
from PIL import Image

from ..artifacts.artifact import read_artifact
from ..backends.backend import Engines
from ..errors import UserError
from ..images.decode import Decoding, ImageError
from ..measure.machine import machine
from ..networks.classifier import Classifier
from ..networks.pipeline import Answer, Squares, overlapped
from ..whole_file import write_whole
from .decoding import Decoded, Failed

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


class Answering(NamedTuple):
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

    def answering(self) -> Answering:
        networks = self.get()
        first = networks[0].backend
        batch = min(network.backend.batch for network in networks)
        here = machine()
        gpus = [gpu.get("name", "") for gpu in here.get("gpus") or []] if "CPU" not in first.description else []
        return Answering(batch, first.name, first.description, ", ".join(gpus) or here.get("cpu") or platform.machine())


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


class Part(NamedTuple):
    """A group that is done."""

    images: int
    unreadable: int
    answered: str  # by which library on which processor
    table: bytes  # as the job's form makes it
    bad: bytes  # the same of the unreadable; b"": there are none
    lost: str  # see Decoded
    node: str  # that saw the images


class Answerer:
    """An actor that holds the job's models. Whatever goes wrong with a group is a Failed, so that what is raised is a node that
    was lost."""

    def __init__(self, job: Job, expected: Optional[Answering] = None) -> None:
        self.networks, self.expected = Networks(job), expected
        self.here: Optional[Answering] = None  # of this node

    def open(self) -> Union[Answering, Failed]:
        """Opens the models; what answers here."""
        try:
            self.here = self.here or self.networks.answering()
            if self.expected and self.here.batch != self.expected.batch:
                raise UserError(
                    f"{platform.node()} would run {self.here.batch} images at a time ({self.here.description}), and other nodes "
                    f"{self.expected.batch} ({self.expected.description}): name the --backend that all have."
                )
            return self.here
        except Exception as error:
            return Failed.of(error)

    def answer(self, decoded: Union[Decoded, Failed]) -> Union[Part, Failed]:
        here = self.open()
        if isinstance(decoded, Failed) or isinstance(here, Failed):
            return decoded if isinstance(decoded, Failed) else here  # type: ignore[return-value]
        networks, job = self.networks.get(), self.networks.job
        try:
            answers = list(answered(networks, job, decoded, here.batch))
            table, bad = job.form(decoded.start, decoded.names, answers, networks)
        except Exception as error:
            return Failed.of(error)
        by = f"{here.description}, {here.processor}"
        return Part(len(decoded.names), len(decoded.errors), by, table, bad, decoded.lost, decoded.node)


def answered(networks: Sequence[Classifier], job: Job, decoded: Decoded, batch: int) -> Iterator[Answer]:
    """As on one machine, from the squares on."""

    def opened(row: int) -> Tuple[str, Squares]:
        if row in decoded.errors:
            raise ImageError(decoded.errors[row])
        return decoded.names[row], Squares(Image.fromarray(array[row]) for array in decoded.arrays)

    return overlapped(
        networks,
        range(len(decoded.names)),
        opened,
        batch=batch,
        readers=1,
        decoding=job.decoding,
        growing=job.growing and decoded.start == 0,
    )
