"""The advice from a folder of images: who is dropped and when, what is deployed, what is said of it; and once on lite0."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runtime import advise
from runtime.artifacts.artifact import artifact_path
from runtime.measure.evaluation import read_journal
from runtime.sweep import candidates
from runtime.sweep.halving import Candidate, Limits, breaks, decide, drop, rounds
from runtime.sweep.rows import Key, Report, Row
from tests.in_process import called
from tests.runtime.sweep.sweep_rows import row

PICTURES = Path(__file__).parents[2] / "data"


def candidate(name: str, ms: float, wrong: range, images: int = 200, mb: float = 10.0) -> Candidate:
    """One that is wrong on the images `wrong`, with a class of its own there."""
    answers = [hash(name) if i in wrong else 0 for i in range(images)]
    return Candidate(name, ms, mb, answers=answers, right=[answer == 0 for answer in answers])


def test_rounds_double_and_end_with_all():
    assert rounds(500) == [64, 128, 256, 500] and rounds(64) == [64] and rounds(3) == [3]


def test_who_is_worse_beyond_chance_is_dropped_however_fast():
    good, bad = candidate("good", 20, range(10)), candidate("bad", 5, range(40))
    assert drop([good, bad], Limits()) == [bad] and "less accurate than good" in bad.out
    near = candidate("near", 5, range(16))
    assert drop([good, near], Limits()) == []  # six images more are chance


def test_with_enough_accuracy_the_slower_one_is_dropped_however_accurate():
    good, fast = candidate("good", 20, range(2)), candidate("fast", 5, range(20))
    assert drop([good, fast], Limits(min_top1=80)) == [good] and "slower than fast, which has 80 %" in good.out
    poor = candidate("poor", 1, range(100))
    assert drop([fast, poor], Limits(min_top1=80)) == [poor] and "less than 80" in poor.out


def test_of_two_that_answer_alike_on_many_images_the_slower_one_is_dropped():
    for images, gone in ((255, False), (256, True)):
        fp32, fp16 = candidate("fp32", 5, range(10), images), candidate("fp16", 8, range(10), images)
        fp16.answers = list(fp32.answers)
        assert drop([fp16, fp32], Limits()) == [fp16] * gone
        assert fp16.out == "answers as fp32 does, which is faster" * gone


@pytest.mark.parametrize(
    ("limits", "best", "why"),
    [
        (Limits(), "middle", "the fastest of 2 that the images can't tell from the most accurate, slow"),
        (Limits(min_top1=85), "fast", "the fastest that has 85 %"),
        (Limits(min_top1=93), "middle", "the fastest that has 93 %"),
        (Limits(min_top1=99.9), None, ""),
    ],
)
def test_the_fastest_of_those_that_will_do(limits, best, why):
    three = [candidate("slow", 20, range(10)), candidate("middle", 10, range(11)), candidate("fast", 5, range(25))]
    decision = decide(three, limits)
    assert (decision.best and decision.best.name) == best and decision.why == why


def test_limits_of_time_and_size_hold_before_any_image_is_seen():
    assert "takes 20.0 ms, more than 10" in breaks(candidate("slow", 20, range(0)), Limits(max_ms=10))
    assert "has 30.0 MB, more than 20" in breaks(candidate("large", 2, range(0), mb=30), Limits(max_ms=10, max_mb=20))


@pytest.fixture
def photographs(small_artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small network in FP32 and FP16, timed by a fake (FP16 slower), and a folder of six images in two classes."""
    for precision, name in (("fp32", "lite0"), ("fp16", "lite0")):
        target = artifact_path(name, precision, tmp_path / "artifacts")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(artifact_path(name, precision, small_artifacts), target)

    def sweep(plan, folder, say):
        assert plan.images == data
        rows = [
            Row(
                Key(row("lite0", precision, ms).variant, precision, "auto", 1),
                latency=row("lite0", precision, ms).latency,
            )
            for precision, ms in (("fp32", 5), ("fp16", 9))
        ]
        return Report("advise", rows, {}, "")

    monkeypatch.setattr(candidates, "sweep", sweep)
    monkeypatch.setattr(candidates, "_at_hand", list)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EFFICIENTNET_ARTIFACTS", raising=False)
    data = Path("photos")
    for name, picture in (("Pembroke", "corgi.jpg"), ("beacon", "lighthouse.jpg")):
        (data / name).mkdir(parents=True)
        for copy in "abc":
            shutil.copy(PICTURES / picture, data / name / f"{copy}.jpg")
    return data


def test_from_a_folder_to_a_decision_with_labels_and_without(photographs: Path):
    done = called(advise.main, "--data", photographs)
    assert done.status == 0, done.err
    assert (
        "deploy    artifacts/lite0/lite0.fp32.onnx" in done.out and "top-1 50.0 % (18.8 to 81.2, 6 images)" in done.out
    )
    assert "why       the most accurate, and the fastest of those that the images can't tell from it" in done.out
    assert done.out.startswith(
        "candidate     ms    MB  images  top-1, %\nlite0 fp32  5.00  21.0       6  50.0 (18.8 to 81.2)\n"
    )
    assert "lite0 int8 is left out: it was not calibrated" in done.err

    flat = photographs.parent / "flat"
    flat.mkdir()
    for index, path in enumerate(sorted(photographs.rglob("*.jpg"))):
        shutil.copy(path, flat / f"{index}.jpg")
    journal = next(Path("reports/advise").glob(".answers-*"))
    photographs.rename("labelled")
    flat.rename(photographs)
    done = called(advise.main, "--data", photographs, "--max-ms", 7)
    assert done.status == 0 and "agreement with lite0 fp32 100.0 %" in done.out, done.err
    assert "takes 9.0 ms, more than 7" in done.out and journal.exists()
    done = called(advise.main, "--data", photographs, "--min-top1", 90)
    assert done.status == 2 and "have no labels" in done.err
    done = called(advise.main, "--data", photographs, "--max-ms", 1)
    assert done.status == 1 and "Nothing keeps MAX_MS=1." in done.out


def test_an_interrupted_run_goes_on_and_other_limits_ask_nothing_anew(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
):
    assert called(advise.main, "--data", photographs).status == 0
    journals = sorted(Path("reports/advise").glob(".answers-*"))
    whole = [journal.read_text() for journal in journals]
    journals[0].write_text("\n".join(whole[0].splitlines()[:2]) + "\n[2, [1")  # killed while it wrote
    assert len(read_journal(journals[0])) == 2
    assert called(advise.main, "--data", photographs).status == 0
    assert [json.loads(line)[:2] for line in journals[0].read_text().splitlines()] == [
        json.loads(line)[:2] for line in whole[0].splitlines()
    ]
    monkeypatch.setattr(advise, "Classifier", None)  # nothing is left to ask
    assert called(advise.main, "--data", photographs, "--max-mb", 100).status == 0
