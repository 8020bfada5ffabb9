"""Other tools' INT8 quantisers and ours, each called in a process of its own so that time and peak memory are its own.

python -c "from tests.benchmarks.quantisers import quantise_here; ..."   (compare_int8 does that)
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.collect.images import CalibrationImages
from calibration.layer_graph import batch_size
from runtime.artifacts.artifact import artifact_path, read_artifact
from runtime.peak_memory import peak_bytes

CHUNK = 8  # images whose activations onnxruntime's histogram collectors hold at once


@dataclass(frozen=True)
class Method:
    """A tool and how it is called: the keywords are its own."""

    name: str
    tool: str  # of TOOLS
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    install: str  # what to type
    quantise: Callable[[Path, Path, CalibrationPictures, Mapping[str, Any]], None]


class CalibrationPictures:
    """Preprocessed images in a file (float32 [n, 3, side, side]), one at a time: the data reader that onnxruntime
    and ModelOpt ask for. Read, not mapped, so that they don't count as the tool's memory."""

    def __init__(self, path: Path, shape: Sequence[int], input_name: str) -> None:
        self.path, self.shape, self.input_name = path, tuple(shape), input_name
        self.rows: Iterable[int] = iter(range(len(self)))

    def __len__(self) -> int:
        return self.shape[0]

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rows = iter(range(start_index, end_index))

    def rewind(self) -> None:
        self.set_range(0, len(self))

    def get_first(self) -> dict[str, np.ndarray]:
        return {self.input_name: self.read(0)}

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(iter(self.rows), None)
        return None if row is None else {self.input_name: self.read(row)}

    def read(self, row: int) -> np.ndarray:
        values = int(np.prod(self.shape[1:]))
        picture = np.fromfile(self.path, np.float32, values, offset=row * values * 4)
        return picture.reshape(1, *self.shape[1:])


def _quantize_static(source: Path, target: Path, pictures: CalibrationPictures, options: Mapping[str, Any]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    enums = {"calibrate_method": CalibrationMethod, "activation_type": QuantType, "weight_type": QuantType}
    named = {key: enums[key][value] if key in enums else value for key, value in options.items()}
    if "calibrate_method" in options:
        # Its one way not to hold the activations of all images at once; the count must be a multiple.
        chunk = max(n for n in range(1, CHUNK + 1) if len(pictures) % n == 0)
        named["extra_options"] = {**named.get("extra_options", {}), "CalibStridedMinMax": chunk}
    quantize_static(str(source), str(target), pictures, **named)


def _modelopt(source: Path, target: Path, pictures: CalibrationPictures, options: Mapping[str, Any]) -> None:
    from modelopt.onnx.quantization import quantize

    # fp32 elsewhere, as in the other models, so that FP16's rounding is not counted as INT8's.
    quantize(
        str(source),
        "int8",
        calibration_data_reader=pictures,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(target),
        **options,
    )


class _Preprocessed(CalibrationImages):
    """CalibrationPictures as the calibrator takes its images."""

    def __init__(self, pictures: CalibrationPictures, source: Path) -> None:
        preprocessing = read_artifact(source).preprocessing
        super().__init__(np.empty((len(pictures), 0), np.uint8), preprocessing, None, [], [], "the same images")
        self.file = pictures

    def batches(self, rows: Sequence[int] | np.ndarray | None = None, size: int = 0) -> Iterator[np.ndarray]:
        rows = range(len(self)) if rows is None else rows
        size = size or batch_size(self.file.shape[-1])
        for start in range(0, len(rows), size):
            yield np.concatenate([self.file.read(int(row)) for row in rows[start : start + size]])

    def digest(self) -> str:
        with open(self.file.path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()


def _ours(source: Path, target: Path, pictures: CalibrationPictures, options: Mapping[str, Any]) -> None:
    from calibration.stage import Request, calibrate

    artifact = read_artifact(source)
    calibrate(Request(artifact, _Preprocessed(pictures, source), **options), target.parent)
    artifact_path(artifact.variant, "int8", target.parent).replace(target)


# By the name they are imported by. ModelOpt's own requirements name a CUDA build of onnxruntime and an older onnx: hence
# --no-deps, and by name what it imports beyond the `export` extra.
TOOLS = {
    "onnxruntime": Tool("pip install onnxruntime", _quantize_static),
    "modelopt": Tool(
        "pip install --no-deps nvidia-modelopt nvidia-ml-py onnx-graphsurgeon onnxconverter-common onnxslim onnxscript "
        "onnx-ir polygraphy lief cppimport tqdm",
        _modelopt,
    ),
    "calibration": Tool("make calibrate", _ours),
}

# int8 with zero point 0, per-channel weights, no Q/DQ on biases: what TensorRT takes.
_LEGAL = {"per_channel": True, "activation_type": "QInt8", "weight_type": "QInt8"}
_LEGAL_EXTRA = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
_PERCENTILE = {**_LEGAL_EXTRA, "CalibPercentile": 99.99}
_LAYERS = ["Conv", "Gemm"]

METHODS = (
    Method(
        "ort-default", "onnxruntime", "quantize_static as it comes: activations with a zero point, weights per tensor"
    ),
    Method(
        "ort-per-channel",
        "onnxruntime",
        "as onnxruntime advises for x86: uint8 activations, int8 weights per channel",
        {"per_channel": True, "activation_type": "QUInt8", "weight_type": "QInt8"},
    ),
    Method(
        "ort-trt-minmax",
        "onnxruntime",
        "TensorRT-legal, every operator, MinMax",
        {**_LEGAL, "extra_options": _LEGAL_EXTRA},
    ),
    Method(
        "ort-trt-entropy",
        "onnxruntime",
        "TensorRT-legal, every operator, Entropy",
        {**_LEGAL, "calibrate_method": "Entropy", "extra_options": _LEGAL_EXTRA},
    ),
    Method(
        "ort-trt-percentile",
        "onnxruntime",
        "TensorRT-legal, every operator, Percentile 99.99",
        {**_LEGAL, "calibrate_method": "Percentile", "extra_options": _PERCENTILE},
    ),
    Method(
        "ort-trt-inputs",
        "onnxruntime",
        "TensorRT-legal, inputs of Conv and Gemm only, Percentile 99.99",
        {
            **_LEGAL,
            "calibrate_method": "Percentile",
            "op_types_to_quantize": _LAYERS,
            "extra_options": {**_PERCENTILE, "OpTypesToExcludeOutputQuantization": _LAYERS},
        },
    ),
    Method("modelopt-max", "modelopt", "ModelOpt's placement, max", {"calibration_method": "max"}),
    Method(
        "modelopt-entropy", "modelopt", "ModelOpt's placement, entropy (its default)", {"calibration_method": "entropy"}
    ),
    Method("ours", "calibration", "this project, TensorRT-legal", {"target": "tensorrt"}),
)


def quantise_here(request: str) -> None:
    """What the child process does: quantises, and writes down the seconds and the MB that it took."""
    asked = json.loads(request)
    tool, target = TOOLS[asked["method"]["tool"]], Path(asked["target"])
    pictures = CalibrationPictures(Path(asked["pictures"]), asked["shape"], asked["input"])
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # ModelOpt writes beside the model it is given
        source = Path(folder) / "model.onnx"
        source.write_bytes(Path(asked["source"]).read_bytes())
        began = time.perf_counter()
        tool.quantise(source, target, pictures, asked["method"]["options"])
        spent = {"seconds": time.perf_counter() - began, "peak_mb": (peak_bytes() or 0) / 1e6}
    Path(asked["spent"]).write_text(json.dumps(spent))
