"""Features that the `digits` model is fed, against a reference, and the reading of its answers, by hand-made cases."""

from __future__ import annotations

import math
import random
import wave
from pathlib import Path

import numpy as np
import pytest
from speech.decoding import Decoder, matches
from speech.features import BANDS, FLOOR, FRAMES, HIGHEST, HOP, LOWEST, RATE, SPAN, STEP, WINDOW, Floats, LogMel, frames
from speech.joined import join, noisy, one_after_the_other, strings, trim
from speech.recordings import read_mu_law, read_wav
from speech.voices import parts, resample
from speech.wav import WavError


@pytest.fixture
def speech() -> Floats:
    """Two seconds of noise whose loudness rises and falls, as speech's does; the end is not a whole step."""
    draw = np.random.default_rng(1)
    count = 2 * RATE + 13
    return (draw.normal(0, 0.1, count) * np.abs(np.sin(np.arange(count) / 900))).astype(np.float32)


def _reference(samples: Floats) -> Floats:
    """Log-mel energies by torch's own transform and by filters written out bin by bin from the textbook's formula."""
    torch = pytest.importorskip("torch", reason="the reference is torch.stft")
    margin = (256 - WINDOW) // 2  # where torch puts a window into a longer transform
    padded = torch.nn.functional.pad(torch.from_numpy(samples).double(), (margin, margin))
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    spectrum = torch.stft(padded, 256, HOP, WINDOW, window, center=False, return_complex=True).abs().square().numpy()
    mels = [2595 * math.log10(1 + hertz / 700) for hertz in (LOWEST, HIGHEST)]
    places = [mels[0] + (mels[1] - mels[0]) * k / (BANDS + 1) for k in range(BANDS + 2)]
    corners = [700 * (10 ** (place / 2595) - 1) for place in places]
    energies = np.zeros((spectrum.shape[1], BANDS))
    for band in range(BANDS):
        left, top, right = corners[band : band + 3]
        for k, power in enumerate(spectrum):
            hertz = k * RATE / 256
            if left < hertz <= top:
                energies[:, band] += power * (hertz - left) / (top - left)
            elif top < hertz < right:
                energies[:, band] += power * (right - hertz) / (right - top)
    return np.log(np.maximum(energies, FLOOR)).astype(np.float32)


def test_features_are_those_of_an_independent_implementation(speech: Floats) -> None:
    """torch.stft and the mel filters of the textbook."""
    np.testing.assert_allclose(frames(speech), _reference(speech), atol=1e-4)


