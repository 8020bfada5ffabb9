"""The classifier as programs use it, on a real network and real images."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, Set

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime import backends
from runtime.artifacts.artifact import read_artifact, sealed
from runtime.artifacts.onnx_metadata import read_metadata
from runtime.backends import onnx_runtime, processor
from runtime.errors import UserError
from runtime.images.decode import ImageError
from runtime.images.preprocess import preprocess
from runtime.networks.classifier import Classifier, Prediction

CORGI = Path(__file__).resolve().parents[2] / "data" / "corgi.jpg"
LIGHTHOUSE = CORGI.with_name("lighthouse.jpg")


@pytest.fixture(scope="module")
def classify(model: Path) -> Iterator[Classifier]:
    with Classifier(model, threads=1) as classifier:
        yield classifier


def close(one: List[Prediction], other: List[Prediction]) -> bool:
    """Same classes in the same order; a batch may add up in another order than one image."""
    return [p[:2] for p in one] == [p[:2] for p in other] and bool(
        np.allclose([p.probability for p in one], [p.probability for p in other], atol=1e-5)
    )


@pytest.mark.smoke
def test_real_images(classify: Classifier, photographs: Dict[Path, Set[int]]) -> None:
    for photograph, right in photographs.items():
        predictions = classify(photograph)
        assert predictions[0].index in right, photograph.name
        assert [p.label for p in predictions] == [classify.artifact.labels[p.index] for p in predictions]
        probabilities = [p.probability for p in predictions]
        assert len(probabilities) == 5 and probabilities == sorted(probabilities, reverse=True)


def test_every_form_of_a_image_gives_the_same(classify: Classifier) -> None:
    with Image.open(CORGI) as opened:
        image = opened.convert("RGB")
    forms = [
        CORGI,
        str(CORGI),
        CORGI.read_bytes(),
        io.BytesIO(CORGI.read_bytes()),
        image,
        Image.open(CORGI),
        np.asarray(image),
    ]
    first = classify(CORGI)
    assert first[0].index == 264 and all(isinstance(p, Prediction) for p in first)
    for form in forms:
        assert classify(form) == first, type(form)
    listed = classify([CORGI, CORGI.read_bytes(), image, np.asarray(image)])
    assert len(listed) == 4 and all(close(one, first) for one in listed)


def test_lists(classify: Classifier) -> None:
    corgi, lighthouse = classify(CORGI), classify(LIGHTHOUSE)
    assert close(classify([LIGHTHOUSE])[0], lighthouse)
    assert close(classify((CORGI, LIGHTHOUSE))[1], lighthouse)
    assert classify([]) == []
    many = classify([CORGI, LIGHTHOUSE] * 10)  # more than a batch
    assert len(many) == 20
    assert all(close(one, corgi) for one in many[::2]) and all(close(one, lighthouse) for one in many[1::2])


def test_top(classify: Classifier) -> None:
    everything = classify(CORGI, top=1000)
    assert sum(p.probability for p in everything) == pytest.approx(1, abs=1e-5)
    assert sorted(p.index for p in everything) == list(range(1000))
    assert classify(CORGI, top=5000) == everything
    assert classify(CORGI, top=1) == everything[:1]
    assert classify([CORGI], top=3)[0] == everything[:3]


def test_preprocess(classify: Classifier) -> None:
    expected = preprocess(CORGI, classify.artifact.preprocessing)
    one, two = classify.preprocess(CORGI), classify.preprocess([CORGI, LIGHTHOUSE])
    assert one.shape == (1, 3, 224, 224) and two.shape == (2, 3, 224, 224)
    assert one.dtype == two.dtype == np.float32
    assert np.array_equal(one[0], expected) and np.array_equal(two[0], expected)


def test_logits(classify: Classifier) -> None:
    logits = classify.logits(classify.preprocess([CORGI, LIGHTHOUSE]))
    assert logits.shape == (2, 1000) and logits.dtype == np.float32
    assert logits.argmax(axis=1).tolist() == [264, 437]
    assert classify.predictions(logits, top=2)[1] == classify([CORGI, LIGHTHOUSE], top=2)[1]
    huge = np.array([[1e4, -1e4, 0]], np.float32)  # beyond what exp() can hold
    assert [p.probability for p in classify.predictions(huge, 3)[0]] == [1, 0, 0]


@pytest.mark.smoke
def test_fp16_agrees(classify: Classifier, artifacts: Path, photographs: Dict[Path, Set[int]]) -> None:
    images = list(photographs)
    folder = os.environ.get("EFFICIENTNET_TEST_DATA")
    if folder:
        with open(Path(folder, "images", "evaluation", "labels.csv"), encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:5]
        images += [Path(folder, "images", "evaluation", row["file"]) for row in rows]
    with Classifier(artifacts / "lite0" / "lite0.fp16.onnx", threads=1) as half:
        assert half.artifact.precision == "fp16"
        batch = half.preprocess(images)
        one, other = classify.logits(batch), half.logits(batch)
    assert other.dtype == np.float32
    assert not np.array_equal(one, other)  # or it would be the same file
    assert (one.argmax(axis=1) == other.argmax(axis=1)).all()


def test_found_by_variant(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(artifacts))
    with runtime.Classifier(threads=1) as latest, Classifier(variant="lite0", precision="fp16", threads=1) as half:
        assert latest.artifact.path == artifacts / "lite0" / "lite0.fp32.onnx"
        assert half.artifact.path == artifacts / "lite0" / "lite0.fp16.onnx"
        assert repr(half).startswith("<Classifier lite0 fp16 from ") and repr(half).endswith(", CPU>")


def test_threads_give_the_same(classify: Classifier, model: Path) -> None:
    expected = classify(CORGI)
    with Classifier(model, threads=2) as two:
        assert close(two(CORGI), expected)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(classify, [CORGI, LIGHTHOUSE] * 12))
    assert answers[::2] == [expected] * 12
    assert answers[1::2] == [classify(LIGHTHOUSE)] * 12


def test_closed(model: Path) -> None:
    with Classifier(model, threads=1) as classifier:
        assert classifier(CORGI, top=1)[0].index == 264
        classifier.close()
    classifier.close()  # once more does no harm


def test_images_that_cannot_be_used(classify: Classifier, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    for wrong, says in (
        (tmp_path / "gone.jpg", "gone.jpg: cannot be opened"),
        (text, "text.jpg: not an image"),
        (b"", "empty"),
        (np.zeros((4, 4, 3)), "float64"),
        (None, "NoneType"),
    ):
        for form in (wrong, [CORGI, wrong]):
            with pytest.raises(ImageError, match=says):
                classify(form)  # type: ignore[call-overload]
    assert classify(CORGI)[0].index == 264


def test_models_that_cannot_be_used(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFICIENTNET_ARTIFACTS", str(tmp_path))
    with pytest.raises(UserError, match="make export"):
        Classifier()
    with pytest.raises(UserError, match="make export VARIANT=b9"):
        Classifier(variant="b9")
    with pytest.raises(UserError, match="There is no file"):
        Classifier(tmp_path / "gone.onnx")
    with pytest.raises(UserError, match="no backend 'gpu': choose auto"):
        Classifier(model, backend="gpu")
    for threads in (0, -1, 100_000):
        with pytest.raises(UserError, match=f"{threads} threads"):
            Classifier(model, threads=threads)
    facts = read_metadata(model)
    for content, changed, says in (
        (b"\x3a\x03abc", {}, "onnxruntime .* can't load .*broken.onnx.*export it again"),
        (b"\x3a\x03abc", {"labels": '["only one"]'}, "1 labels for 1000 classes"),
    ):
        (tmp_path / "broken.onnx").write_bytes(sealed(content, "fp32", {**facts, **changed})[0])
        with pytest.raises(UserError, match=says):
            Classifier(tmp_path / "broken.onnx")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UserError, match="pip install onnxruntime"):
            Classifier(model)


def test_a_processor_that_saturates_gets_int8_in_fp32_and_is_told(precisions, monkeypatch):
    artifact, said = read_artifact(precisions / "lite0.int8.onnx"), []
    for module in (backends, onnx_runtime):
        monkeypatch.setattr(module, "saturates", lambda: True)
    assert backends.open_backend(artifact, say=said.append).name == "onnxruntime"
    assert len(said) == 1 and "no VNNI" in said[0] and "lite0.fp32.onnx is faster here" in said[0]
    if importlib.util.find_spec("openvino"):
        assert backends.open_backend(artifact, "openvino", say=said.append).name == "openvino"
        assert "no VNNI" in said[1]
        monkeypatch.setattr(backends, "saturates", lambda: False)
        monkeypatch.setattr(backends, "obvious", lambda *_: True)
        assert backends.open_backend(artifact, say=said.append).name == "openvino" and len(said) == 2


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", "fpu avx2 fma", True),
        ("x86_64", "avx2 avx_vnni", False),
        ("AMD64", "avx512f avx512_vnni", False),
        ("x86_64", "", False),
        ("aarch64", "", False),
    ],
)
def test_which_processors_saturate(machine, flags, saturates, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "vector_flags", lambda: set(flags.split()))
    assert processor.saturates() is saturates


def test_int8_without_openvino_says_what_it_costs(precisions, monkeypatch):
    artifact, said = read_artifact(precisions / "lite0.int8.onnx"), []
    monkeypatch.setattr(backends, "saturates", lambda: False)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(
        backends, "fp32_beside", lambda artifact: None
    )  # with it, what a trial measured is said instead
    assert backends.open_backend(artifact, say=said.append).name == "onnxruntime"
    assert len(said) == 1 and "2.1 to 3.9 times as long as FP32" in said[0] and "pip install openvino" in said[0]
    assert backends.open_backend(read_artifact(precisions / "lite0.fp32.onnx"), say=said.append).name == "onnxruntime"
    assert len(said) == 1


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("count", [0, 1, 3, 8, 11])
def test_openvino_takes_any_number_of_images_in_batches_of_the_sizes_it_is_compiled_for(
    small_model, photographs, count
):
    images = [path for _, path in zip(range(count), itertools.cycle(photographs))]
    with Classifier(small_model, backend="onnxruntime") as expected, Classifier(
        small_model, backend="openvino"
    ) as classify:
        batch = expected.preprocess(images)
        np.testing.assert_allclose(classify.logits(batch), expected.logits(batch), atol=1e-3)
        assert set(classify.backend._compiled) <= {1, 8}


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_answers_as_onnxruntime(small_model, photographs):
    with Classifier(small_model, backend="onnxruntime") as expected, Classifier(
        small_model, backend="openvino", threads=1
    ) as classify:
        batch = expected.preprocess(list(photographs))
        logits = expected.logits(batch)
        np.testing.assert_allclose(classify.logits(batch), logits, atol=1e-3 * np.abs(logits).max())
        np.testing.assert_allclose(classify.logits(batch[:1]), logits[:1], atol=1e-3 * np.abs(logits).max())
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(classify.logits, [batch] * 8):
                np.testing.assert_allclose(answer, logits, atol=1e-3 * np.abs(logits).max())
        assert "OpenVINO" in classify.backend.description


def test_a_backend_that_is_not_there(small_model):
    with pytest.raises(UserError, match="no backend 'tpu': choose auto or tensorrt, tensorrt_rtx, onnxruntime"):
        Classifier(small_model, backend="tpu")
