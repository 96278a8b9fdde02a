"""Batches for the training of `digits`: utterances drawn from the corpus, said otherwise each time, sorted by length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from speech.augment import augment
from speech.corpus import LONGEST, Speaker, Spoken
from speech.decoding import BLANK
from speech.features import BANDS, FRAMES, QUIET, Floats
from torch import Tensor, nn

SORTED = 8  # batches whose utterances are sorted by length together, so that little is padding
GAP = 40  # frames between words that were said one by one, at most
AROUND = 30  # frames of silence in front of an utterance and behind it, at most
MEASURED = 300  # utterances that the normalisation is found on
UNKNOWN = -100  # cross_entropy's default for what does not count
_SPEECH = 0.95  # share of joined utterances in which somebody speaks
_SINGLE = 0.6  # share of utterances that are joined from single words


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance."""

    steps: Floats  # [n, FRAMES * BANDS]
    track: NDArray[np.int64]  # [n]: the label of the word whose last third is being said, BLANK between; UNKNOWN in strings
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances side by side."""

    steps: Tensor  # [batch, steps, FRAMES * BANDS], padded at the end
    track: Tensor  # [batch, steps], as in `Said`, padded with UNKNOWN
    lengths: Tensor  # [batch]: steps that count
    labels: Tensor  # of all utterances, one after the other
    counts: Tensor  # [batch]: labels of each


def utterance(speakers: list[Speaker], random: np.random.Generator, longest: int = LONGEST) -> Said:
    """Draws single words, at times none, or a string. longest: words, at most; strings come only with LONGEST."""
    speaker = speakers[random.integers(len(speakers))]
    if longest < LONGEST or random.random() < _SINGLE:
        count = random.integers(1, longest + 1) if random.random() < _SPEECH else 0
        spoken = [speaker.words[word] for word in random.integers(len(speaker.words), size=count)]
    else:
        spoken = [speaker.strings[random.integers(len(speaker.strings))]]
    frames, track = _laid_out(spoken, random)
    heard = augment(frames, random)
    track = track[np.linspace(0, len(track) - 1, len(heard)).astype(np.int64)]  # said faster or slower, too
    whole = len(heard) // FRAMES * FRAMES
    steps = heard[:whole].reshape(-1, FRAMES * BANDS)
    return Said(steps, track[FRAMES - 1 : whole : FRAMES], [1 + word for each in spoken for word in each.words])


def _laid_out(spoken: list[Spoken], random: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Frames [n, BANDS] of words with silence around them, and the track [n] that belongs to them."""
    parts = [(_silence(random.integers(4, AROUND)), BLANK)]
    for each in spoken:
        label = 1 + each.words[0] if len(each.words) == 1 else UNKNOWN
        first, last = np.split(each.frames.astype(np.float32), [2 * len(each.frames) // 3])
        parts += [(first, min(label, BLANK)), (last, label), (_silence(random.integers(0, GAP)), BLANK)]
    parts.append((_silence(random.integers(10, AROUND)), BLANK))
    return np.concatenate([frames for frames, _ in parts]), np.concatenate(
        [np.full(len(frames), label) for frames, label in parts]
    )


def _silence(count: int | np.int64) -> Floats:
    return np.full((count, BANDS), QUIET, np.float32)


def batches(speakers: list[Speaker], size: int, updates: range, growing: int, seed: int) -> Iterator[Batch]:
    """One batch for each of the updates, decided by seed and number alone. updates: beginning at a multiple of SORTED.
    growing: the update up to which utterances grow from one word to the longest."""
    for first in range(updates.start, updates.stop, SORTED):
        random = np.random.default_rng([seed, first])
        longest = min(LONGEST, 1 + first * LONGEST // max(1, growing))
        drawn = sorted((utterance(speakers, random, longest) for _ in range(SORTED * size)), key=lambda said: len(said.steps))
        for place in random.permutation(SORTED)[: updates.stop - first]:
            yield _batch(drawn[place * size : (place + 1) * size])


def _batch(several: list[Said]) -> Batch:
    return Batch(
        steps=nn.utils.rnn.pad_sequence([torch.from_numpy(said.steps) for said in several], batch_first=True),
        track=nn.utils.rnn.pad_sequence([torch.from_numpy(said.track) for said in several], True, UNKNOWN),
        lengths=torch.tensor([len(said.steps) for said in several]),
        labels=torch.tensor([label for said in several for label in said.labels]),
        counts=torch.tensor([len(said.labels) for said in several]),
    )


def scaling(speakers: list[Speaker], seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each feature [FRAMES * BANDS] over MEASURED utterances."""
    random = np.random.default_rng([seed, 1 << 40])
    steps = np.concatenate([utterance(speakers, random).steps for _ in range(MEASURED)]).astype(np.float64)
    return steps.mean(axis=0), steps.std(axis=0)
