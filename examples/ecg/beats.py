"""Finds heartbeats in readings and tells wide ones from ordinary ones, by their shape alone.

In a ventricular ectopic beat the excitation spreads outside the heart's fast conducting fibres, so that the beat is wide. This
is a yardstick for what the model flags, made without a cardiologist's annotations; the model knows nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from readings import RATE, Millivolts

BASELINE = 2 * RATE + 1  # readings that the baseline is the median of: about three beats, most of whose time is rest
HEIGHT = 0.7  # mV above the baseline: between the T waves (0.5) and the beats (1.1 and more)
REFRACTORY = round(0.2 * RATE)  # readings within which a heart cannot beat again
WIDE = 6  # readings (67 ms) above half the height; ordinary beats stay there for 2 or 3


@dataclass(frozen=True, slots=True)
class Beat:
    """One beat: the position of its peak and how long it stays above half its height, in readings."""

    peak: int
    width: int

    @property
    def wide(self) -> bool:
        return self.width >= WIDE


def find_beats(readings: Millivolts) -> list[Beat]:
    """The beats of readings [n], in order."""
    padded = np.pad(readings, BASELINE // 2, mode="reflect")
    height = readings - np.median(sliding_window_view(padded, BASELINE), axis=-1)
    peaks = [
        int(at)
        for at in np.flatnonzero(height > HEIGHT)
        if height[at] == height[max(at - REFRACTORY, 0) : at + REFRACTORY + 1].max()
    ]
    return [Beat(peak, _width(height > height[peak] / 2, peak)) for peak in peaks]


def near(beats: list[Beat], reach: int, count: int) -> NDArray[np.bool_]:
    """Which of `count` readings lie within `reach` readings of a beat's peak."""
    marked = np.zeros(count, dtype=bool)
    for beat in beats:
        marked[max(beat.peak - reach, 0) : beat.peak + reach + 1] = True
    return marked


def _width(above: NDArray[np.bool_], peak: int) -> int:
    """Length of the run of true values around `peak`."""
    below = np.flatnonzero(~above)
    right = np.searchsorted(below, peak)
    start = below[right - 1] if right else -1
    stop = below[right] if right < len(below) else len(above)
    return int(stop - start - 1)
