"""What an artifact says of its network: one type, written into the metadata of every precision and read back from it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from ..images.preprocess import INPUTS, Preprocessing

CLASSIFIER, EMBEDDING, FEATURES = HEADS = ("classifier", "embedding", "features")
# What makes scores of logits: one class of many, or each class by itself (several may apply, or none).
SOFTMAX, SIGMOID = ACTIVATIONS = ("softmax", "sigmoid")
NAME = re.compile(r"\w[\w.+-]{0,99}")  # of a variant: part of paths, so nothing that leads elsewhere

# Keys that belong to one file, and not to the network.
OF_ONE_FILE = ("project", "schema", "precision", "made_from", "made_for", "fp32_sha256", "sha256", "kernels")
_OF_FACTS = (
    *("variant", "weights", "weights_sha256", "resolution", "crop", "interpolation", "mean", "std", "input", "classes"),
    *("labels", "wnids", "head", "outputs", "activation", "foreign"),
)


class Output(NamedTuple):
    """What a network gives, float32: a vector [N, channels], or a map [N, channels, H, W]."""

    name: str
    channels: int
    stride: int = 0  # of a map: px of the image that a cell stands for, either way


@dataclass(frozen=True)
class Facts:
    """What is true of a network in every precision."""

    variant: str
    preprocessing: Preprocessing
    weights: str  # where they came from, in words
    weights_sha256: Optional[str]  # of the checkpoint file; None: random weights
    classes: int = 0  # 0 with another head than a classifier's
    labels: List[str] = field(default_factory=list)  # one name a class; invented ones ("class 3") where nobody gave any
    wnids: List[str] = field(default_factory=list)  # WordNet ids, where the classes are ImageNet's
    head: str = CLASSIFIER  # one of HEADS
    declared: Tuple[Output, ...] = ()  # what another head gives
    activation: str = SOFTMAX  # one of ACTIVATIONS
    third_party: bool = False  # not a network of this project's family
    more: Mapping[str, str] = field(
        default_factory=dict
    )  # whatever else is known: padding, parameters, published_top1 ...

    @property
    def outputs(self) -> Tuple[Output, ...]:
        """What the network gives, in its order."""
        return self.declared or (Output("logits", self.classes),)

    @property
    def random(self) -> bool:
        return self.weights_sha256 is None

    def as_metadata(self) -> Dict[str, str]:
        """What `facts_of` reads. What is as it usually is has no key, so that older files mean the same."""
        wants = self.preprocessing
        metadata = {
            "variant": self.variant,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256 or "",
            "resolution": str(wants.resolution),
            "crop": repr(float(wants.crop)),
            "interpolation": wants.interpolation,
            "mean": json.dumps(wants.mean),
            "std": json.dumps(wants.std),
        }
        if wants.input != "float32":
            metadata["input"] = wants.input
        if self.head == CLASSIFIER:
            metadata.update(classes=str(self.classes), labels=json.dumps(self.labels, ensure_ascii=False))
            metadata.update(wnids=json.dumps(self.wnids))
        else:
            metadata.update(head=self.head, outputs=json.dumps([output._asdict() for output in self.declared]))
        if self.activation != SOFTMAX:
            metadata["activation"] = self.activation
        if self.third_party:
            metadata["foreign"] = "yes"
        return {**metadata, **self.more}


def facts_of(metadata: Mapping[str, str]) -> Facts:
    """The facts in an artifact's metadata. Raises KeyError, ValueError, TypeError or RecursionError where it is damaged."""
    preprocessing = Preprocessing(
        resolution=int(metadata["resolution"]),
        crop=float(metadata["crop"]),
        interpolation=metadata["interpolation"],
        mean=_channels("mean", metadata["mean"]),
        std=_channels("std", metadata["std"]),
        input=metadata["input"] if metadata["schema"] == "2" else metadata.get("input", "float32"),
    )
    if preprocessing.input not in INPUTS:
        raise ValueError(f"input {preprocessing.input!r}")
    # A crop near 0 would enlarge an image to terabytes.
    possible = 1 <= preprocessing.resolution <= 10_000 and 0.05 <= preprocessing.crop <= 20
    if not possible or min(preprocessing.std) <= 0:
        raise ValueError(f"impossible {preprocessing}")
    if not NAME.fullmatch(metadata["variant"]):  # files are called by it
        raise ValueError(f"{metadata['variant']!r} can't be part of a file's name")
    head, declared = _head(metadata) if metadata["schema"] == "3" else (CLASSIFIER, ())
    activation = metadata["activation"] if metadata["schema"] == "4" else SOFTMAX
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r}")
    classifies = head == CLASSIFIER
    return Facts(
        metadata["variant"],
        preprocessing,
        metadata["weights"],
        metadata["weights_sha256"] or None,
        int(metadata["classes"]) if classifies else 0,
        [str(label) for label in json.loads(metadata["labels"])] if classifies else [],
        [str(wnid) for wnid in json.loads(metadata.get("wnids", "[]"))] if classifies else [],
        head,
        declared,
        activation,
        metadata.get("foreign") == "yes",
        {key: value for key, value in metadata.items() if key not in OF_ONE_FILE + _OF_FACTS},
    )


def schema_of(metadata: Mapping[str, str]) -> str:
    """Grows where a reader of older files would misunderstand: 2, "input": the network takes uint8; 3, "head" and "outputs"
    instead of classes; 4, "activation": the scores are no softmax."""
    if "activation" in metadata:
        return "4"
    if "head" in metadata:
        return "3"
    return "1" if metadata.get("input", "float32") == "float32" else "2"


SCHEMAS = ("1", "2", "3", "4")


def _channels(key: str, text: str) -> Tuple[float, float, float]:
    values = [float(value) for value in json.loads(text)]
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"{key} {text}: it should be three numbers")
    return values[0], values[1], values[2]


def _head(metadata: Mapping[str, str]) -> Tuple[str, Tuple[Output, ...]]:
    """The head, and what it gives."""
    head, outputs = metadata["head"], []  # type: str, List[Output]
    for each in json.loads(metadata["outputs"]):
        outputs.append(Output(str(each["name"]), int(each["channels"]), int(each["stride"])))
    vectors = all(each.stride == 0 for each in outputs)
    if (
        head not in HEADS[1:]
        or not outputs
        or min(each.channels for each in outputs) < 1
        or vectors != (head == EMBEDDING)
    ):
        raise ValueError(f"head {head!r} giving {outputs}")
    return head, tuple(outputs)