def test_features_do_not_depend_on_how_samples_are_cut(speech: Floats) -> None:
    """To the bit: sample by sample at times, and all at once."""
    whole = LogMel().feed(speech)
    assert whole.shape == ((len(speech) - SPAN) // STEP + 1, FRAMES * BANDS)
    assert np.array_equal(whole.reshape(-1, BANDS), frames(speech)[: FRAMES * len(whole)])
    draw = np.random.default_rng(2)
    for pieces in (2, 10, 100, 1000):
        stream = LogMel()
        cuts = np.sort(draw.integers(0, len(speech), pieces))
        assert np.array_equal(np.concatenate([stream.feed(part) for part in np.split(speech, cuts)]), whole)


def test_a_step_is_out_with_its_last_sample() -> None:
    """And silence, whose logarithm would be infinite, is a finite number."""
    stream = LogMel()
    assert stream.feed(np.zeros(SPAN - 1)).shape == (0, FRAMES * BANDS)
    assert np.array_equal(stream.feed([0.0]), np.full((1, FRAMES * BANDS), math.log(FLOOR), np.float32))
    assert len(stream.feed(np.zeros(STEP - 1))) == 0


def _scores(labels: list[int]) -> Floats:
    return np.eye(4, dtype=np.float32)[labels]


@pytest.mark.parametrize(
    ("highest", "words"),
    [
        ([0, 0, 0], []),
        ([0, 1, 0, 2], [(1, 1), (3, 2)]),
        ([1, 1, 1, 0], [(0, 1)]),  # a label that lasts is one word
        ([1, 1, 0, 1, 1], [(0, 1), (3, 1)]),  # with a blank in between it is two
        ([1, 2, 1], [(0, 1), (1, 2), (2, 1)]),
    ],
)
def test_greedy_decoding(highest: list[int], words: list[tuple[int, int]]) -> None:
    """All at once, or step by step, as the answers come."""
    assert Decoder().feed(_scores(highest)) == words
    decoder = Decoder()
    assert [(step, label) for step, one in enumerate(_scores(highest)) for _, label in decoder.feed([one])] == words


@pytest.mark.parametrize(
    ("said", "heard", "errors", "right"),
    [
        ([1, 2, 3], [1, 2, 3], 0, [(0, 0), (1, 1), (2, 2)]),
        ([1, 2, 3], [1, 3], 1, [(0, 0), (2, 1)]),
        ([1, 2], [1, 5, 2], 1, [(0, 0), (1, 2)]),
        ([1, 2, 3], [1, 4, 3], 1, [(0, 0), (2, 2)]),
        ([1, 2], [], 2, []),
        ([], [1], 1, []),
    ],
)
def test_errors_are_counted_as_edits(said: list[int], heard: list[int], errors: int, right: list[tuple[int, int]]) -> None:
    """And what is right is told by places."""
    found, matched = matches(said, heard)
    assert (found, sorted(matched)) == (errors, right)


def test_joined_words_end_where_they_are_said_to() -> None:
    """The last loud sample before each end is right in front of it; behind it is nothing but hiss."""
    tone = np.sin(np.arange(1600) / 3).astype(np.float32) * 0.5
    padded = np.concatenate([np.zeros(800, np.float32), tone, np.zeros(960, np.float32)])
    assert np.array_equal(trim(padded), tone)
    for said in strings({3: tone, 5: tone[:800]}, 10, 6, random.Random(0)):
        assert len(said.words) == len(said.ends)
        for end in said.ends:
            assert np.abs(said.samples[end - 40 : end]).max() > 0.3
            assert np.abs(said.samples[end : end + 300]).max() < 0.01


def test_the_same_seed_joins_the_same_string() -> None:
    """Word for word and sample for sample."""
    tone = np.full(800, 0.5, np.float32)
    first, again, other = (join([(1, tone), (2, tone)], random.Random(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.samples, again.samples)
    assert first.ends == again.ends != other.ends


def test_strings_follow_each_other_in_one() -> None:
    """Ends move by what comes before them; noise of 20 dB has a hundredth of the energy."""
    tone = np.sin(np.arange(8000) / 3).astype(np.float32) * 0.5
    first, second = (join([(word, tone)], random.Random(word)) for word in (1, 2))
    both = one_after_the_other([first, second])
    assert both.words == (1, 2)
    assert both.ends == (first.ends[0], len(first.samples) + second.ends[0])
    assert np.array_equal(both.samples, np.concatenate([first.samples, second.samples]))
    added = noisy(both, 20, np.random.default_rng(0)).samples - both.samples
    assert np.mean(added**2) / np.mean(both.samples**2) == pytest.approx(0.01, rel=0.05)


def test_mu_law_by_values_of_the_standard(tmp_path: Path) -> None:
    """The largest, the smallest and zero, of both signs (ITU-T G.711, tables 2a and 2b)."""
    (tmp_path / "sound.au").write_bytes(bytes([0x80, 0x00, 0xFF, 0x7F, 0xFE, 0x8F]))
    assert (read_mu_law(tmp_path / "sound.au") * 8192).tolist() == [8031, -8031, 0, 0, 2, 4191]


def test_a_recording_at_another_rate_is_refused(tmp_path: Path) -> None:
    """It would be heard an octave off."""
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(64))
    with pytest.raises(WavError, match="expected 8000 samples per second, got 16000; `sox IN -r 8000 -c 1"):
        read_wav(path)
    path.write_bytes(b"no sound")
    with pytest.raises(WavError, match="expected a wav file of plain samples"):
        read_wav(path)


def test_a_tone_at_another_rate_is_the_same_tone() -> None:
    """22,050 samples per second become 8,000, and what those cannot hold is gone rather than folded back."""
    seconds = np.arange(22050) / 22050
    kept, gone = (0.5 * np.sin(2 * np.pi * hertz * seconds) for hertz in (500, 5000))
    np.testing.assert_allclose(resample(kept + gone, 8000 / 22050), 0.5 * np.sin(np.pi * np.arange(8000) / 8), atol=1e-3)


def test_texts_said_with_pauses_are_told_apart() -> None:
    """A stop within a word is none; where it is not as many texts as expected, that is an error."""
    tone, stop, pause = np.full(4410, 0.5), np.zeros(4410), np.zeros(2 * 22050)
    said = np.concatenate([stop, tone, stop, tone, pause, tone, pause])
    assert [len(part) for part in parts(said, 2)] == [3 * 4410, 4410]
    with pytest.raises(RuntimeError, match="expected 3 texts with pauses between them, got 2"):
        parts(said, 3)
