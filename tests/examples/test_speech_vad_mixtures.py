"""Mixtures of which it is known when somebody speaks, and the wav files that they are written to."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from programs.fetch import RECORDINGS
from speech.mixtures import NOISES, PIECE, Mixture, Span, examine, marks, mixture, recordings
from speech.segments import MILLISECOND, RATE, STEP
from speech.wav import WavError, read, write

from support.published import require


def tone(*parts: tuple[float, float]) -> np.ndarray:
    """A hiss of so many ms at so much of full scale, part after part."""
    random = np.random.default_rng(0)
    return np.concatenate([level * random.standard_normal(int(ms * MILLISECOND)) for ms, level in parts])


def test_speech_is_what_is_loud_without_clicks_and_with_closures() -> None:
    """A click of 24 ms is none, a pause of 192 ms within is, one of 200 ms is not."""
    loud, soft = 0.1, 0.001  # 40 dB apart
    samples = tone(
        (80, soft), (24, loud), (400, soft), (400, loud), (192, soft), (400, loud), (200, soft), (400, loud), (80, soft)
    )
    assert examine(samples).spans == (Span(504 * 16, 1496 * 16), Span(1696 * 16, 2096 * 16))


def test_recordings_are_cut_where_they_are_soft() -> None:
    """Phrases last one to three seconds, and begin and end at the quietest piece of a dip or with the speech."""
    loud, dip = 0.1, 0.006  # 24 dB apart: soft, but not silent
    first, second = examine(tone((1200, loud), (40, dip), (1200, loud), (24, dip), (1200, loud))).phrases
    assert (first.begin, second.end) == (0, 3664 * MILLISECOND)  # both together would last more than three seconds
    assert first.end == second.begin
    assert 1200 * MILLISECOND <= first.end < 1240 * MILLISECOND  # 24 ms are no dip


def test_a_step_is_speech_if_half_of_it_is() -> None:
    """One sample less, and it is not."""
    assert marks([Span(STEP // 2, 2 * STEP + STEP // 2 - 1)], 4).tolist() == [True, True, False, False]


@pytest.fixture(scope="module")
def fetched() -> None:
    """The recordings are there."""
    require(RECORDINGS)


@pytest.mark.usefixtures("fetched")
def test_without_noise_there_is_silence_wherever_nobody_speaks() -> None:
    """Pauses are of digital silence, phrases are not, and labels say which is which."""
    made = mixture(False, None, 0, 0)
    speaking = np.zeros(len(made.samples), dtype=bool)
    for begin, end in made.spans:
        speaking[begin:end] = True
        assert RATE <= end - begin <= 3 * RATE
        assert (np.abs(made.samples[begin:end].astype(int)).reshape(-1, PIECE).max(axis=1) > 0).all()
    assert not made.samples[~speaking].any()
    assert (made.labels == (speaking.reshape(-1, STEP).mean(axis=1) >= 0.5)).all()
    assert 0.3 < made.labels.mean() < 0.7


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("snr", [20.0, 0.0])
@pytest.mark.parametrize("noise", NOISES)
def test_speech_is_as_far_above_the_noise_as_it_says(noise: str, snr: float) -> None:
    """Measured on the samples: the noise is what differs from a mixture with next to none."""
    made, clean = mixture(False, noise, snr, 1), mixture(False, noise, 90.0, 1)
    assert made.spans == clean.spans
    speech, both = clean.samples.astype(float), made.samples.astype(float)
    gain = _gain(speech, both, made)
    noise_power = ((both - gain * speech) ** 2).mean()
    spoken = np.concatenate([gain * speech[begin:end] for begin, end in made.spans])
    assert 10 * np.log10((spoken**2).mean() / noise_power) == pytest.approx(
        snr, abs=0.5
    )  # a babble and the speech are somewhat alike


def _gain(speech: np.ndarray, both: np.ndarray, made: Mixture) -> float:
    """How far a mixture was turned down: the part of it that goes with the speech."""
    spoken = np.concatenate([np.arange(begin, end) for begin, end in made.spans])
    return float(speech[spoken] @ both[spoken] / (speech[spoken] @ speech[spoken]))


@pytest.mark.usefixtures("fetched")
def test_mixtures_are_reproduced_and_recordings_kept_apart() -> None:
    """Equal arguments give equal samples, another seed others; no recording is in both sets."""
    first, again, other = (mixture(True, "babble", 5, seed) for seed in (3, 3, 4))
    assert (first.samples == again.samples).all()
    assert first.spans == again.spans != other.spans
    assert [len(recordings(tuning)) for tuning in (True, False)] == [2, 3]
    lengths = [{len(each.samples) for each in recordings(tuning)} for tuning in (True, False)]
    assert not lengths[0] & lengths[1]


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    """To the bit."""
    samples = np.array([0, 1, -1, 32767, -32768], np.int16)
    write(tmp_path / "a.wav", samples, RATE)
    assert read(tmp_path / "a.wav", RATE).tolist() == samples.tolist()


@pytest.mark.parametrize(
    ("rate", "channels", "width", "why"),
    [
        (44_100, 1, 2, "expected 16000 samples per second, got 44100"),
        (16_000, 2, 2, "expected 1 channel, got 2"),
        (16_000, 1, 1, "expected 16 bits per sample, got 8"),
        (16_000, 1, 3, "expected 16 bits per sample, got 24"),
    ],
)
def test_other_recordings_are_refused(tmp_path: Path, rate: int, channels: int, width: int, why: str) -> None:
    """With what was expected, what was found, and the command that converts it."""
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setframerate(rate)
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.writeframes(bytes(channels * width * 100))
    with pytest.raises(WavError, match=f"{path}: {why}; `sox IN -r 16000 -c 1 -b 16 OUT.wav` converts a recording"):
        read(path, RATE)


FLOAT = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 3, 1, 16_000, 64_000, 4, 32, b"data", 0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "expected a wav file of plain samples, got something else: it is too short; `sox"),
        (b"no recording at all", "got something else: file does not start with RIFF id"),
        (FLOAT, "got something else: unknown format: 3; `sox"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """Nothing, text, and numbers that are not whole."""
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(WavError, match=why):
        read(path, RATE)


def test_a_recording_without_a_sample_is_refused(tmp_path: Path) -> None:
    """There is nothing to feed."""
    write(tmp_path / "a.wav", np.array([], np.int16), RATE)
    with pytest.raises(WavError, match="expected a recording, got one without a sample"):
        read(tmp_path / "a.wav", RATE)
