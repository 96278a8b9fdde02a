"""What a model predicted, laid beside what came: the band, the readings outside it, the errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Millivolts = NDArray[np.float64]
LOW, MEDIAN, HIGH = 0.1, 0.5, 0.9  # levels: between the outer two lies the 80 % band

SURPRISE_READINGS = 9  # a surprise is judged over 0.1 s, as long as an ordinary beat's spike
SURPRISE_MILLIVOLTS = 0.2  # mean distance from the band over that time: the height of a P wave, the smallest wave of a beat
SURPRISE_GAP = 27  # readings (0.3 s): surprises closer than that are one


@dataclass(frozen=True, slots=True)
class Score:
    """How good the predictions of one output were."""

    error: float  # mean absolute error of the median, mV
    persistence: float  # the same of "it will stay as it is", mV
    coverage: float  # share of readings inside the band


class Forecast:
    """Predictions of one output, `ahead` readings before each came. Arrays are indexed by reading; NaN: not predicted."""

    def __init__(self, readings: Millivolts, rate: int, levels: Sequence[float], ahead: int) -> None:
        self.readings = readings  # [n], mV
        self.rate = rate  # readings per second
        self.ahead = ahead
        self._columns = [list(levels).index(level) for level in (LOW, MEDIAN, HIGH)]
        self.low, self.median, self.high = np.full((3, len(readings) + ahead), np.nan)

    def record(self, step: int, quantiles: NDArray[np.float32]) -> None:
        """What the model answered at a step: quantiles [levels] of the reading `ahead` steps later, in mV."""
        self.low[step + self.ahead], self.median[step + self.ahead], self.high[step + self.ahead] = quantiles[self._columns]

    @property
    def excess(self) -> Millivolts:
        """How far each reading lies outside the band that was predicted for it, mV: [n]. 0 inside, or if none was predicted."""
        n = len(self.readings)
        excess: Millivolts = np.maximum(self.low[:n] - self.readings, self.readings - self.high[:n])
        return np.where(excess > 0, excess, 0.0)  # a comparison with NaN is false

    def surprises(self) -> list[float]:
        """When readings left the band far and long enough to be worth a look: the first second of each such stretch."""
        weights = np.full(SURPRISE_READINGS, 1 / SURPRISE_READINGS)
        smoothed = np.convolve(self.excess, weights)[: len(self.readings)]
        marked = np.flatnonzero(smoothed > SURPRISE_MILLIVOLTS)
        begins = marked[np.diff(marked, prepend=-SURPRISE_GAP) >= SURPRISE_GAP]
        return [float(each / self.rate) for each in begins]

    def score(self) -> Score:
        """Over all readings that were predicted."""
        predicted = np.flatnonzero(~np.isnan(self.median[: len(self.readings)]))
        came = self.readings[predicted]
        return Score(
            error=float(np.abs(came - self.median[predicted]).mean()),
            persistence=float(np.abs(came - self.readings[predicted - self.ahead]).mean()),
            coverage=float((self.excess[predicted] == 0).mean()),
        )
