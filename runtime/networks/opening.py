"""Opens an artifact or engine as what it is: a classifier, an embedder or feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple, Type, Union

from ..artifacts.artifact import read_artifact
from .classifier import Classifier
from .embedder import Embedder
from .features import Features
from .network import Network


def open_network(path: Union[str, Path], **options: Any) -> Network:
    """The artifact or engine `path` as what it is; `options` are Network's. Raises UserError as Network does."""
    kinds: Tuple[Type[Network], ...] = (Classifier, Embedder, Features)
    path = Path(path)
    if path.suffix == ".engine":
        from ..backends.tensorrt.engine import artifact_of

        head = artifact_of(path).head
    else:
        head = read_artifact(path).head
    return next(kind for kind in kinds if kind.head == head)(path, **options)
