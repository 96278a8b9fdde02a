"""The rival of a detector of speech, as many would write it: how far the loudness of a step is above that of the noise.

The noise floor falls to every softer step at once and rises slowly, so that it follows a noise that grows and does not follow
speech. Only a band of frequencies counts, which may leave out a hum or a hiss. Segments are made of the dB above the floor by the
same rule as for the model's probabilities, with thresholds of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from speech.segments import RATE, STEP, Rule

Floats = NDArray[np.float64]
QUIETEST = -80.0  # dB of full scale: the level of digital silence, just below the noise of the quietest recordings
_WINDOW = np.hanning(STEP)  # keeps a hum within its own frequencies


@dataclass(frozen=True, slots=True)
class Energy:
    """A detector."""

    band: tuple[int, int]  # Hz
    rise: float  # dB per second, of the floor
    margin: float  # dB above the floor that begin a segment
    back: float  # dB less, below which it is quiet

    @property
    def rule(self) -> Rule:
        """How its scores become segments."""
        return Rule(begin=self.margin, end=self.margin - self.back)

    def scores(self, steps: Floats) -> Floats:
        """dB above the floor [N, T] of recordings [N, T, STEP], full scale 1."""
        return above_floor(loudness(steps, self.band), self.rise)


def loudness(steps: Floats, band: tuple[int, int]) -> Floats:
    """dB of full scale [N, T] within a band of frequencies, of recordings [N, T, STEP]."""
    low, high = (frequency * STEP // RATE for frequency in band)
    spectrum = np.abs(np.fft.rfft(steps * _WINDOW, axis=-1)[..., low : high + 1])
    power: Floats = 2 * (spectrum**2).sum(axis=-1) / (STEP * (_WINDOW**2).sum())
    levels: Floats = np.maximum(QUIETEST, 10 * np.log10(power + 1e-12))
    return levels


def above_floor(levels: Floats, rise: float) -> Floats:
    """dB [N, T] of levels [N, T] above a floor that begins at the first of them and rises by so many dB per second at most."""
    floor, above = levels[:, 0], np.empty_like(levels)
    for step in range(levels.shape[1]):
        floor = np.minimum(floor + rise * STEP / RATE, levels[:, step])
        above[:, step] = levels[:, step] - floor
    return above


# The best that `evaluate_vad.py --tune` finds, on recordings that none is judged on: for all noises, and for one that is known.
ANY_NOISE = Energy((100, 4000), rise=0.5, margin=4.0, back=2.0)
KNOWN_NOISE = {
    "white": Energy((0, 8000), rise=0.25, margin=1.5, back=0.0),
    "pink": Energy((0, 8000), rise=0.25, margin=4.0, back=1.0),
    "hum": Energy((500, 4000), rise=4.0, margin=1.5, back=1.0),
    "knocks": Energy((300, 2000), rise=0.25, margin=24.0, back=0.0),
    "babble": Energy((0, 8000), rise=0.25, margin=12.0, back=1.0),
}
