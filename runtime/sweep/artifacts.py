"""The artifacts that a sweep measures: taken as they lie there, made where they are missing, adopted if they are foreign."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Dict, Optional, Tuple

from runtime.artifact import Artifact, artifact_path, artifacts_folder, read_artifact, sealed
from runtime.errors import UserError
from runtime.measure.foreign import CROP, INTERPOLATION, MEAN, STD, shape_of
from runtime.sweep.children import Failed, run_module
from runtime.sweep.plan import Foreign, Plan
from runtime.whole_file import write_whole


def folder_of(plan: Plan) -> Path:
    """Where the plan's artifacts lie: random weights have a folder of their own, so that nobody deploys them."""
    return artifacts_folder() / "random" if plan.random else artifacts_folder()


class Maker:
    """Finds the plan's artifacts, and makes what is missing; what failed once is not tried again."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.folder = plan, folder_of(plan)
        self._failed: Dict[Tuple[str, str], Failed] = {}  # by command and variant

    def artifact(self, variant: str, precision: str) -> Artifact:
        """Raises Failed if it can't be made, or not on this machine; UserError if the file that is there is damaged."""
        path = artifact_path(variant, precision, self.folder)
        if precision.startswith("int8") and not path.is_file():
            self._make("export", artifact_path(variant, "fp32", self.folder), variant)
            self._make("calibration", path, variant)
        self._make("export", path, variant)
        return read_artifact(path)

    def _make(self, module: str, path: Path, variant: str) -> None:
        if path.is_file():
            return
        if (module, variant) in self._failed:
            raise self._failed[module, variant]
        try:
            if importlib.util.find_spec(module) is None:
                raise Failed(f"There is no {path}, and this machine only runs artifacts: make it elsewhere and copy it here.")
            arguments = ["--variant", variant, "--artifacts", str(self.folder)]
            if module == "export" and self.plan.random:
                arguments += ["--weights", "random"]
            if module == "calibration" and self.plan.calib:
                arguments += ["--calib", str(self.plan.calib)]
            run_module(module, *arguments)
        except Failed as error:
            self._failed[module, variant] = error
            raise


def adopted(foreign: Foreign, folder: Path, like: Optional[Artifact]) -> Artifact:
    """Somebody else's ONNX classifier as an artifact below `folder`, so that it is measured by the same code as ours.

    Its input size and number of classes are read from the graph; it is taken to want the usual preprocessing and, where
    it has as many classes as `like`, to have its labels. Raises UserError if it is no image classifier.
    """
    try:
        content = foreign.path.read_bytes()
    except OSError as error:
        raise UserError(f"{foreign.path} can't be read: {error.strerror}.") from None
    source = hashlib.sha256(content).hexdigest()
    path = artifact_path(foreign.name, "fp32", folder)
    try:
        artifact = read_artifact(path)
        if artifact.weights_sha256 == source and (like is None or artifact.labels == like.labels):
            return artifact
    except UserError:  # not there yet, or another one
        pass
    shape = shape_of(foreign.path)
    known = {"labels": json.dumps([f"class {index}" for index in range(shape.classes)])}
    if like is not None and like.classes == shape.classes:
        known = {key: like.metadata[key] for key in ("labels", "wnids") if key in like.metadata}
    metadata = {
        **known,
        "variant": foreign.name,
        "resolution": str(shape.side),
        "crop": repr(CROP),
        "interpolation": INTERPOLATION,
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "classes": str(shape.classes),
        "weights": f"{foreign.path.name}, a network of others",
        "weights_sha256": source,
        "foreign": "yes",
    }
    write_whole(path, sealed(content, "fp32", metadata)[0])
    return read_artifact(path)
