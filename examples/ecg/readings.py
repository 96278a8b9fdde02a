"""Turns the raw electrocardiogram into readings: mV at 90 Hz, the first four fifths to train on, the last fifth held out.

Run as a script, it writes the held-out part as `held_out.csv`. It says what is to be predicted, and nothing of how.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
RAW = HERE / "data" / "ecg_mitbih_208.npz"
HELD_OUT = HERE / "held_out.csv"
RAW_RATE = 360  # samples per second
SAMPLES_PER_READING = 4  # averaged: takes mains hum and sampling noise out, keeps the QRS complex's 0.1 s
RATE = RAW_RATE // SAMPLES_PER_READING  # readings per second
TRAINED_SHARE = 0.8
HORIZONS = {"next": 1, "ahead_9": 9, "ahead_27": 27}  # output of the model -> readings ahead: 11 ms, 100 ms, 300 ms

Millivolts = NDArray[np.float64]


def load(path: Path = RAW) -> Millivolts:
    """All readings [27000] in mV, oldest first. Raises ValueError if the file is not whole readings of one lead."""
    with np.load(path) as archive:
        samples = archive["ecg"]
    if samples.ndim != 1 or len(samples) % SAMPLES_PER_READING:
        raise ValueError(f"{path.name}: ecg has shape {samples.shape}, expected [{SAMPLES_PER_READING} * readings]")
    readings: Millivolts = (samples.reshape(-1, SAMPLES_PER_READING).mean(axis=1) - 1024) / 200
    return readings


def split(readings: Millivolts) -> tuple[Millivolts, Millivolts]:
    """The readings to train on and, after them in time, the held-out ones."""
    cut = round(len(readings) * TRAINED_SHARE)
    return readings[:cut], readings[cut:]


def read_csv(path: Path = HELD_OUT) -> Millivolts:
    """Readings [n] of a CSV file's column `mv`."""
    with path.open(newline="") as file:
        return np.array([float(row["mv"]) for row in csv.DictReader(file)])


def write_csv(readings: Millivolts, path: Path = HELD_OUT) -> None:
    """Writes readings as column `mv`. A reading is a multiple of 1/800 mV, so five decimals are exact."""
    path.write_text("mv\n" + "".join(f"{reading:.5f}\n" for reading in readings))


if __name__ == "__main__":
    write_csv(split(load())[1])
