"""A block in chain: ranges that are wrong are put right, its outputs have no mean error, and its other forms stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import calibration.search.fitting
from calibration.cache import Cache
from calibration.collect.images import read_folder, split
from calibration.layer_graph import LayerGraph, logits_of, open_session
from calibration.quantise.prepare import Prepared, prepare, to_arrays
from calibration.run import Run
from calibration.search.chains import fit_chains
from calibration.search.fitting import fitted
from calibration.search.sensitivity import damage
from calibration.search.trials import Trials, part
from tests.calibration.small_network import CLASSES, PREPROCESSING, small_model, write_images


@pytest.fixture
def run(tmp_path: Path) -> Run:
    network = LayerGraph(small_model())
    images = read_folder(write_images(tmp_path / "photos", 24), PREPROCESSING, CLASSES)
    fit, held_out = split(len(images))
    reference = logits_of(open_session(network.to_model(), 1), images.batches())
    return Run(network, "tensorrt", images, fit, held_out, reference, Cache(tmp_path / "cache", "0" * 64), 1)


@pytest.fixture
def prepared(run: Run) -> Prepared:
    return prepare(run.network, lambda: run.images.batches(run.fit), 1)


def harm(run: Run, prepared: Prepared, form: str = "chain") -> float:
    """Damage of the second block, on images held out."""
    trials = Trials(run.network, np.concatenate(list(run.images.batches(run.held_out))), run.reference[run.held_out])
    return damage(trials, prepared.alone(prepared.blocks[2], form), 1)


@pytest.mark.parametrize("factor", [8.0, 1 / 8])
def test_a_range_that_is_wrong_is_put_right(run: Run, prepared: Prepared, factor: float) -> None:
    good, block = harm(run, prepared), prepared.blocks[2]
    others = {form: {each.name: form for each in prepared.blocks} for form in ("pointwise", "project")}
    before = {form: prepared.graph(forms) for form, forms in others.items()}
    prepared.outputs[block.depthwise] = prepared.outputs[block.depthwise].stretched(factor, 0.0)
    assert harm(run, prepared) > 2 * good
    fit_chains(run, prepared, {})
    assert harm(run, prepared) < 1.5 * good
    assert {form: prepared.graph(forms) for form, forms in others.items()} == before


def test_what_a_block_gives_has_no_mean_error(run: Run, prepared: Prepared) -> None:
    def error(chosen: Prepared) -> np.ndarray:
        images, means = np.concatenate(list(run.images.batches(run.fit))), []
        for model in (chosen.alone(chosen.blocks[2], "chain"), run.network.to_model()):
            session = open_session(part(model, run.network, "images", "second_sum"), 1, integer=False)
            means.append(session.run(None, {"images": images})[0].mean((0, 2, 3)))
        return means[0] - means[1]

    before = np.abs(error(prepared)).max()
    fit_chains(run, prepared, {})
    assert np.abs(error(prepared)).max() < 1e-5 < before / 10


def test_an_interrupted_run_goes_on_and_gives_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = to_arrays(fitted(run))
    next(run.cache.folder.glob("*.chains.npz")).unlink()
    monkeypatch.setattr(calibration.search.fitting, "prepare", None)
    again = to_arrays(fitted(run))
    assert list(first) == list(again)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name], name)
