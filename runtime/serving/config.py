"""Each model's config.pbtxt: one of the templates in templates/, filled in. Triton's model configuration manual explains them."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Dict, NamedTuple, Optional, Tuple

from ..artifacts.artifact import Artifact
from .batching import Batching

# The outputs of every model that a client talks to; it takes "images".
CLASSES = ("class", "probability", "label", "error", "model")

DEVICES = ("gpu", "cpu")

# Processes, or copies of a network, on each GPU or on the processor. A second one on a GPU decodes while the first is
# computing; on the processor both would ask for the same cores. Decoding beside a GPU takes as many cores as there are.
INSTANCES = {
    ("python", "gpu"): 2,
    ("python", "cpu"): 1,
    ("preprocess", "gpu"): 4,
    ("preprocess", "cpu"): 1,
    ("onnxruntime", "gpu"): 1,
    ("onnxruntime", "cpu"): 1,
    ("tensorrt", "gpu"): 2,
}

# onnxruntime's TensorRT accelerator: precision_mode by the artifact's precision.
TENSORRT_MODES = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}
ENGINE_CACHE = "/tmp/efficientnet-engines"  # in the container: mount a volume there, and a restart builds nothing

_TEMPLATES = Path(__file__).parent / "templates"


class Signature(NamedTuple):
    """What goes into a network and comes out."""

    input: str
    output: str
    artifact: Artifact

    @property
    def pixels(self) -> str:
        return "TYPE_UINT8" if self.artifact.preprocessing.input == "uint8" else "TYPE_FP32"

    @property
    def shape(self) -> Tuple[int, ...]:
        """Without the batch."""
        return self.artifact.preprocessing.empty(0).shape[1:]


def name_of(variant: str, kind: str) -> str:
    return variant if kind == "python" else f"{variant}_{kind}"


def classify(artifact: Artifact, device: str, batching: Batching, backend: str, instances: Optional[int]) -> str:
    """The model that holds preprocessing and a backend of this project."""
    return _filled(
        "classify",
        artifact,
        "python",
        batching,
        **_group("python", device, instances),
        warmup=_warmup(batching, "images", "TYPE_STRING", "[ 1 ]", 'input_data_file: "picture"'),
        artifact_=_text(artifact.path.name),
        runs_on=_text(backend),
    )


def preprocess(signature: Signature, device: str, batching: Batching, instances: Optional[int]) -> str:
    return _filled(
        "preprocess",
        signature.artifact,
        "preprocess",
        batching,
        **_group("preprocess", device, instances),
        **_ends(signature),
        warmup=_warmup(batching, "images", "TYPE_STRING", "[ 1 ]", 'input_data_file: "picture"'),
    )


def postprocess(signature: Signature, batching: Batching, kind: str) -> str:
    return _filled("postprocess", signature.artifact, "postprocess", batching, **_ends(signature), network=_text(kind))


def onnxruntime(signature: Signature, device: str, batching: Batching) -> str:
    about = "in Triton's onnxruntime backend"
    return _network(signature, "onnxruntime", "onnxruntime", batching, about, _group("onnxruntime", device))


def tensorrt_plan(signature: Signature, batching: Batching, engine: str) -> str:
    about = f"as an engine for just this: {engine}"
    return _network(signature, "tensorrt", "tensorrt", batching, about, _group("tensorrt", "gpu"))


def tensorrt_onnx(signature: Signature, batching: Batching) -> str:
    """The ONNX file, of which onnxruntime's TensorRT accelerator builds engines when the model is loaded."""
    dims = "x".join(map(str, signature.shape))
    sizes = {
        "least": 1,
        "best": batching.preferred[-1] if batching.preferred else batching.most,
        "largest": batching.most,
    }
    accelerator = _template("accelerator").substitute(
        mode=_text(TENSORRT_MODES[signature.artifact.precision]),
        cache=_text(ENGINE_CACHE),
        **{end: _text(f"{signature.input}:{size}x{dims}") for end, size in sizes.items()},
    )
    about = (
        "without an engine: onnxruntime has TensorRT build one when the model is loaded, which takes minutes unless it is in "
        "the cache"
    )
    group = _group("onnxruntime", "gpu")  # each instance builds an engine of its own
    return _network(signature, "tensorrt", "onnxruntime", batching, about, group, accelerator)


def ensemble(signature: Signature, batching: Batching, kind: str) -> str:
    variant = signature.artifact.variant
    return _filled(
        "ensemble",
        signature.artifact,
        "ensemble",
        batching,
        **_ends(signature),
        preprocess=_text(name_of(variant, "preprocess")),
        network=_text(name_of(variant, kind)),
        postprocess=_text(name_of(variant, "postprocess")),
        kind=_text(kind),
    )


def _network(
    signature: Signature,
    kind: str,
    backend: str,
    batching: Batching,
    about: str,
    group: Dict[str, str],
    accelerator: str = "",
) -> str:
    ends = _ends(signature)
    return _filled(
        "network",
        signature.artifact,
        kind,
        batching,
        **group,
        **ends,
        backend=_text(backend),
        about=about,
        accelerator=accelerator,
        warmup=_warmup(batching, signature.input, ends["pixels"], ends["shape"], "zero_data: true"),
    )


def _filled(template: str, artifact: Artifact, model: str, batching: Batching, **values: str) -> str:
    """The template with what all of them have; lines that nothing was put into are left out."""
    text = _template(template).substitute(
        title=f"{artifact.variant} {artifact.precision}",
        name=_text(name_of(artifact.variant, model)),
        most=batching.most,
        batching=_batching(batching),
        variant=_text(artifact.variant),
        precision=_text(artifact.precision),
        weights=_text("random weights" if artifact.random else artifact.weights),
        **{key.rstrip("_"): value for key, value in values.items()},
    )
    return "".join(f"{line}\n" for line in text.splitlines() if line.strip())


def _template(name: str) -> Template:
    return Template((_TEMPLATES / f"{name}.pbtxt").read_text(encoding="utf-8"))


def _text(text: str) -> str:
    """A string of Protobuf's text form: the quotes and escapes of JSON are its own."""
    return json.dumps(text, ensure_ascii=False)


def _ends(signature: Signature) -> Dict[str, str]:
    return {
        "input": _text(signature.input),
        "output": _text(signature.output),
        "pixels": signature.pixels,
        "shape": f"[ {', '.join(map(str, signature.shape))} ]",
        "classes": str(signature.artifact.classes),
    }


def _group(kind: str, device: str, count: Optional[int] = None) -> Dict[str, str]:
    return {"count": str(count or INSTANCES[kind, device]), "kind": f"KIND_{device.upper()}"}


def _batching(batching: Batching) -> str:
    """Without a queue policy: Triton 2.51 lets images lie for half a second now and then where one is set, which took the
    throughput of six clients to a third (docs/triton.md)."""
    why = f"# Batching: {' '.join(batching.why.split())}.\n"
    if not batching.dynamic:
        return why
    preferred = f"preferred_batch_size: [ {', '.join(map(str, batching.preferred))} ] " if batching.preferred else ""
    return f"{why}dynamic_batching {{ {preferred}max_queue_delay_microseconds: {batching.delay_us} }}"


def _warmup(batching: Batching, name: str, kind: str, dims: str, data: str) -> str:
    """A run of one image and a run of the largest batch, before the model is called ready."""
    inputs = f"inputs {{ key: {_text(name)} value {{ data_type: {kind} dims: {dims} {data} }} }}"
    return "\n".join(
        f'model_warmup {{ name: "batch {size}" batch_size: {size} {inputs} }}' for size in sorted({1, batching.most})
    )
