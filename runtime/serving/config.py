"""Each model's config.pbtxt, as nested values."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..artifacts.artifact import Artifact
from .batching import Batching
from .pbtxt import COMMENT, Word

STRING, FP32, INT32, UINT8 = (Word(f"TYPE_{name}") for name in ("STRING", "FP32", "INT32", "UINT8"))

# Images in, classes out: what every model that a client talks to takes and gives. -1: as many as `top` asks for.
PICTURES = (("images", STRING, (1,)),)
CLASSES = (
    ("class", INT32, (-1,)),
    ("probability", FP32, (-1,)),
    ("label", STRING, (-1,)),
    ("error", STRING, (1,)),
    ("model", STRING, (1,)),
)

DEVICES = ("gpu", "cpu")

# Processes, or copies of a network, on each GPU or on the processor. A second one on a GPU decodes while the first is
# computing; on the processor both would ask for the same cores. Decoding beside a GPU takes as many cores as there are.
INSTANCES = {
    ("python", "gpu"): 2,
    ("python", "cpu"): 1,
    ("preprocess", "gpu"): 4,
    ("preprocess", "cpu"): 1,
    ("postprocess", "gpu"): 1,
    ("postprocess", "cpu"): 1,
    ("onnxruntime", "gpu"): 1,
    ("onnxruntime", "cpu"): 1,
    ("tensorrt", "gpu"): 2,
}

# onnxruntime's TensorRT accelerator: precision_mode by the artifact's precision.
# https://github.com/triton-inference-server/onnxruntime_backend#onnx-runtime-with-tensorrt-optimization
TENSORRT_MODES = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}
ENGINE_CACHE = "/tmp/efficientnet-engines"  # in the container: mount a volume there, and a restart builds nothing

Tensors = Sequence[Tuple[str, Word, Tuple[int, ...]]]


class Network(NamedTuple):
    """What goes into a network and comes out."""

    input: str
    output: str
    artifact: Artifact

    @property
    def takes(self) -> Tensors:
        return ((self.input, self.pixels, self.shape),)

    @property
    def gives(self) -> Tensors:
        return ((self.output, FP32, (self.artifact.classes,)),)

    @property
    def pixels(self) -> Word:
        return UINT8 if self.artifact.preprocessing.input == "uint8" else FP32

    @property
    def shape(self) -> Tuple[int, ...]:
        return self.artifact.preprocessing.empty(0).shape[1:]


def name_of(variant: str, kind: str) -> str:
    return variant if kind == "python" else f"{variant}_{kind}"


def classify(
    artifact: Artifact, device: str, batching: Batching, backend: str, instances: Optional[int]
) -> Dict[str, Any]:
    """The model that holds preprocessing and a backend of this project."""
    return {
        **_comment(artifact, "encoded images to classes, preprocessing and network in one process"),
        **_head(name_of(artifact.variant, "python"), "python", batching.most, PICTURES, CLASSES),
        **_batcher(batching),
        "instance_group": _instances("python", device, instances),
        **_versions(),
        "model_warmup": _warmups(batching, PICTURES, {"images": "picture"}),
        "parameters": _parameters(role="classify", artifact=artifact.path.name, backend=backend, **_facts(artifact)),
    }


def preprocess(network: Network, device: str, batching: Batching, instances: Optional[int]) -> Dict[str, Any]:
    prepared = (("prepared", network.pixels, network.shape), ("error", STRING, (1,)))
    return {
        **_comment(
            network.artifact, "the step before the network; each request by itself, since batches gain decoding nothing"
        ),
        **_head(name_of(network.artifact.variant, "preprocess"), "python", batching.most, PICTURES, prepared),
        "instance_group": _instances("preprocess", device, instances),
        **_versions(),
        "model_warmup": _warmups(batching, PICTURES, {"images": "picture"}),
        "parameters": _parameters(role="preprocess", **_facts(network.artifact)),
    }


def postprocess(network: Network, batching: Batching, kind: str) -> Dict[str, Any]:
    answered = (("logits", FP32, (network.artifact.classes,)), ("error", STRING, (1,)))
    return {
        **_comment(network.artifact, "the step after the network"),
        **_head(name_of(network.artifact.variant, "postprocess"), "python", batching.most, answered, CLASSES),
        "instance_group": _instances("postprocess", "cpu", None),
        **_versions(),
        "parameters": _parameters(role="postprocess", network=kind, **_facts(network.artifact)),
    }


def onnxruntime(network: Network, device: str, batching: Batching) -> Dict[str, Any]:
    return {
        **_comment(network.artifact, "the network alone, in Triton's onnxruntime backend"),
        **_network("onnxruntime", "onnxruntime", network, device, batching),
    }


def tensorrt_plan(network: Network, batching: Batching, engine: str) -> Dict[str, Any]:
    return {
        **_comment(network.artifact, f"the network alone, as an engine for just this: {engine}"),
        **_network("tensorrt", "tensorrt", network, "gpu", batching),
    }


def tensorrt_onnx(network: Network, batching: Batching) -> Dict[str, Any]:
    """The ONNX file, of which onnxruntime's TensorRT accelerator builds engines when the model is loaded."""
    sizes = {"min": 1, "opt": batching.preferred[-1] if batching.preferred else batching.most, "max": batching.most}
    dims = "x".join(map(str, network.shape))
    options = {
        "precision_mode": TENSORRT_MODES[network.artifact.precision],
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": ENGINE_CACHE,
        **{f"trt_profile_{end}_shapes": f"{network.input}:{size}x{dims}" for end, size in sizes.items()},
    }
    accelerator = {"name": "tensorrt", "parameters": [{"key": key, "value": value} for key, value in options.items()]}
    return {
        **_comment(
            network.artifact,
            "the network alone. There was no engine, so onnxruntime has TensorRT build one when the model is loaded: minutes, "
            "unless it is in the cache",
        ),
        **_network("tensorrt", "onnxruntime", network, "gpu", batching),
        "instance_group": _instances("onnxruntime", "gpu", None),  # each builds an engine of its own
        "optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}},
    }


