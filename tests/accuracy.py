"""Accuracy of networks with real weights, measured for tests/accuracy.tsv: python -m tests.accuracy [lite0 b0 ...] [--all]

Prints the table's rows as they are now: of 24 images and INT8 with the first ranges of 16 images (`make test` judges those), or
with --all of 500 images and INT8 as `make calibrate` makes it of 256 (`make test-long`). Needs EFFICIENTNET_TEST_DATA.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from calibration.collect.images import CalibrationImages, read_folder
from calibration.layer_graph import sqnr, top1_agreement
from calibration.quantise.placement import quantised_graph
from calibration.quantise.prepare import prepare
from calibration.search.sensitivity import simulate
from calibration.stage import Request, calibrate, read_network
from runtime import Classifier
from runtime.artifacts.artifact import Artifact, artifact_path, artifacts_folder, read_artifact

TABLE = Path(__file__).with_name("accuracy.tsv")
FIGURES = ("top1", "agreement", "sqnr_db", "logit")
QUICK, WHOLE = "first ranges of 16", "calibrated on 256"  # how INT8 was made
JUDGED_ON = {QUICK: 24, WHOLE: 500}  # images


@dataclass(frozen=True)
class Judged:
    """What one form of a network answers to images with known classes."""

    network: str
    precision: str
    made: str
    logits: np.ndarray  # [images, classes]
    expected: np.ndarray  # FP32's
    labels: np.ndarray

    def figures(self) -> dict[str, float]:
        """top1 and agreement with FP32 in %, SQNR of the logits against FP32 in dB, and the mean of the largest logit, which
        a wrong scale moves and noise does not."""
        return {
            "top1": 100 * float((self.logits.argmax(1) == self.labels).mean()),
            "agreement": 100 * top1_agreement(self.expected, self.logits),
            "sqnr_db": sqnr(self.expected, self.logits),
            "logit": float(self.logits.max(1).mean()),
        }


def pick(folder: Path, artifact: Artifact, count: int) -> CalibrationImages:
    """About `count` labelled images of `folder`, spread evenly; always the same."""
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]
    with tempfile.TemporaryDirectory() as few:
        for row in rows:
            Path(few, row["file"]).symlink_to((folder / row["file"]).resolve())
        Path(few, "labels.csv").write_text("file,label\n" + "".join(f"{row['file']},{row['label']}\n" for row in rows))
        return read_folder(Path(few), artifact.preprocessing, artifact.classes)


def judged(artifact: Artifact, images: Path, made: str, graph: onnx.ModelProto) -> list[Judged]:
    """FP32 and FP16 through the runtime, and the INT8 `graph`, computed as its Q/DQ nodes say: on 500 images where it is
    calibrated as a user's is, else on 24."""
    name = artifact.variant
    judging = pick(images / "evaluation", artifact, JUDGED_ON[made])
    labels = judging.labels
    assert labels is not None
    files = [images / "evaluation" / file for file in judging.names]
    logits = {}
    for precision in ("fp32", "fp16"):
        path = artifact.path.with_name(f"{name}.{precision}.onnx")
        with Classifier(path, backend="onnxruntime", threads=1) as network:  # the same on every machine
            parts = [network.logits(network.preprocess(files[i : i + 10])) for i in range(0, len(files), 10)]
        logits[precision] = np.concatenate(parts)
    logits["int8"] = simulate(graph, judging.batches(), 1)
    how = {"int8": made}
    return [Judged(name, p, how.get(p, "exported"), found, logits["fp32"], labels) for p, found in logits.items()]


def int8(artifact: Artifact, images: Path, made: str, folder: Path) -> onnx.ModelProto:
    """QUICK: the input of every layer in INT8 with the ranges of the first pass, some seconds' work. WHOLE: as `make
    calibrate` gives it; taken from `folder` if it lies there."""
    if made == WHOLE:
        path = artifact_path(artifact.variant, "int8", folder)
        if not path.is_file():
            calibrate(Request(artifact, pick(images / "calibration", artifact, 256)), folder)
        return onnx.load(path)
    network, calibration = read_network(artifact), pick(images / "calibration", artifact, 16)
    prepared = prepare(network, calibration.batches, 1)
    return quantised_graph(network, prepared.layers, prepared.identities, ())


def read_table() -> list[dict[str, str]]:
    with open(TABLE, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def differences(row: dict[str, str], found: dict[str, float]) -> list[str]:
    """What is outside the row's interval, and by how much."""
    said = []
    for name in FIGURES:
        if row[name] == "-":
            continue
        value, within = float(row[name]), float(row[f"{name}_within"])
        moved = found[name] - value
        if abs(moved) > within + 1e-6:
            said.append(
                f"{row['network']} {row['precision']} ({row['made']}), {row['images']} images: {name} moved by {moved:+.3g}, "
                f"from {value:g} to {found[name]:.4g}; within {within:g} is noise"
            )
    return said


def main() -> None:
    names = [name for name in sys.argv[1:] if not name.startswith("--")]
    made, folder = WHOLE if "--all" in sys.argv else QUICK, artifacts_folder()
    images = Path(os.environ["EFFICIENTNET_TEST_DATA"]) / "images"
    for name in names or dict.fromkeys(row["network"] for row in read_table() if row["made"] == made):
        artifact = read_artifact(artifact_path(name, "fp32", folder))
        for each in judged(artifact, images, made, int8(artifact, images, made, folder)):
            numbers = "\t".join(f"{value:.4g}" for value in each.figures().values())
            print(f"{name}\t{each.precision}\t{each.made}\t{len(each.labels)}\t{numbers}", flush=True)


if __name__ == "__main__":
    main()
