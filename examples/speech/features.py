"""Features that the `digits` model is fed: log-mel energies of speech at 8 kHz, computed as the samples come.

A frame is a window of 25 ms, every 10 ms. A step is two frames, so that a model steps 50 times a second.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

RATE = 8000  # samples per second
WINDOW = 200  # samples of a frame: 25 ms
HOP = 80  # samples from one frame to the next: 10 ms
BANDS = 32  # mel filters
FRAMES = 2  # of a step
STEP = FRAMES * HOP  # new samples of a step: 20 ms
SPAN = STEP - HOP + WINDOW  # samples that a step is computed from: 35 ms
STEP_SECONDS = STEP / RATE
LOWEST, HIGHEST = 100.0, 3900.0  # Hz, where the first filter begins and the last one ends
FLOOR = 1e-6  # least energy of a band, about that of 16-bit rounding: the logarithm of silence is finite
QUIET = float(np.log(FLOOR))  # what silence is in every band
_FFT = 256  # samples, the window filled up with zeros
Floats = NDArray[np.float32]


def mel(hertz: ArrayLike) -> NDArray[np.float64]:
    """Frequency on the mel scale, by O'Shaughnessy's formula."""
    return np.asarray(2595 * np.log10(1 + np.asarray(hertz) / 700))


def hertz(mel: ArrayLike) -> NDArray[np.float64]:
    """Frequency of a place on the mel scale."""
    return np.asarray(700 * (10 ** (np.asarray(mel) / 2595) - 1))


def _filters() -> NDArray[np.float64]:
    """[BANDS, bins]: triangles, equally wide on the mel scale, each of which begins where the one before has its top."""
    corners = hertz(np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2))[:, np.newaxis]
    begin, top, end = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(_FFT // 2 + 1) * RATE / _FFT
    return np.maximum(0, np.minimum((bins - begin) / (top - begin), (end - bins) / (end - top)))


_FILTERS = _filters()
_HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


def frames(samples: ArrayLike) -> Floats:
    """Log energies [frames, BANDS] of samples [n] between -1 and 1: of all windows that lie within them."""
    given = np.asarray(samples, np.float64)
    if len(given) < WINDOW:
        return np.zeros((0, BANDS), np.float32)
    power = np.abs(np.fft.rfft(sliding_window_view(given, WINDOW)[::HOP] * _HANN, _FFT)) ** 2
    energies = np.einsum(
        "tk,bk->tb", power, _FILTERS
    )  # unlike a product of matrices, it adds in one order for any number of frames
    return np.asarray(np.log(np.maximum(energies, FLOOR)), np.float32)


class LogMel:
    """One stream of samples -> steps of the model. The numbers do not depend on how the samples were cut."""

    def __init__(self) -> None:
        self._waiting = np.zeros(0)

    def feed(self, samples: ArrayLike) -> Floats:
        """Takes samples [n] between -1 and 1, any number; returns the steps [steps, FRAMES * BANDS] that they completed."""
        self._waiting = np.concatenate([self._waiting, np.asarray(samples, np.float64)])
        steps = max(0, (len(self._waiting) - SPAN) // STEP + 1)
        found = frames(self._waiting[: steps * STEP + SPAN - STEP])
        self._waiting = self._waiting[steps * STEP :]
        return found.reshape(steps, FRAMES * BANDS)
