"""The readings that the ecg model is trained and measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from beats import find_beats, near
from readings import HELD_OUT, RATE, RAW, load, read_csv, split, write_csv


def test_the_committed_held_out_file_is_the_last_fifth_of_the_raw_data() -> None:
    """held_out.csv is exactly the last 5,400 of 27,000 readings, each the mean of four samples in mV."""
    with np.load(RAW) as archive:
        samples = archive["ecg"].astype(np.float64)
    expected = np.array([(group.sum() / 4 - 1024) / 200 for group in samples[-21600:].reshape(5400, 4)])
    held_out = read_csv(HELD_OUT)
    np.testing.assert_array_equal(held_out, expected)
    np.testing.assert_array_equal(held_out, split(load())[1])


def test_deriving_the_held_out_file_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """What readings.py writes is what is committed."""
    write_csv(split(load())[1], tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == HELD_OUT.read_bytes()


def test_no_held_out_reading_is_among_those_trained_on() -> None:
    """The two parts follow each other in time and make up all readings."""
    readings = load()
    trained, held_out = split(readings)
    assert len(trained) == 4 * len(held_out)
    np.testing.assert_array_equal(np.concatenate([trained, held_out]), readings)


def test_a_file_that_is_not_whole_readings_is_refused(tmp_path: Path) -> None:
    """Samples that do not fill the last reading are an error that names the file."""
    np.savez(tmp_path / "cut.npz", ecg=np.zeros(7, np.uint16))
    with pytest.raises(ValueError, match=r"cut\.npz"):
        load(tmp_path / "cut.npz")


def test_beats_are_found_and_told_apart_by_their_width() -> None:
    """A narrow peak is an ordinary beat, a broad one a wide beat; a rise too small for a beat is none."""
    readings = np.zeros(10 * RATE)
    readings[100:103] = [0.6, 1.5, 0.6]
    readings[300:309] = [0.4, 0.9, 1.1, 1.3, 1.5, 1.3, 1.1, 0.9, 0.4]
    readings[500:503] = [0.2, 0.5, 0.2]
    found = find_beats(readings)
    assert [(beat.peak, beat.width, beat.wide) for beat in found] == [(101, 1, False), (304, 7, True)]
    assert np.flatnonzero(near(found[:1], 2, len(readings))).tolist() == [99, 100, 101, 102, 103]


def test_a_beat_cut_off_by_the_end_is_measured_as_far_as_it_goes() -> None:
    """A run above half the height that the readings' end cuts off counts up to the end."""
    readings = np.zeros(5 * RATE)
    readings[-3:] = [1.2, 1.3, 1.4]
    assert [(beat.peak, beat.width) for beat in find_beats(readings)] == [(len(readings) - 1, 3)]
