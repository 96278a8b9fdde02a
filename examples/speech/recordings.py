"""Recordings of people: samples at 8 kHz out of the files that `fetch.py` fetches, or out of a WAV file of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from speech import wav
from speech.features import RATE, Floats


def read_wav(path: Path) -> Floats:
    """Samples [n] of a WAV file, between -1 and 1. Raises as `wav.read` does."""
    return (wav.read(path, RATE) / 32768).astype(np.float32)


def read_mu_law(path: Path) -> Floats:
    """Samples [n] of a file of bytes in mu-law (ITU-T G.711) without a header, between -1 and 1."""
    inverted = ~np.frombuffer(path.read_bytes(), np.uint8)
    exponent, mantissa = (inverted >> 4) & 7, (inverted & 15).astype(np.int32)
    size = ((2 * mantissa + 33) << exponent) - 33  # 14 bits with the sign
    return (np.where(inverted & 128, -size, size) / 8192).astype(np.float32)


def read(path: Path) -> Floats:
    """Samples [n] of a recording, by what its name ends with: `.au` is mu-law without a header, as saytime has it."""
    return read_mu_law(path) if path.suffix == ".au" else read_wav(path)
