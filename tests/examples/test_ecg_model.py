"""The shipped ecg bundle, measured on the held-out readings through the backend that serves it."""

from __future__ import annotations

from pathlib import Path

import evaluate
import numpy as np
import pytest
from beats import find_beats
from evaluate import BUNDLE, levels_of, serve, tables
from readings import HORIZONS, RATE, load, split
from scores import Quantiles, autoregression, excess, pinball, score, surprise

from stepstream_server.bundles import Bundle
from stepstream_server.bundles import load as load_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that is shipped."""
    return load_bundle(BUNDLE)


@pytest.fixture(scope="module")
def predicted(bundle: Bundle) -> dict[str, Quantiles]:
    """What it predicts at each held-out reading."""
    return serve(bundle, split(load())[1])


def test_the_bundle_is_what_the_contract_says(bundle: Bundle) -> None:
    """One float in per step, three grids of quantiles out, and the difference taken from a declared state."""
    spec = bundle.spec
    assert (spec.name, spec.version, spec.time_step_seconds) == ("ecg", 1, 1 / RATE)
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.inputs] == [("mv", "float32", (1,))]
    assert [output.name for output in spec.outputs] == list(HORIZONS)
    assert all({0.1, 0.5, 0.9} <= set(levels) for levels in levels_of(bundle).values())
    assert {"h", "c", "previous"} <= {state.name for state in spec.states}
    assert spec.extra["steps_ahead"] == HORIZONS
    assert "ODC-By" in spec.licence
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 300_000


@pytest.mark.parametrize(
    ("output", "of_persistence", "of_autoregression"), [("next", 0.5, 0.5), ("ahead_9", 0.45, 0.5), ("ahead_27", 0.6, 0.75)]
)
def test_the_median_clearly_beats_persistence_and_least_squares(
    bundle: Bundle, predicted: dict[str, Quantiles], output: str, of_persistence: float, of_autoregression: float
) -> None:
    """Mean absolute errors on the held-out minute are well below those of both plain predictors."""
    measured = score(output, predicted[output], levels_of(bundle)[output], *split(load()))
    assert measured.model < of_persistence * measured.persistence
    assert measured.model < of_autoregression * measured.autoregression
    assert measured.model_pinball < 0.75 * measured.autoregression_pinball


@pytest.mark.parametrize("output", HORIZONS)
def test_the_band_covers_about_what_it_says(bundle: Bundle, predicted: dict[str, Quantiles], output: str) -> None:
    """The 80 % band holds a sane share of the held-out readings: neither nearly all nor far fewer."""
    measured = score(output, predicted[output], levels_of(bundle)[output], *split(load()))
    assert 0.7 < measured.coverage < 0.92


@pytest.mark.parametrize("output", HORIZONS)
def test_quantiles_never_cross(predicted: dict[str, Quantiles], output: str) -> None:
    """Each step's quantiles ascend."""
    assert (np.diff(predicted[output], axis=1) >= 0).all()


@pytest.mark.parametrize("output", ["ahead_9", "ahead_27"])
def test_wide_beats_show(bundle: Bundle, predicted: dict[str, Quantiles], output: str) -> None:
    """Readings of wide beats leave the band at least twice as often as those of ordinary beats, and further."""
    held_out = split(load())[1]
    seen = surprise(output, predicted[output], levels_of(bundle)[output], held_out, find_beats(held_out))
    assert seen.wide > 2 * seen.ordinary > 2 * seen.rest
    assert seen.wide_excess > 1.5 * seen.ordinary_excess > 1.5 * seen.rest_excess


def test_the_readme_shows_the_figures_of_the_shipped_bundle(bundle: Bundle, predicted: dict[str, Quantiles]) -> None:
    """Its tables are those that evaluate.py prints."""
    readme = (Path(evaluate.__file__).parent / "README.md").read_text()
    assert tables(predicted, levels_of(bundle)) in readme


def test_least_squares_recovers_an_autoregressive_process() -> None:
    """On readings that follow two of their predecessors exactly, its predictions are exact, from the first one on."""
    readings = np.empty(400)
    readings[:2] = [1.0, 0.5]
    for at in range(2, 400):
        readings[at] = 1.6 * readings[at - 1] - 0.98 * readings[at - 2] + 0.1
    predicted, errors = autoregression(readings[:300], readings[300:], ahead=3)
    np.testing.assert_allclose(predicted[:-3], readings[303:], atol=1e-6)
    np.testing.assert_allclose(errors, 0, atol=1e-6)


def test_scores_by_hand() -> None:
    """Distance from the band and pinball loss of three readings, worked out by hand."""
    truth = np.array([0.0, 2.0, -3.0])
    quantiles = np.tile([-1.0, 0.0, 1.0], (3, 1))
    assert excess(truth, quantiles, [0.1, 0.5, 0.9]).tolist() == [0.0, 1.0, 2.0]
    losses = [[0.1, 0.0, 0.1], [0.3, 1.0, 0.9], [1.8, 1.5, 0.4]]
    assert pinball(truth, quantiles, [0.1, 0.5, 0.9]) == pytest.approx(np.mean(losses))
