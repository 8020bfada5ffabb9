"""Faults of a line each, and the tests that must notice them: what a user would be told wrong, and nobody would see."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault put into the code by hand."""

    fault: str
    file: str
    old: str  # occurs in the file exactly once
    new: str
    tests: str  # files or test ids, as pytest takes them; one of them must fail


EVALUATION = "tests/runtime/measure/test_evaluation.py"
ACCURACY = "tests/runtime/measure/test_accuracy.py"
PREPROCESS = "tests/runtime/images/test_preprocess.py"
DECODE = "tests/runtime/images/test_decode.py"
RUNNER = "tests/runtime/backends/test_tensorrt_runner.py"
ENERGY = "tests/runtime/measure/test_energy.py"
SWEEP = "tests/runtime/sweep/test_run.py"
RANGES = "tests/calibration/collect/test_ranges.py"
ROUNDING = "tests/calibration/quantise/test_rounding.py"
PARITY = "tests/export/test_parity.py"

MUTANTS = [
    # evaluation
    Mutant(
        "McNemar's gained and lost swapped",
        "runtime/measure/evaluation.py",
        "paired_difference(gained, lost, len(known))",
        "paired_difference(lost, gained, len(known))",
        EVALUATION,
    ),
    Mutant(
        "gained counts what stayed right",
        "runtime/measure/evaluation.py",
        "sum(label == now != before for",
        "sum(label == now for",
        EVALUATION,
    ),
    Mutant(
        "flipped: was and is swapped",
        "runtime/measure/evaluation.py",
        '"was": labels[record.reference or 0],\n                "is": labels[record.top[0]],',
        '"is": labels[record.reference or 0],\n                "was": labels[record.top[0]],',
        EVALUATION,
    ),
    Mutant(
        "the journal of an interrupted evaluation is not cut back to whole batches",
        "runtime/measure/evaluation.py",
        "del records[len(records) // batch * batch :]",
        "pass",
        EVALUATION,
    ),
    Mutant(
        "noise of the logits measured against ours, not the reference",
        "runtime/measure/evaluation.py",
        "signal = float(np.square(expected, dtype=np.float64).sum())",
        "signal = float(np.square(logits, dtype=np.float64).sum())",
        EVALUATION,
    ),
    Mutant(
        "top-5 counts four classes",
        "runtime/measure/evaluation.py",
        'np.argsort(-logits, kind="stable")[:5]',
        'np.argsort(-logits, kind="stable")[:4]',
        EVALUATION,
    ),
    Mutant(
        "--limit takes the first images, not every k-th",
        "runtime/measure/evaluation.py",
        "samples[int(i * step)]",
        "samples[i]",
        EVALUATION,
    ),
    Mutant(
        "McNemar one-sided",
        "runtime/measure/accuracy.py",
        "min(1.0, 2 * tail)",
        "min(1.0, tail)",
        ACCURACY,
    ),
    # images
    Mutant(
        "EXIF orientation ignored where a JPEG is decoded at a fraction",
        "runtime/images/decode.py",
        "if turn is not None:",
        "if turn is not None and margins is None:",
        f"{DECODE} {PREPROCESS}",
    ),
    Mutant(
        "EXIF orientation ignored in files",
        "runtime/images/decode.py",
        "return _upright_rgb(image, margins, name)",
        "return _to_rgb(image, name)",
        PREPROCESS,
    ),
    Mutant(
        "EXIF orientation ignored in PIL images",
        "runtime/images/decode.py",
        "return _upright_rgb(source, margins_of(source), name)",
        "return _to_rgb(source, name)",
        PREPROCESS,
    ),
    Mutant(
        "margins of a JPEG decoded at a fraction not turned with it",
        "runtime/images/decode.py",
        "margins = margins and (margins[turn[1][0]], margins[turn[1][1]], margins[turn[1][2]], margins[turn[1][3]])",
        "pass",
        DECODE,
    ),
    Mutant(
        "the crop is a pixel off",
        "runtime/images/preprocess.py",
        "return round((length - side) / 2.0) if",
        "return 1 + round((length - side) / 2.0) if",
        PREPROCESS,
    ),
    Mutant(
        "what is missing of the engine's least batch is not zero",
        "runtime/backends/tensorrt/runner.py",
        "host[n:batch] = 0",
        "pass",
        RUNNER,
    ),
    Mutant(
        "answers of a graph with a fixed batch keep those of the filling",
        "runtime/backends/backend.py",
        "return np.concatenate(answers)[: len(images)]",
        "return np.concatenate(answers)",
        "tests/runtime/artifacts/test_third_party.py",
    ),
    # measurement
    Mutant(
        "the energy counter's wrap-around off by one",
        "runtime/measure/energy.py",
        "grown += self._most + 1",
        "grown += self._most",
        ENERGY,
    ),
    Mutant(
        "power read at one moment instead of the mean of two",
        "runtime/measure/energy.py",
        "return (last + self._last) / 2 * seconds",
        "return last * seconds",
        ENERGY,
    ),
    Mutant(
        "idle power not taken off",
        "runtime/measure/energy.py",
        "self._joules - (self.idle_watts or 0.0) * seconds",
        "self._joules",
        ENERGY,
    ),
    Mutant(
        "a row of the sweep is not measured again with another number of threads",
        "runtime/sweep/plan.py",
        "[sha256, backend, batch, self.seconds, self.threads, images, site()]",
        "[sha256, backend, batch, self.seconds, images, site()]",
        SWEEP,
    ),
    Mutant(
        "an accuracy of the sweep is not measured again with another limit",
        "runtime/sweep/plan.py",
        "[sha256, backend, reference, self.limit, self.threads, data, site()]",
        "[sha256, backend, reference, self.threads, data, site()]",
        SWEEP,
    ),
    # calibration
    Mutant(
        "99.99 percentile computed as 99",
        "calibration/collect/ranges.py",
        "percentile(histogram, 0.9999)",
        "percentile(histogram, 0.99)",
        RANGES,
    ),
    Mutant(
        "entropy chooses the worst limit",
        "calibration/collect/ranges.py",
        "if divergence < best:\n            best, limit",
        "if divergence > best or best == np.inf:\n            best, limit",
        RANGES,
    ),
    Mutant(
        "the range's error is not rid of its mean",
        "calibration/collect/ranges.py",
        "mean, square = histogram.errors(steps, offsets)\n    variance = np.maximum(square - mean**2, 0)",
        "mean, square = histogram.errors(steps, offsets)\n    variance = square",
        RANGES,
    ),
    Mutant(
        "padding counts as inside where biases are corrected",
        "calibration/quantise/rounding.py",
        "share = ((at >= 0) & (at < height)).mean(1)",
        "share = np.ones(len(at))",
        ROUNDING,
    ),
    Mutant(
        "biases are corrected the wrong way",
        "calibration/quantise/rounding.py",
        "return (bias - shift).astype(np.float32)",
        "return (bias + shift).astype(np.float32)",
        ROUNDING,
    ),
    Mutant(
        "images that ranges were fitted on judge the choices",
        "calibration/collect/images.py",
        "return rows[rows % 4 != 3], rows[rows % 4 == 3]",
        "return rows[rows % 4 != 3], rows[rows % 4 == 2]",
        "tests/calibration/collect/test_images.py",
    ),
    Mutant(
        "the search measures on the images that ranges were fitted on",
        "calibration/search/sensitivity.py",
        "held_out = sqnr(reference[run.held_out], logits[run.held_out])",
        "held_out = sqnr(reference[run.fit], logits[run.fit])",
        "tests/calibration/test_stage.py",
    ),
    # export
    Mutant(
        "the parity gate without its top-1 half",
        "export/parity.py",
        "if not error <= FP32_TOLERANCE or not same:",
        "if not error <= FP32_TOLERANCE:",
        PARITY,
    ),
    Mutant(
        "the parity gate without its relative error",
        "export/parity.py",
        "if not error <= FP32_TOLERANCE or not same:",
        "if not same:",
        PARITY,
    ),
    Mutant(
        "the FP16 gate looks at the best image",
        "export/parity.py",
        "worst = float(np.min(cosines))",
        "worst = float(np.max(cosines))",
        PARITY,
    ),
    Mutant(
        "an export is not redone when the code changed",
        "export/stage.py",
        '            "code": code_digest(),\n',
        "",
        "tests/export/test_artifacts.py",
    ),
    Mutant(
        "random networks without settled statistics",
        "models/pretrained.py",
        "settle(network, torch.from_numpy(images - np.float32(0.5)) * 4)",
        "pass",
        "tests/models/test_pretrained.py",
    ),
]
