"""ONNX files whose weights are said to lie in some other file of the machine: refused wherever ONNX is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from calibration.stage import read_network
from export.bundle import bundle
from export.third_party import ThirdParty, export_third_party
from runtime.artifacts.artifact import Artifact, artifact_path, read_artifact, sealed
from runtime.artifacts.onnx_metadata import require_one_file, verify
from runtime.artifacts.third_party import NO_OVERRIDES, import_onnx
from runtime.backends.tensorrt.engine import engine_of
from runtime.backends.tensorrt.generations import generation
from runtime.backends.tensorrt.options import BuildOptions
from runtime.backends.tensorrt.site import Site
from runtime.errors import UserError
from runtime.networks.classifier import Classifier
from tests.attacks.conftest import SONG
from tests.calibration.small_network import small_model
from tests.warm import command

REFUSED = "keeps weights in another file"


def absolute(canary: Path, inside: Path) -> str:
    return str(canary / "canary")


def upwards(canary: Path, inside: Path) -> str:
    return os.path.relpath(canary / "canary", inside / "artifacts" / "small")


def through_a_link(canary: Path, inside: Path) -> str:
    (inside / "artifacts" / "small").mkdir(parents=True, exist_ok=True)
    (inside / "artifacts" / "small" / "weights.bin").symlink_to(canary / "canary")
    return "weights.bin"


def beside(canary: Path, inside: Path) -> str:
    """Harmless in itself, but an artifact is one file: it is checked, copied and bundled as such."""
    (inside / "artifacts" / "small").mkdir(parents=True, exist_ok=True)
    (inside / "artifacts" / "small" / "weights.bin").write_bytes(bytes(1280))
    return "weights.bin"


PLACES = (absolute, upwards, through_a_link, beside)


def pointing(tensor: onnx.TensorProto, location: str, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def in_a_weight(model: onnx.ModelProto, location: str) -> None:
    pointing(next(t for t in model.graph.initializer if t.name == "classifier.bias"), location, len(SONG))


def in_a_constant(model: onnx.ModelProto, location: str) -> None:
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [4], bytes(16), raw=True)
    pointing(tensor, location, 16)
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=tensor))


def in_a_branch(model: onnx.ModelProto, location: str) -> None:
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [4], bytes(16), raw=True)
    pointing(tensor, location, 16)
    value = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [4])
    branch = helper.make_graph([], "branch", [], [value], [tensor])
    model.graph.node.append(helper.make_node("If", ["zero"], ["chosen"], then_branch=branch, else_branch=branch))


def in_a_function(model: onnx.ModelProto, location: str) -> None:
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [4], bytes(16), raw=True)
    pointing(tensor, location, 16)
    node = helper.make_node("Constant", [], ["hidden"], value=tensor)
    model.functions.append(helper.make_function("evil", "F", [], ["hidden"], [node], [helper.make_opsetid("", 17)]))


def in_a_sparse_tensor(model: onnx.ModelProto, location: str) -> None:
    values = helper.make_tensor("hidden", TensorProto.FLOAT, [4], bytes(16), raw=True)
    pointing(values, location, 16)
    indices = helper.make_tensor("indices", TensorProto.INT64, [4], [0, 1, 2, 3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))


HIDING = (in_a_weight, in_a_constant, in_a_branch, in_a_function, in_a_sparse_tensor)


def third_party(model: onnx.ModelProto, inside: Path) -> Path:
    """Not an artifact: just an ONNX file in the artifact's place."""
    path = artifact_path("small", "fp32", inside / "artifacts")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def as_artifact(artifact: Artifact, model: onnx.ModelProto) -> Artifact:
    """The same file with the artifact's facts and a checksum that fits: an attacker can compute one."""
    artifact.path.write_bytes(sealed(model.SerializeToString(), "fp32", artifact.metadata)[0])
    return read_artifact(artifact.path)


