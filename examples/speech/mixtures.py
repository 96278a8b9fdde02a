"""Recordings of which it is known when somebody speaks: phrases, pauses between them, and noise over all of it.

The speech is LibriVox's, from the package pocketsphinx-testdata (`examples/programs/fetch.py` fetches it). Run as a script, it
writes one such mixture as a wav file, to be heard and fed to `vad.py`, and prints when somebody speaks in it.

Where speech is, is told from the clean recording by its loudness alone: a piece of 8 ms is loud if its power is within 30 dB of
what 95 of 100 pieces of its recording stay below. Loud runs shorter than 32 ms are not counted (a click of the lips), and what
is quiet for less than 200 ms between two others belongs to the speech (the closure before a "t": the longest of these recordings
lasts 104 ms). A step of 32 ms is labelled speech if at least half of it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever it is started

from programs.fetch import RECORDINGS, files, missing
from speech.segments import MILLISECOND, RATE, STEP
from speech.wav import read, write

Wave = NDArray[np.float64]  # samples [n] at RATE, full scale 1
Marks = NDArray[np.bool_]
Drawn = TypeVar("Drawn")

SECONDS = 16  # of a mixture
PIECE = 8 * MILLISECOND  # samples
_LOUD, _BELOW = 95, 30.0  # percentile of a recording's pieces, and dB below it
_CLICK = 32 * MILLISECOND
_CLOSURE = 200 * MILLISECOND
_DIP, _DIP_PIECES = 20.0, 4  # dB, and pieces: a recording may be cut into phrases where it is so soft for so long
_SHORTEST, _LONGEST = 1 * RATE, 3 * RATE  # of a phrase
_PAUSE = (0.6, 2.0)  # seconds between phrases
_LEVEL = (-12.0, 0.0)  # dB of the speech's peak, relative to half of full scale: recordings are not equally loud
_PEAK = 0.95  # of full scale: louder mixtures are turned down, noise and speech alike
_VOICES = 8  # of a babble
TUNING = ("0870", "0930")  # recordings on which thresholds are chosen; the others are judged on


class Span(NamedTuple):
    """Samples begin <= i < end."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """A recording, and when somebody speaks in it."""

    samples: NDArray[np.int16]  # [n]
    spans: tuple[Span, ...]  # of speech, in order and apart

    @property
    def labels(self) -> Marks:
        """Marks each whole step that is speech: [T]."""
        return marks(self.spans, len(self.samples) // STEP)


@dataclass(frozen=True, slots=True)
class Recording:
    """Somebody's speech without noise, and where it is."""

    samples: Wave
    spans: tuple[Span, ...]  # of speech
    phrases: tuple[Span, ...]  # of which each is speech from begin to end


def marks(spans: Sequence[Span], steps: int) -> Marks:
    """Marks those of so many steps that lie in spans by half or more of their samples."""
    inside = np.zeros(steps * STEP, dtype=bool)
    for begin, end in spans:
        inside[begin:end] = True
    marked: Marks = inside.reshape(steps, STEP).mean(axis=1) >= 0.5
    return marked


@cache
def recordings(tuning: bool) -> list[Recording]:
    """Those to choose thresholds on, or those to judge on. Raises FileNotFoundError if they were not fetched."""
    if why := missing(RECORDINGS):
        raise FileNotFoundError(why)
    chosen = [path for path in files(RECORDINGS) if path.stem.endswith(TUNING) == tuning]
    return [examine(read(path, RATE) / 32768) for path in chosen]


def examine(samples: Wave) -> Recording:
    """Finds speech in a clean recording, by the rule that this module states, and the phrases into which it may be cut."""
    loudness = _loudness(samples)
    spans = _bridged(loudness > -_BELOW)
    dips = [run for run in runs(loudness < -_DIP) if run.end - run.begin >= _DIP_PIECES]
    cuts = [PIECE * (dip.begin + int(loudness[dip.begin : dip.end].argmin())) for dip in dips]
    return Recording(samples, tuple(spans), tuple(phrase for span in spans for phrase in _phrases(span, cuts)))


