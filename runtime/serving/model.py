"""What Triton's Python backend runs: images to classes, or the steps before and after a network that Triton runs itself.

Every row is answered. An image that can't be read, or that the network answers with NaN, has its reason in `error`, class -1
and probability 0; the other rows of its request and batch are as good as without it. A request parameter `top` (5) says how
many classes come back.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..artifacts.artifact import Artifact, read_artifact
from ..backends.processor import processors
from ..errors import UserError
from ..images.decode import ImageError
from ..images.preprocess import preprocess
from ..networks.classifier import Classifier
from ..networks.network import not_finite
from ..output import answered_by

if TYPE_CHECKING:
    from ..networks.classifier import Prediction

TOP = 5
IMAGE = "image"  # what errors call it: only the client knows its name
METADATA = "metadata.onnx"  # an artifact's metadata, without its network

Rows = Sequence[bytes]


class TritonPythonModel:
    """Triton calls these three methods, one at a time, in a process for each instance."""

    def initialize(self, args: Dict[str, str]) -> None:
        """Raises UserError if the model can't be opened; Triton prints it and calls the model unavailable."""
        parameters = {
            key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        if args["model_instance_kind"] == "GPU":  # before anything asks the driver: all see this one alone
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        folder = Path(args["model_repository"]) / args["model_version"]
        self.role = ROLES[parameters["role"]](folder, parameters)

    def execute(self, requests: Sequence[Any]) -> List[Any]:
        """A response for each request of a batch."""
        return self.role.answer(requests)

    def finalize(self) -> None:
        self.role.close()


class Classify:
    """Encoded images to classes, on any backend of this project."""

    def __init__(self, folder: Path, parameters: Dict[str, str]) -> None:
        threads = int(parameters["threads"]) if parameters.get("threads") else None
        self.classifier = Classifier(folder / parameters["artifact"], backend=parameters["backend"], threads=threads)
        self.readers = _Readers(self.classifier.artifact)
        self.told = json.dumps(answered_by(self.classifier.artifact, self.classifier.backend.name)).encode()

    def answer(self, requests: Sequence[Any]) -> List[Any]:
        asked = [_Asked(request, images_of(request)) for request in requests]
        images = [image for each in asked for image in each.rows]
        batch, errors = self.readers.read(images)
        good = [row for row, error in enumerate(errors) if not error]
        logits = np.zeros((len(images), self.classifier.artifact.classes), np.float32)
        try:
            most = self.classifier.backend.batch
            for start in range(0, len(good), most):
                rows = good[start : start + most]
                whole = rows[-1] - rows[0] == len(rows) - 1  # most often: no copy
                logits[rows] = self.classifier.logits(batch[rows[0] : rows[-1] + 1] if whole else batch[rows])
        except UserError as error:
            return [failure(str(error)) for _ in requests]
        responses, start = [], 0
        for each in asked:
            stop = start + len(each.rows)
            responses.append(classes_response(self.classifier, each, logits[start:stop], errors[start:stop], self.told))
            start = stop
        return responses

    def close(self) -> None:
        self.readers.close()
        self.classifier.close()


class Preprocess:
    """Encoded images to what the network takes; in place of one that can't be read, zeros and its error."""

    def __init__(self, folder: Path, parameters: Dict[str, str]) -> None:
        self.readers = _Readers(read_artifact(folder / METADATA))

    def answer(self, requests: Sequence[Any]) -> List[Any]:
        responses = []
        for request in requests:
            batch, errors = self.readers.read(images_of(request))
            responses.append(response(request, prepared=batch, error=_texts([[error] for error in errors])))
        return responses

    def close(self) -> None:
        self.readers.close()


class Postprocess:
    """Logits to classes."""

    def __init__(self, folder: Path, parameters: Dict[str, str]) -> None:
        self.labelled = _Labelled(read_artifact(folder / METADATA))
        self.told = json.dumps(answered_by(self.labelled.artifact, parameters["network"])).encode()

    def answer(self, requests: Sequence[Any]) -> List[Any]:
        responses = []
        for request in requests:
            logits = tensor_of(request, "logits")
            errors = [row.decode() for row in tensor_of(request, "error").reshape(-1)]
            responses.append(classes_response(self.labelled, _Asked(request, []), logits, errors, self.told))
        return responses

    def close(self) -> None:
        pass


ROLES: Dict[str, Any] = {"classify": Classify, "preprocess": Preprocess, "postprocess": Postprocess}


class _Labelled(Classifier):
    """A classifier whose network is somebody else's: it only names what that answered."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact


class _Readers:
    """Threads that decode the images of a batch."""

    def __init__(self, artifact: Artifact) -> None:
        self.recipe = artifact.preprocessing
        self.pool = ThreadPoolExecutor(processors())

    def read(self, images: Rows) -> Tuple[np.ndarray, List[str]]:
        """The batch, and for each row why it is none, or ""."""
        batch = self.recipe.empty(len(images))

        def one(row: int) -> str:
            try:
                preprocess(images[row], self.recipe, IMAGE, out=batch[row])
            except ImageError as error:
                batch[row] = 0
                return str(error)
            return ""

        rows = range(len(images))
        return batch, list(self.pool.map(one, rows) if len(images) > 1 else map(one, rows))

    def close(self) -> None:
        self.pool.shutdown()


class _Asked:
    """One request: its rows, and how many classes it wants."""

    def __init__(self, request: Any, rows: Rows) -> None:
        self.request, self.rows, self.top = request, rows, TOP
        self.wrong: Optional[str] = None
        top = json.loads(request.parameters() or "{}").get("top", TOP)
        if isinstance(top, int) and not isinstance(top, bool) and top > 0:
            self.top = top
        else:
            self.wrong = f"The parameter top is {top!r}: give a whole number above 0."


def classes_response(
    classifier: Classifier, asked: _Asked, logits: np.ndarray, errors: Sequence[str], about: bytes
) -> Any:
    """The response to one request, with the outputs that config.CLASSES names."""
    if asked.wrong:
        return failure(asked.wrong, "INVALID_ARG")
    errors = [error or str(not_finite(row, classifier.artifact, IMAGE) or "") for error, row in zip(errors, logits)]
    found = classifier.predictions(np.where(np.isfinite(logits), logits, 0), asked.top)
    rows = [none_of(predictions) if error else predictions for predictions, error in zip(found, errors)]
    labels = [[prediction.label for prediction in row] for row in rows]
    return response(
        asked.request,
        **{"class": np.array([[prediction.index for prediction in row] for row in rows], np.int32)},
        probability=np.array([[prediction.probability for prediction in row] for row in rows], np.float32),
        label=_texts(labels),
        error=_texts([[error] for error in errors]),
        model=np.array([[about]] * len(rows), np.object_),
    )


def none_of(predictions: Sequence[Prediction]) -> List[Prediction]:
    """As many rows that name no class."""
    return [prediction._replace(index=-1, label="", probability=0.0) for prediction in predictions]


def _texts(rows: List[List[str]]) -> np.ndarray:
    return np.array([[text.encode() for text in row] for row in rows], np.object_)


# What Triton's own module gives: it exists only inside of its process.


def tensor_of(request: Any, name: str) -> np.ndarray:
    import triton_python_backend_utils as triton

    return triton.get_input_tensor_by_name(request, name).as_numpy()


def images_of(request: Any) -> List[bytes]:
    return [bytes(image) for image in tensor_of(request, "images").reshape(-1)]


def response(request: Any, **outputs: np.ndarray) -> Any:
    """Those of `outputs` that were asked for."""
    import triton_python_backend_utils as triton

    wanted = request.requested_output_names()
    return triton.InferenceResponse([triton.Tensor(name, value) for name, value in outputs.items() if name in wanted])


def failure(reason: str, code: str = "INTERNAL") -> Any:
    import triton_python_backend_utils as triton

    return triton.InferenceResponse(error=triton.TritonError(reason, getattr(triton.TritonError, code)))