def ensemble(network: Network, batching: Batching, kind: str) -> Dict[str, Any]:
    variant = network.artifact.variant
    steps = (
        ("preprocess", {"images": "images"}, {"prepared": "prepared", "error": "unread"}),
        (kind, {network.input: "prepared"}, {network.output: "answered"}),
        ("postprocess", {"logits": "answered", "error": "unread"}, {name: name for name, *_ in CLASSES}),
    )
    return {
        **_comment(network.artifact, f"encoded images to classes, the network is {name_of(variant, kind)}"),
        "name": name_of(variant, "ensemble"),
        "platform": "ensemble",
        "max_batch_size": batching.most,
        "input": _tensors(PICTURES),
        "output": _tensors(CLASSES),
        **_versions(),
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": name_of(variant, step),
                    "model_version": -1,
                    "input_map": [{"key": key, "value": value} for key, value in takes.items()],
                    "output_map": [{"key": key, "value": value} for key, value in gives.items()],
                }
                for step, takes, gives in steps
            ]
        },
        "parameters": _parameters(network=kind, **_facts(network.artifact)),
    }


def _comment(artifact: Artifact, text: str) -> Dict[str, Any]:
    return {f"{COMMENT}{artifact.variant} {artifact.precision}: {text}.": None}


def _network(kind: str, backend: str, network: Network, device: str, batching: Batching) -> Dict[str, Any]:
    head = _head(name_of(network.artifact.variant, kind), backend, batching.most, network.takes, network.gives)
    head["output"][0]["label_filename"] = "labels.txt"
    return {
        **head,
        **_batcher(batching),
        "instance_group": _instances(kind, device, None),
        **_versions(),
        "model_warmup": _warmups(batching, network.takes, {}),
        "parameters": _parameters(**_facts(network.artifact)),
    }


def _head(name: str, backend: str, most: int, takes: Tensors, gives: Tensors) -> Dict[str, Any]:
    return {
        "name": name,
        "backend": backend,
        "max_batch_size": most,
        "input": _tensors(takes),
        "output": _tensors(gives),
    }


def _tensors(tensors: Tensors) -> List[Dict[str, Any]]:
    return [{"name": name, "data_type": kind, "dims": list(dims)} for name, kind, dims in tensors]


def _batcher(batching: Batching) -> Dict[str, Any]:
    """Without a queue policy: Triton 2.51 lets images lie for half a second now and then where one is set, which took the
    throughput of six clients to a third (docs/triton.md)."""
    why = f"{COMMENT}Batching: {batching.why}."
    if not batching.dynamic:
        return {why: None}
    return {
        why: None,
        "dynamic_batching": {
            "preferred_batch_size": list(batching.preferred) or None,
            "max_queue_delay_microseconds": batching.delay_us,
        },
    }


def _instances(kind: str, device: str, count: Optional[int]) -> List[Dict[str, Any]]:
    on = "cpu" if kind == "preprocess" else device
    return [{"count": count or INSTANCES[kind, device], "kind": Word(f"KIND_{on.upper()}")}]


def _versions() -> Dict[str, Any]:
    return {"version_policy": {"latest": {"num_versions": 1}}}


def _warmups(batching: Batching, takes: Tensors, files: Dict[str, str]) -> List[Dict[str, Any]]:
    """A run of one image and a run of the largest batch, before the model is called ready."""
    warmups = []
    for size in sorted({1, batching.most}):
        inputs = []
        for name, kind, dims in takes:
            data = {"input_data_file": files[name]} if name in files else {"zero_data": True}
            inputs.append({"key": name, "value": {"data_type": kind, "dims": list(dims), **data}})
        warmups.append({"name": f"batch {size}", "batch_size": size, "inputs": inputs})
    return warmups


def _facts(artifact: Artifact) -> Dict[str, str]:
    weights = "random weights" if artifact.random else artifact.weights
    return {"variant": artifact.variant, "precision": artifact.precision, "weights": weights}


def _parameters(**values: str) -> List[Dict[str, Any]]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]