@pytest.mark.parametrize("hide", HIDING, ids=lambda hide: hide.__name__)
def test_wherever_it_is_hidden(
    hide: Callable[[onnx.ModelProto, str], None], artifact: Artifact, canary: Path, inside: Path
) -> None:
    model = small_model()
    hide(model, absolute(canary, inside))
    with pytest.raises(UserError, match=REFUSED):
        require_one_file(third_party(model, inside))
    with pytest.raises(UserError, match=REFUSED):
        Classifier(as_artifact(artifact, model).path, backend="onnxruntime")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_every_door(place: Callable[[Path, Path], str], artifact: Artifact, canary: Path, inside: Path) -> None:
    model = small_model()
    in_a_weight(model, place(canary, inside))
    bad, folder = as_artifact(artifact, model), inside / "artifacts"
    trt = type("trt", (), {"__version__": "10.3.0"})
    site = Site(trt, generation("tensorrt", "10.3.0"), "sm_87", None)
    doors: dict[str, Callable[[], object]] = {
        "Classifier": lambda: Classifier(bad.path, backend="onnxruntime"),
        "OpenVINO": lambda: Classifier(bad.path, backend="openvino"),
        "checksum": lambda: verify(bad.path),
        "calibration": lambda: read_network(bad),
        "engine": lambda: engine_of(bad, site).build(BuildOptions("fp32")),
        "bundle": lambda: bundle("small", "fp32", folder),
        "export --onnx": lambda: export_third_party(
            ThirdParty(NO_OVERRIDES, onnx=bad.path, name="theirs"), inside / "networks"
        ),
        "bench --foreign, sweep --onnx": lambda: import_onnx(bad.path, inside / "networks", "theirs"),
    }
    for name, door in doors.items():
        with pytest.raises(UserError) as caught:
            door()
        assert REFUSED in str(caught.value), name
    assert not (inside / "networks").exists()
    assert sorted(p.name for p in bad.path.parent.iterdir() if p.name != "weights.bin") == ["small.fp32.onnx"]


def test_from_the_command_line(artifact: Artifact, canary: Path, inside: Path) -> None:
    model = small_model()
    in_a_weight(model, upwards(canary, inside))
    bad = as_artifact(artifact, model)
    for module, arguments in (
        ("runtime.infer", ("tests/data/corgi.jpg", "--model", bad.path, "--backend", "onnxruntime")),
        ("runtime.bench", ("--foreign", bad.path, "--seconds", "0.1")),
        ("calibration", ("--variant", "small", "--artifacts", inside / "artifacts", "--calib", "tests/data")),
    ):
        ended = command(module, *arguments)
        assert ended.status == 2 and REFUSED in ended.text and "Traceback" not in ended.text, (module, ended.text)


def test_a_class_called_location_is_no_attack(artifact: Artifact) -> None:
    """The search's word in a harmless place: names of classes, of a node and of a tensor."""
    model = small_model()
    model.graph.node[0].name = "location"
    model.graph.initializer[0].doc_string = "location"
    metadata = {**artifact.metadata, "labels": '["location", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'}
    artifact.path.write_bytes(sealed(model.SerializeToString(), "fp32", metadata)[0])
    with Classifier(artifact.path, backend="onnxruntime") as classify:
        assert classify.artifact.labels[0] == "location"


def test_the_word_is_found_across_the_pieces_that_are_read(inside: Path) -> None:
    model = small_model()
    in_a_weight(model, "/etc/hostname")
    tail = model.SerializeToString()
    for before in range((1 << 20) - tail.index(b"location") - 9, (1 << 20) - tail.index(b"location") + 2):
        # producer_name, with a length of three bytes, before the rest
        length = before - 4
        head = b"\x12" + bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + b"p" * length
        path = inside / "m.onnx"
        path.write_bytes(head + tail)
        with pytest.raises(UserError, match=REFUSED):
            require_one_file(path)