def _loudness(samples: Wave) -> Wave:
    """Power of each piece of a recording, in dB above what most pieces of it stay below."""
    pieces = samples[: len(samples) // PIECE * PIECE].reshape(-1, PIECE)
    power = 10 * np.log10((pieces**2).mean(axis=1) + 1e-12)
    loudness: Wave = power - np.percentile(power, _LOUD)
    return loudness


def _phrases(span: Span, cuts: Sequence[int]) -> Iterator[Span]:
    """Phrases of a fitting length that begin and end with the span or at a cut."""
    edges = [span.begin, *(cut for cut in cuts if span.begin < cut < span.end), span.end]
    for begin, end in combinations(edges, 2):
        if _SHORTEST <= end - begin <= _LONGEST:
            yield Span(begin, end)


def _bridged(loud: Marks) -> list[Span]:
    """Spans of speech in samples: loud runs without clicks, joined over closures."""
    spans: list[Span] = []
    for run in runs(loud):
        begin, end = PIECE * run.begin, PIECE * run.end
        if end - begin < _CLICK:
            continue
        if spans and begin - spans[-1].end < _CLOSURE:
            begin = spans.pop().begin
        spans.append(Span(begin, end))
    return spans


def runs(marked: Marks) -> list[Span]:
    """The runs of true values, in order."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False))
    return [Span(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def speech(spoken: Sequence[Recording], random: np.random.Generator) -> tuple[Wave, tuple[Span, ...]]:
    """Phrases drawn at random, with pauses of digital silence before, between and behind them; and where they are."""
    track, spans = np.zeros(SECONDS * RATE), []
    at = _drawn(random, _PAUSE)
    while True:
        recording = _one(spoken, random)
        phrase = _one(recording.phrases, random)
        span = Span(at, at + phrase.end - phrase.begin)
        pause = _drawn(random, _PAUSE)
        if span.end + pause > len(track):
            break
        track[span.begin : span.end] = _faded(recording.samples[phrase.begin : phrase.end])
        spans.append(span)
        at = span.end + pause
    peak = 0.5 * 10 ** (random.uniform(*_LEVEL) / 20)
    return track * peak / np.abs(track).max(), tuple(spans)


def _one(of: Sequence[Drawn], random: np.random.Generator) -> Drawn:
    return of[int(random.integers(len(of)))]


def _drawn(random: np.random.Generator, seconds: tuple[float, float]) -> int:
    return int(RATE * random.uniform(*seconds))


def _faded(samples: Wave) -> Wave:
    """Fades in and out within a piece, so that the cut is no click."""
    ramp = np.arange(PIECE) / PIECE
    gain = np.ones(len(samples))
    gain[:PIECE], gain[-PIECE:] = ramp, ramp[::-1]
    return samples * gain


def white(count: int, random: np.random.Generator, others: Sequence[Recording]) -> Wave:
    """Noise with the same power at every frequency: a hiss."""
    return random.standard_normal(count)


def pink(count: int, random: np.random.Generator, others: Sequence[Recording]) -> Wave:
    """Noise whose power falls with the frequency, from 20 Hz on: wind, a room, a road."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    noise: Wave = np.fft.irfft(np.where(frequency < 20, 0, spectrum / np.sqrt(np.maximum(frequency, 20))), count)
    return noise


def hum(count: int, random: np.random.Generator, others: Sequence[Recording]) -> Wave:
    """Mains: 50 Hz and nine harmonics, each weaker than the one before, with phases drawn at random."""
    seconds = np.arange(count) / RATE
    waves = [np.sin(2 * np.pi * (50 * k * seconds + random.random())) / k for k in range(1, 11)]
    noise: Wave = np.sum(waves, axis=0)
    return noise


def knocks(count: int, random: np.random.Generator, others: Sequence[Recording]) -> Wave:
    """Two knocks a second, at random: bursts of a hiss that die away within 100 ms."""
    length = 100 * MILLISECOND
    noise = np.zeros(count + length)
    for begin in random.integers(count, size=random.poisson(2 * count / RATE)):
        decay = np.exp(-np.arange(length) / (20 * MILLISECOND))
        noise[begin : begin + length] += random.uniform(0.3, 1) * decay * random.standard_normal(length)
    return noise[:count]


def babble(count: int, random: np.random.Generator, others: Sequence[Recording]) -> Wave:
    """Eight voices at once, of recordings that nothing else in the mixture is of, played backwards: a crowd."""
    noise = np.zeros(count)
    for _ in range(_VOICES):
        voice = _one(others, random).samples[::-1]
        shifted = np.roll(np.resize(voice, count), random.integers(count))
        noise += shifted / np.sqrt((voice**2).mean())
    return noise


NOISES: dict[str, Callable[[int, np.random.Generator, Sequence[Recording]], Wave]] = {
    "white": white,
    "pink": pink,
    "hum": hum,
    "knocks": knocks,
    "babble": babble,
}


def mixed(track: Wave, spans: Sequence[Span], noise: Wave, snr: float) -> Wave:
    """Speech with noise so strong that the power of speech, within its spans, is `snr` dB above that of the noise, everywhere."""
    spoken = np.concatenate([track[begin:end] for begin, end in spans])
    gain = np.sqrt((spoken**2).mean() / (noise**2).mean()) * 10 ** (-snr / 20)
    both: Wave = track + gain * noise
    return both


def mixture(tuning: bool, noise: str | None, snr: float, seed: int) -> Mixture:
    """A mixture, always the same for the same arguments. noise: of NOISES; None: none, and `snr` (dB) says nothing.

    The speech and the noise are the same at each `snr`. Raises FileNotFoundError if the recordings were not fetched.
    """
    spoken, others = recordings(tuning), recordings(not tuning)
    random = np.random.default_rng([seed, tuning, list(NOISES).index(noise) if noise else len(NOISES)])
    track, spans = speech(spoken, random)
    if noise:
        track = mixed(track, spans, NOISES[noise](len(track), random, others), snr)
    track = track * min(1.0, _PEAK / np.abs(track).max())
    return Mixture(np.round(track * 32767).astype(np.int16), spans)


def main() -> None:
    """Writes a mixture, and prints when somebody speaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wav", type=Path, help="file to write")
    parser.add_argument("--noise", choices=NOISES, help="default: none")
    parser.add_argument("--snr", type=float, default=10.0, help="dB of speech above noise; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    try:
        made = mixture(False, options.noise, options.snr, options.seed)
        options.wav.parent.mkdir(parents=True, exist_ok=True)
        write(options.wav, made.samples, RATE)
    except OSError as error:
        sys.exit(str(error))
    for begin, end in made.spans:
        print(f"{begin / RATE:.2f} s to {end / RATE:.2f} s")


if __name__ == "__main__":
    main()
