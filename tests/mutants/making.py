"""Faults in what makes artifacts: networks, export, calibration."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

RANGES = "tests/calibration/collect/test_ranges.py"
ROUNDING = "tests/calibration/quantise/test_rounding.py"
PARITY = "tests/export/test_parity.py"

MUTANTS = [
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
        "tests/export/test_artifacts.py::test_an_export_of_older_code_is_not_up_to_date",
    ),
    Mutant(
        "random networks without settled statistics",
        "models/pretrained.py",
        "settle(network, torch.from_numpy(images - np.float32(0.5)) * 4)",
        "pass",
        "tests/models/test_pretrained.py::test_random_weights_answer_to_the_picture",
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
        "judged = np.isin(rows, run.held_out)",
        "rows = np.asarray(run.fit)\n    judged = rows >= 0",
        "tests/calibration/test_stage.py",
    ),
    Mutant(
        "blocks that are worth least leave the chain first",
        "calibration/search/sensitivity.py",
        "return sorted(found, key=lambda move: -move.worth)",
        "return sorted(found, key=lambda move: move.worth)",
        "tests/calibration/search/test_sensitivity.py",
    ),
    Mutant(
        "INT8 counts as FP32 on a processor",
        "calibration/search/predicted.py",
        "rate[layer.name in in_int8]",
        "rate[0]",
        "tests/calibration/search/test_sensitivity.py",
    ),
    Mutant(
        "an equalised input is not scaled back",
        "calibration/quantise/prepare.py",
        "half_precision(plain.scale * found.back)",
        "half_precision(plain.scale)",
        "tests/calibration/search/test_fitting.py",
    ),
    Mutant(
        "a block in chain keeps its mean error",
        "calibration/quantise/prepare.py",
        "bias=plain.bias - chained.error.astype(np.float32)",
        "bias=plain.bias",
        "tests/calibration/search/test_chains.py",
    ),
    Mutant(
        "a block in chain keeps its ranges whatever harm they do",
        "calibration/search/chains.py",
        "harm[-1] < (_BETTER * self.course[-1] if most is None else most)",
        "most is not None and harm[-1] < most",
        "tests/calibration/search/test_chains.py",
    ),
    Mutant(
        "what a chained depthwise layer gives has no Q",
        "calibration/quantise/placement.py",
        "                if tensor in ends:",
        "                if tensor in ():",
        "tests/calibration/quantise/test_blocks.py",
    ),
]
