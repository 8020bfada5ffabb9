"""Runs exported networks on a device: needs numpy, Pillow and one backend, never torch or onnx.

from runtime import Classifier
Classifier("artifacts/b1/b1.fp32.onnx")("photo.jpg")
"""

import os
import sys
from typing import TYPE_CHECKING, Any

# onnxruntime's wheels from 1.31 on report usage to their makers unless told not to before the import, and keep a data
# base in the user's cache for it. A device that classifies images should talk to nobody. Set it to 0 to allow it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if sys.argv[:1] == ["-m"]:  # a command is about to be imported
    from .invocation import say_what_is_missing

    sys.excepthook = say_what_is_missing

if TYPE_CHECKING:
    from .networks.classifier import Classifier, Prediction
    from .networks.embedder import Embedder
    from .networks.features import Features

__version__ = "0.1.0"
__all__ = ["Classifier", "Embedder", "Features", "Prediction"]


def __getattr__(name: str) -> Any:
    """Imports the classifier at first use: reading an artifact's metadata should not cost a backend's import."""
    if name in __all__:
        from .networks import classifier, embedder, features

        return getattr({"Embedder": embedder, "Features": features}.get(name, classifier), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
