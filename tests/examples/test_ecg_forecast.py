"""Forecasts of the shipped ecg bundle by rolling it out: how often they come true, beside what it predicts directly."""

from __future__ import annotations

from pathlib import Path

import forecast
import numpy as np
import pytest
from evaluate import BUNDLE, serve
from forecast import Sampled, measure, origins_of, sample, table
from readings import HORIZONS, load, split

from stepstream_server.bundles import Bundle
from stepstream_server.bundles import load as load_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that is shipped."""
    return load_bundle(BUNDLE)


@pytest.fixture(scope="module")
def sampled(bundle: Bundle) -> dict[str, Sampled]:
    """How its forecasts from every tenth held-out reading came true, by output."""
    held_out = split(load())[1]
    scores = measure(bundle, serve(bundle, held_out), origins_of(held_out))
    return {each.output: each for each in scores}


@pytest.mark.parametrize("output", HORIZONS)
def test_paths_cover_about_what_they_say(sampled: dict[str, Sampled], output: str) -> None:
    """Four of five readings lie within the middle 80 % of the paths, near and far."""
    assert 0.65 < sampled[output].coverage < 0.92


@pytest.mark.parametrize("output", HORIZONS)
def test_their_median_beats_the_plain_predictors(sampled: dict[str, Sampled], output: str) -> None:
    """Though it feeds on its own draws; it is not far behind what the model was trained to predict directly."""
    score = sampled[output]
    assert score.paths < 0.75 * score.autoregression
    assert score.paths < 0.6 * score.persistence
    assert score.paths < 1.2 * score.direct


def test_the_readme_shows_the_figures_of_the_shipped_bundle(sampled: dict[str, Sampled]) -> None:
    """Its table is the one that forecast.py prints."""
    readme = (Path(forecast.__file__).parent / "README.md").read_text()
    assert table(list(sampled.values())) in readme


def test_a_forecast_depends_on_its_own_past_alone(bundle: Bundle) -> None:
    """It is the same, bit for bit, whichever others are drawn beside it."""
    held_out = split(load())[1][:200]
    together = sample(bundle, held_out, np.array([20, 57, 101]), paths=5)
    np.testing.assert_array_equal(sample(bundle, held_out, np.array([57]), paths=5)[0], together[1])
