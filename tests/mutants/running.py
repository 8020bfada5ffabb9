"""Faults in what runs: images, engines, artifacts and their identity, the server."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PREPROCESS = "tests/runtime/images/test_preprocess.py"
DECODE = "tests/runtime/images/test_decode.py"
RUNNER = "tests/runtime/backends/test_tensorrt_runner.py"

MUTANTS = [
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
]
