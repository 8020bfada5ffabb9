"""A little of what `python -m tests.fuzz` does for longer, structured inputs by hypothesis, and what fuzzing has found."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.labels import is_name, read_labels
from runtime.artifacts.onnx_metadata import read_metadata, require_one_file, verify, with_metadata
from runtime.errors import UserError
from tests.fuzz import cases
from tests.fuzz.running import content_of
from tests.fuzz.targets import KINDS, data_set, label_file, manifest, onnx_file
from tests.warm import command

COUNT = 40  # cases of each kind
# too_slow: a second in which the machine stood still, or letters were put in order for the first time in a checkout.
excused = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
few = settings(max_examples=40, deadline=None, suppress_health_check=excused, derandomize=True)


def test_damaged_files_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process that has no threads yet: its children fork."""
    ended = command("tests.fuzz", "--count", COUNT, "--processes", 2)
    with capsys.disabled():
        print("\nfuzz: " + ended.text.strip().rpartition("\n")[2])
    assert ended.status == 0, ended.text
    assert f"tried {COUNT * len(KINDS):,}, crashed 0" in ended.text
    read = {line.split()[0]: int(line.split()[2].replace(",", "")) for line in ended.text.splitlines()[1:-1]}
    assert all(read[kind] for kind in KINDS), read  # or the whole files would not even come through


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_the_same_every_time_and_the_first_are_whole(kind: str) -> None:
    assert [content_of(kind, seed) for seed in range(30)] == [content_of(kind, seed) for seed in range(30)]
    assert len({content_of(kind, seed) for seed in range(30)}) > 15


FAULTS = {
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "ended by SIGSEGV",
    "while True: pass": "longer than",
    "[].pop()": "IndexError",
    "bytes(1 << 40)": "MemoryError",
}


def test_what_should_not_happen_is_seen_and_kept(tmp_path: Path) -> None:
    """The fuzzer itself: a target with a fault in some of the cases."""
    expected = [seed for seed in range(8) if len(content_of("labels", seed)) % 3 == 0]
    assert expected
    ended = command("tests.fuzz.faulty", tmp_path, *FAULTS)
    for i, (line, what) in enumerate(zip(ended.text.splitlines(), FAULTS.values(), strict=True)):
        failed, count, kept, words = line.split(maxsplit=3)
        assert (int(failed), int(count), int(kept)) == (len(expected), 8, min(3, len(expected))) and what in words, line
        for path in (tmp_path / str(i)).iterdir():
            assert path.read_bytes() == content_of("labels", int(path.name.rpartition("-")[2]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda x: st.lists(x, max_size=4),
    max_leaves=6,
)


def holds(target: object, content: bytes, folder: Path) -> None:
    with contextlib.suppress(UserError):
        target(content, folder)  # type: ignore[operator]


@few
@given(st.sampled_from(sorted(json.loads(cases.manifests()[0]))), JSON)
def test_manifests_with_any_value_anywhere(tmp_path: Path, key: str, value: object) -> None:
    holds(manifest, json.dumps({**json.loads(cases.manifests()[0]), key: value}).encode(), tmp_path)


@few
@given(st.sampled_from(sorted(json.loads(cases.manifests()[0])["options"])), JSON)
def test_manifests_with_any_option(tmp_path: Path, key: str, value: object) -> None:
    whole = json.loads(cases.manifests()[0])
    holds(manifest, json.dumps({**whole, "options": {**whole["options"], key: value}}).encode(), tmp_path)


@few
@given(
    st.sampled_from(sorted(cases.METADATA)),
    st.one_of(JSON.map(json.dumps), st.text(), st.from_regex(r"-?\d+(\.\d+)?e?\d*")),
)
def test_artifacts_with_any_fact(tmp_path: Path, key: str, value: str) -> None:
    holds(onnx_file, with_metadata(cases.onnx_graph(), {**cases.METADATA, key: value})[0], tmp_path)


@few
@given(st.lists(st.text(max_size=12), min_size=9, max_size=11).map("\n".join) | st.text() | st.binary())
def test_labels_of_any_text(tmp_path: Path, text: str | bytes) -> None:
    holds(label_file, text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), tmp_path)


