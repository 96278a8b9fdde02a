"""An n-gram model of bytes, to compare with: interpolated Kneser-Ney with the discounts of Chen and Goodman.

The next byte's probability given the last `context` ones is that of their counts, each lowered by a discount, and what the
discounts have freed is spread as the model with one byte less of context says; at the bottom all bytes are equally likely
(Chen & Goodman, An Empirical Study of Smoothing Techniques for Language Modeling, TR-10-98, Harvard, 1998).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]  # byte strings of one length, up to 8 bytes: the last byte in the lowest bits
Floats = NDArray[np.float64]
BYTE = np.uint64(8)


@dataclass(frozen=True, slots=True)
class Level:
    """The byte strings of one length, and their beginnings: all but the last byte. Both are ascending."""

    grams: Keys
    counts: Floats  # of each string, after the discount
    contexts: Keys
    totals: Floats  # of each context: the counts before the discount
    freed: Floats  # of each context: what the discounts took away

    @classmethod
    def of(cls, grams: Keys, counts: NDArray[np.int64]) -> Level:
        """From strings, ascending, and how often each was counted."""
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        contexts, owner = np.unique(grams >> BYTE, return_inverse=True)
        totals, freed = (np.bincount(owner, weights).astype(np.float64) for weights in (counts, discounts))
        return cls(grams, counts - discounts, contexts, totals, freed)

    def mix(self, grams: Keys, lower: Floats) -> Floats:
        """Probabilities of each string's last byte [n], given `lower`, those with one byte less of context."""
        context, known = _find(self.contexts, grams >> BYTE)
        gram, seen = _find(self.grams, grams)
        mixed = (np.where(seen, self.counts[gram], 0.0) + self.freed[context] * lower) / self.totals[context]
        return np.where(known, mixed, lower)


class Ngram:
    """Trained on whole files; nothing is counted across their ends."""

    def __init__(self, files: Iterable[bytes], context: int = 5) -> None:
        """context: bytes that are looked back at, up to 7."""
        contents = [np.frombuffer(content, np.uint8) for content in files]
        grams, counts = np.unique(np.concatenate([_keys(each, context + 1)[context:] for each in contents]), return_counts=True)
        levels = [Level.of(grams, counts)]
        for length in range(context, 0, -1):
            # A shorter string counts once for each byte that was seen before it: how freely it follows, not how often.
            grams, counts = np.unique(grams & _mask(length), return_counts=True)
            levels.append(Level.of(grams, counts))
        self.levels = levels[::-1]

    def probabilities(self, content: bytes) -> Floats:
        """What each byte [n] was held likely to be, given those before it in the file."""
        bytes_ = np.frombuffer(content, np.uint8)
        likely = np.full(len(bytes_), 1 / 256)
        for context, level in enumerate(self.levels):  # the first bytes of a file have less to look back at
            likely[context:] = level.mix(_keys(bytes_, context + 1)[context:], likely[context:])
        return likely


def _mask(length: int) -> np.uint64:
    return np.uint64((1 << 8 * length) - 1)


def _keys(content: NDArray[np.uint8], length: int) -> Keys:
    """At each byte [n] the string of `length` bytes that ends there; the first ones are too short to be used."""
    keys = np.zeros(len(content), np.uint64)
    for back in range(min(length, len(content))):
        keys[back:] |= content[: len(content) - back].astype(np.uint64) << np.uint64(8 * back)
    return keys


def _find(sorted_keys: Keys, wanted: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each wanted key is, and whether it is there at all."""
    places = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    return places, sorted_keys[places] == wanted


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """What counts of 0, 1, 2 and more are lowered by: Chen and Goodman's estimate from how many strings have counts 1 to 4."""
    ones, twos, threes, fours = (max(int((counts == count).sum()), 1) for count in (1, 2, 3, 4))
    share = ones / (ones + 2 * twos)
    estimates = [0.0, 1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes]
    return np.clip(estimates, 0.0, [0, 1, 2, 3])  # few strings give wild estimates
