"""What an ONNX file of others says in its metadata of the images that it takes and of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.labels import names_in

# (mean, std) that give the values which Image.NominalPixelRange names, by onnx/docs/MetadataProps.md: WinML and Custom Vision
# write them
_RANGES = {"nominalrange_0_255": (0.0, 1 / 255), "normalized_0_1": (0.0, 1.0), "normalized_1_1": (0.5, 0.5)}


@dataclass(frozen=True)
class Said:
    """What is said; nothing where a file says nothing."""

    settings: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of Preprocessing
    labels: tuple[str, ...] = ()
    bgr: bool = False  # whether it takes colours in that order


def said_by(metadata: Mapping[str, str]) -> Said:
    """The normalisation by ONNX's own properties, or that of Ultralytics' classifiers, which take colours of 0 to 1 and the whole
    of the shorter side; and the names of classes as Ultralytics writes them."""
    settings: dict[str, Any] = {}
    known = _RANGES.get(metadata.get("Image.NominalPixelRange", "").lower())
    if metadata.get("author") == "Ultralytics" and metadata.get("task") == "classify":
        known, settings["crop"] = (0.0, 1.0), 1.0
    if known is not None:
        settings.update(mean=(known[0],) * 3, std=(known[1],) * 3)
    bgr = metadata.get("Image.BitmapPixelFormat", "").lower().startswith("bgr")
    return Said(settings, tuple(names_in(metadata.get("names", ""))), bgr)
