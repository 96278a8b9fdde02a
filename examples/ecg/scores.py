"""How good predictions are: errors beside two plain predictors, coverage of the band, and what falls outside of it.

Arrays in, figures out. It knows nothing of what predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from beats import Beat, near
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from readings import HORIZONS, RATE, Millivolts

ORDER = 32  # past readings that the least-squares predictor sees: 0.36 s
BAND = (0.1, 0.9)  # levels of the 80 % band
REACH = round(0.1 * RATE)  # readings on either side of a peak that count as the beat
Quantiles = NDArray[np.float64]  # [readings, levels], mV


@dataclass(frozen=True, slots=True)
class Score:
    """One output beside the plain predictors, all in mV but for the coverage."""

    output: str
    persistence: float  # mean absolute errors
    autoregression: float
    model: float  # of the median
    model_pinball: float  # mean over all levels
    autoregression_pinball: float  # the same levels, of its errors on the readings trained on
    coverage: float  # share of readings inside the 80 % band


@dataclass(frozen=True, slots=True)
class Surprise:
    """Shares of readings outside the 80 % band, and how far outside they are on average over all readings (mV)."""

    output: str
    wide: float
    ordinary: float
    rest: float
    wide_excess: float
    ordinary_excess: float
    rest_excess: float


def autoregression(trained: Millivolts, held_out: Millivolts, ahead: int) -> tuple[Millivolts, Millivolts]:
    """AR(ORDER) with a constant, by least squares for this horizon alone. Returns its predictions at each held-out reading,
    and its errors on the readings trained on. The first held-out predictions see the readings before them."""
    past = _lags(trained[:-ahead])
    target = trained[ORDER - 1 + ahead :]
    weights = np.linalg.lstsq(past, target, rcond=None)[0]
    predicted = _lags(np.concatenate([trained[1 - ORDER :], held_out])) @ weights
    return predicted, target - past @ weights


def score(output: str, predicted: Quantiles, levels: list[float], trained: Millivolts, held_out: Millivolts) -> Score:
    """Scores one output's quantiles [n, levels], predicted at each held-out reading [n]."""
    ahead = HORIZONS[output]
    truth, now, quantiles = held_out[ahead:], held_out[:-ahead], predicted[:-ahead]
    linear, errors = autoregression(trained, held_out, ahead)
    linear = linear[:-ahead]
    return Score(
        output=output,
        persistence=float(np.abs(truth - now).mean()),
        autoregression=float(np.abs(truth - linear).mean()),
        model=float(np.abs(truth - quantiles[:, levels.index(0.5)]).mean()),
        model_pinball=pinball(truth, quantiles, levels),
        autoregression_pinball=pinball(truth, linear[:, None] + np.quantile(errors, levels), levels),
        coverage=float((excess(truth, quantiles, levels) == 0).mean()),
    )


def pinball(truth: Millivolts, quantiles: Quantiles, levels: list[float]) -> float:
    """Mean pinball loss in mV; the lower, the better the whole distribution."""
    error = truth[:, None] - quantiles
    return float(np.maximum(np.array(levels) * error, (np.array(levels) - 1) * error).mean())


def excess(truth: Millivolts, quantiles: Quantiles, levels: list[float]) -> Millivolts:
    """How far each reading lies outside the 80 % band predicted for it, in mV; 0 inside."""
    low, high = (quantiles[:, levels.index(level)] for level in BAND)
    return np.maximum(np.maximum(low - truth, truth - high), 0.0)


def surprise(output: str, predicted: Quantiles, levels: list[float], held_out: Millivolts, beats: list[Beat]) -> Surprise:
    """How readings of wide beats, of ordinary beats and between beats lie to the band predicted for them."""
    ahead = HORIZONS[output]
    outside = excess(held_out[ahead:], predicted[:-ahead], levels)
    wide = near([beat for beat in beats if beat.wide], REACH, len(held_out))[ahead:]
    ordinary = near([beat for beat in beats if not beat.wide], REACH, len(held_out))[ahead:] & ~wide
    parts = [outside[wide], outside[ordinary], outside[~wide & ~ordinary]]
    return Surprise(output, *(float((part > 0).mean()) for part in parts), *(float(part.mean()) for part in parts))


def _lags(readings: Millivolts) -> NDArray[np.float64]:
    """[n] -> [n - ORDER + 1, ORDER + 1]: at each reading the last ORDER ones, and 1 for the constant."""
    past = sliding_window_view(readings, ORDER)
    return np.column_stack([past, np.ones(len(past))])
