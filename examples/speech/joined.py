"""Strings of digits joined from single words with gaps between them, so that it is known when each word ended."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from speech.features import HOP, RATE, Floats

AUDIBLE = 0.01  # share of a word's loudest 10 ms, as amplitude: 40 dB below; quieter beginnings and ends are silence
GAPS = (0.05, 0.6)  # seconds between words, evenly
LEAD = 0.3  # seconds before the first word
TAIL = 0.8  # seconds behind the last one, in which its label may still come
HISS = 1e-3  # deviation of the noise under a string: a quiet line


@dataclass(frozen=True, slots=True)
class Utterance:
    """A string of digits."""

    samples: Floats  # [n], between -1 and 1
    words: tuple[int, ...]  # places in `voices.WORDS`
    ends: tuple[int, ...]  # per word: the sample at which it is over


def trim(samples: Floats) -> Floats:
    """Samples [n] of a word without the silence around it."""
    count = len(samples) // HOP
    loudness = np.sqrt(np.square(samples[: count * HOP]).reshape(count, HOP).mean(axis=1))
    heard = np.flatnonzero(loudness > AUDIBLE * loudness.max())
    return samples[heard[0] * HOP : (heard[-1] + 1) * HOP]


def join(spoken: Sequence[tuple[int, Floats]], random: random.Random) -> Utterance:
    """Joins words, each with its trimmed samples, with gaps of random lengths and hiss under it all."""
    parts, ends, length = [_silence(LEAD)], [], round(LEAD * RATE)
    for number, (_, samples) in enumerate(spoken):
        length += len(samples)
        ends.append(length)
        gap = _silence(random.uniform(*GAPS) if number + 1 < len(spoken) else TAIL)
        length += len(gap)
        parts += [samples, gap]
    hiss = np.random.default_rng(random.getrandbits(32)).normal(0, HISS, length)
    samples = np.clip(np.concatenate(parts) + hiss, -1, 1).astype(np.float32)
    return Utterance(samples, tuple(word for word, _ in spoken), tuple(ends))


def strings(speaker: Mapping[int, Floats], count: int, longest: int, random: random.Random) -> list[Utterance]:
    """`count` strings of 1 to `longest` digits, any of them anywhere. speaker: word -> its trimmed samples."""
    words = sorted(speaker)
    drawn = [random.choices(words, k=random.randint(1, longest)) for _ in range(count)]
    return [join([(word, speaker[word]) for word in string], random) for string in drawn]


def one_after_the_other(utterances: Sequence[Utterance]) -> Utterance:
    """Utterances as a single one, as a caller who stays."""
    words: list[int] = []
    ends: list[int] = []
    length = 0
    for each in utterances:
        words += each.words
        ends += [length + end for end in each.ends]
        length += len(each.samples)
    return Utterance(np.concatenate([each.samples for each in utterances]), tuple(words), tuple(ends))


def noisy(utterance: Utterance, decibels: float, random: np.random.Generator) -> Utterance:
    """The utterance in white noise, so many dB below it, pauses counted."""
    deviation = np.sqrt(np.mean(np.square(utterance.samples))) * 10 ** (-decibels / 20)
    heard = np.clip(utterance.samples + random.normal(0, deviation, len(utterance.samples)), -1, 1)
    return replace(utterance, samples=heard.astype(np.float32))


def _silence(seconds: float) -> Floats:
    return np.zeros(round(seconds * RATE), np.float32)