@few
@given(
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=5),
    st.sampled_from(["file,label", "ImageId,PredictionString", "x"]),
)
def test_lists_of_labels_of_any_text(tmp_path: Path, rows: list[tuple[str, str]], head: str) -> None:
    text = "\n".join([head, *(",".join(row) for row in rows)])
    holds(data_set, text.encode("utf-8", "surrogatepass"), tmp_path)


@few
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5), st.binary(max_size=30)), max_size=20))
def test_any_fields_in_any_order_are_no_crash(tmp_path: Path, fields: list[tuple[int, int, bytes]]) -> None:
    """Protobuf's wire format, well-formed and not."""
    path = tmp_path / "any.onnx"
    message = b"".join(bytes([number << 3 & 0x78 | wire, len(body)]) + body for number, wire, body in fields)
    path.write_bytes(message + b"location")
    for read in (read_metadata, verify, require_one_file):
        with contextlib.suppress(UserError):
            read(path)


# What fuzzing has found: the file, made again, and that it is refused now. (docs/reliability.md has the list.)

REGRESSIONS = {
    "a graph whose shapes first clash when it runs (onnxruntime)": (
        onnx_file,
        lambda: cases.resealed(cases.onnx_graph().replace(b"kernel_shape@\x03@\x03", b"kernel_shape@\x03@\x4d", 1)),
    ),
    "an option of a manifest that is no number": (
        manifest,
        lambda: cases.manifests()[0].replace(b'"workspace": null', b'"workspace": "much"'),
    ),
    "a manifest whose artifact has no name": (
        manifest,
        lambda: cases.manifests()[0].replace(b'"small.fp32.onnx"', b"5"),
    ),
    "a quote without an end, longer than csv's fields may be": (data_set, lambda: b'file,label\n"' + b"x\n" * 100_000),
    "a NUL in a list of labels": (data_set, lambda: b"file,label\n0.png,\x001\n"),
    "an index in digits that int() does not take": (data_set, lambda: "file,label\n0.png,²\n".encode()),
    "an index of 5,000 digits": (data_set, lambda: b"file,label\n0.png," + b"9" * 5000 + b"\n"),
    "an image outside the folder": (data_set, lambda: b"file,label\n../../../etc/hostname,1\n"),
    "a crop that would enlarge an image to terabytes": (
        onnx_file,
        lambda: with_metadata(cases.onnx_graph(), {**cases.METADATA, "crop": "1e-9"})[0],
    ),
    "a variant that leads elsewhere": (
        onnx_file,
        lambda: with_metadata(cases.onnx_graph(), {**cases.METADATA, "variant": "../../outside"})[0],
    ),
    "fields without an end": (onnx_file, lambda: b"\x08\x08" * 200_000 + cases.onnx_files()[0]),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_was_found_is_refused(name: str, tmp_path: Path) -> None:
    target, make = REGRESSIONS[name]
    with pytest.raises(UserError):
        target(make(), tmp_path)


def test_wnids_that_are_no_list(tmp_path: Path) -> None:
    from runtime.artifacts.artifact import read_artifact
    from runtime.measure.dataset import ClassNames

    path = tmp_path / "small.fp32.onnx"
    for wnids in ("5", "{", "[" * 10_000, '"abc"', "null"):
        path.write_bytes(with_metadata(cases.onnx_graph(), {**cases.METADATA, "wnids": wnids})[0])
        try:
            ClassNames(read_artifact(path))
        except UserError as error:
            assert "wnids" in str(error)


def test_labels_read_as_they_were_written(tmp_path: Path) -> None:
    names = ["a", "Käfer", "x" * 1000, "n\u2028m"]
    assert all(map(is_name, names)) and not is_name("\x1b") and not is_name("\ud800") and not is_name(5)
    (tmp_path / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt", 4) == names


def test_whole_files_come_through() -> None:
    for kind, row in KINDS.items():
        assert content_of(kind, 0) in (row.whole()[0], row.mend(row.whole()[0])), kind
