"""The artifacts that a sweep measures: taken as they lie there, made where they are missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Dict, Tuple

from ..artifacts.artifact import Artifact, artifact_path, artifacts_folder, read_artifact
from .children import Failed, run_module
from .plan import Plan


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
                raise Failed(
                    f"There is no {path}, and this machine only runs artifacts: make it elsewhere and copy it here."
                )
            arguments = ["--variant", variant, "--artifacts", str(self.folder)]
            if module == "export" and self.plan.random:
                arguments += ["--weights", "random"]
            if module == "calibration" and self.plan.calib:
                arguments += ["--calib", str(self.plan.calib)]
            run_module(module, *arguments)
        except Failed as error:
            self._failed[module, variant] = error
            raise
