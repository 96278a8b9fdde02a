"""Recordings as wav files: one channel, 16 bits, at the rate of the model that hears them."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CHANNELS, _BYTES = 1, 2  # one voice; of a sample, in signed whole numbers


class WavError(Exception):
    """A file is no recording that can be fed."""


def read(path: Path, rate: int) -> NDArray[np.int16]:
    """The samples [n] of a file, `rate` of them a second. Raises WavError for a file that is something else, and OSError for one
    that cannot be read."""
    try:
        with wave.open(str(path)) as file:
            _check(path, file, rate)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (wave.Error, EOFError) as error:
        why = str(error) or "it is too short"
        raise WavError(f"{path}: expected a wav file of plain samples, got something else: {why}; {_advice(rate)}") from None
    if not len(samples):
        raise WavError(f"{path}: expected a recording, got one without a sample")
    return samples


def _check(path: Path, file: wave.Wave_read, rate: int) -> None:
    found = file.getframerate(), file.getnchannels(), 8 * file.getsampwidth()
    for what, expected, got in zip(
        ("samples per second", "channel", "bits per sample"), (rate, _CHANNELS, 8 * _BYTES), found, strict=True
    ):
        if got != expected:
            raise WavError(f"{path}: expected {expected} {what}, got {got}; {_advice(rate)}")


def _advice(rate: int) -> str:
    return f"`sox IN -r {rate} -c {_CHANNELS} -b {8 * _BYTES} OUT.wav` converts a recording"


def write(path: Path, samples: NDArray[np.int16], rate: int) -> None:
    """Writes samples [n], `rate` of them a second. Raises OSError if it cannot."""
    with wave.open(str(path), "wb") as file:
        file.setframerate(rate)
        file.setnchannels(_CHANNELS)
        file.setsampwidth(_BYTES)
        file.writeframes(samples.astype("<i2").tobytes())
