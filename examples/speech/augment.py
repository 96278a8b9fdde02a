"""Variety for synthetic voices: what other throats, rooms, lines and noises would have made of the same frames.

Works on log energies rather than on samples, so that it costs little and differs every time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from speech.features import BANDS, HIGHEST, LOWEST, QUIET, Floats, hertz, mel

RATES = (0.85, 1.7)  # how much slower it is said: synthesisers hurry
THROATS = (0.85, 1.18)  # factors on frequencies: vocal tracts of other lengths
GAINS = (-12.0, 6.0)  # dB
TILT = 8.0  # dB at both ends of the spectrum, at most: a line's or a microphone's
COLOUR = 4.0  # dB: deviation of smoother bends of it
ECHO = (0.3, 0.65)  # share of the energy 10 ms ago that a room keeps, in every other utterance
CLEAN = (0.0, 55.0)  # dB of speech above noise
MASKED_BANDS, MASKED_FRAMES = 5, 8  # at most, of each of two masks
_DECIBEL = np.log(10) / 10  # in nepers of energy
_EVENLY = np.linspace(-1, 1, BANDS)
_CENTRES = hertz(np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2)[1:-1])


def augment(frames: Floats, random: np.random.Generator) -> Floats:
    """Frames [n, BANDS] as somebody else might have said them elsewhere: as many, but for the rate."""
    warped = _warp(frames, random)
    coloured = np.maximum(warped + _channel(random), QUIET)
    heard = np.logaddexp(_room(coloured, random), _noise(coloured, random))
    return _mask(heard, random).astype(np.float32)


def _warp(frames: Floats, random: np.random.Generator) -> Floats:
    """Said at another rate, by a throat of another length."""
    times = np.linspace(0, len(frames) - 1, max(2, round(len(frames) * random.uniform(*RATES))))
    places = np.interp(_CENTRES * random.uniform(*THROATS), _CENTRES, np.arange(BANDS))
    return _between(_between(frames, times).T, places).T


def _between(rows: Floats, places: NDArray[np.float64]) -> Floats:
    """Rows at places that lie between them."""
    below = np.minimum(places.astype(np.int64), len(rows) - 2)
    share = (places - below)[:, np.newaxis].astype(np.float32)
    return np.asarray(rows[below] * (1 - share) + rows[below + 1] * share)


def _channel(random: np.random.Generator) -> Floats:
    """Gain per band: [BANDS]."""
    bends = [random.normal(0, COLOUR) * np.cos(k * np.pi * (_EVENLY + random.uniform(-1, 1))) for k in (1, 2, 3)]
    decibels = random.uniform(*GAINS) + random.uniform(-TILT, TILT) * _EVENLY + sum(bends)
    return np.asarray(decibels * _DECIBEL, np.float32)


def _room(frames: Floats, random: np.random.Generator) -> Floats:
    """Sounds that fade instead of ending, in every other utterance."""
    if random.random() < 0.5:
        return frames
    kept, energies = random.uniform(*ECHO), np.exp(frames)
    for now in range(1, len(energies)):
        energies[now] += kept * energies[now - 1]
    return np.log(energies)


def _noise(frames: Floats, random: np.random.Generator) -> Floats:
    """Steady noise of any colour, so far below the speech: log energies [n, BANDS]."""
    speech = np.log(np.mean(np.exp(frames)))
    tilt = random.uniform(-20, 10) * _DECIBEL * (_EVENLY + 1) / 2
    level = speech - random.uniform(*CLEAN) * _DECIBEL + tilt - np.log(np.mean(np.exp(tilt)))
    flicker = np.log(random.standard_gamma(3.0, frames.shape, np.float32) / 3 + 1e-3)  # an energy is a sum over few bins
    return np.asarray(np.maximum(level + flicker, QUIET), np.float32)


def _mask(frames: Floats, random: np.random.Generator) -> Floats:
    """Two stretches of bands and two of frames are hidden (Park et al., SpecAugment, 2019)."""
    hidden = frames.copy()
    for along, widest in ((hidden.T, MASKED_BANDS), (hidden, MASKED_FRAMES)):
        for _ in range(2):
            width = int(random.integers(0, widest + 1))
            begin = int(random.integers(0, max(1, len(along) - width)))
            along[begin : begin + width] = frames.mean()
    return hidden
