"""The demo's arithmetic: latencies from buckets, surprises and scores from predictions."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from monitor.forecast import Forecast
from monitor.latency import Histogram
from monitor.server import ServerFailed, running_server

LEVELS = [0.1, 0.5, 0.9]


def forecast(readings: list[float], ahead: int = 1) -> Forecast:
    """Predictions that are the same at each step: 0 mV, give or take 1."""
    made = Forecast(np.array(readings), 90, LEVELS, ahead)
    for step in range(len(readings)):
        made.record(step, np.array([-1.0, 0.0, 1.0], np.float32))
    return made


def test_quantiles_lie_within_their_bucket() -> None:
    """As Prometheus estimates them: by where in its bucket an observation's rank lies."""
    histogram = Histogram((1.0, 2.0, math.inf), (2.0, 4.0, 4.0), 5.0)
    assert histogram.mean == 1.25
    assert (histogram.quantile(0.25), histogram.quantile(0.5), histogram.quantile(0.75)) == (0.5, 1.0, 1.5)


def test_a_quantile_beyond_the_last_edge_is_that_edge() -> None:
    """Nothing more is known of it."""
    assert Histogram((1.0, math.inf), (0.0, 3.0), 9.0).quantile(0.5) == 1.0


def test_nothing_observed_has_no_quantile() -> None:
    """Not zero, which would look fast."""
    before = Histogram((1.0, math.inf), (2.0, 3.0), 9.0)
    assert math.isnan((before - before).mean)
    assert math.isnan((before - before).quantile(0.5))


def test_a_band_is_laid_beside_the_reading_it_was_predicted_for() -> None:
    """What is said at step s concerns reading s + ahead; before that, nothing was predicted and nothing can be outside."""
    predicted = forecast([5.0, 5.0, 5.0, 0.5, -3.0], ahead=2)
    assert predicted.excess.tolist() == [0.0, 0.0, 4.0, 0.0, 2.0]


def test_scores_count_predicted_readings_only() -> None:
    """Error of the median, error of standing still, share inside the band."""
    score = forecast([9.0, 1.0, -1.0, 3.0]).score()
    assert score.error == pytest.approx((1 + 1 + 3) / 3)
    assert score.persistence == pytest.approx((8 + 2 + 4) / 3)
    assert score.coverage == pytest.approx(2 / 3)


def test_a_surprise_is_far_and_long() -> None:
    """A small excursion and a short one are none; one that lasts is one, at the time when it has lasted."""
    quiet = [0.0] * 60
    assert forecast([*quiet, *[1.1] * 20, *quiet]).surprises() == []
    assert forecast([*quiet, 2.5, *quiet]).surprises() == []
    (at,) = forecast([*quiet, *[3.0] * 9, *quiet]).surprises()
    assert 60 <= at * 90 < 69


async def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    """The error carries what the server said of itself."""
    with pytest.raises(ServerFailed, match="exit code 1") as failed:
        async with running_server(tmp_path):
            await asyncio.Event().wait()
    (note,) = failed.value.__notes__
    assert "model.json" in note
