"""Greedy decoding of CTC (Graves et al., 2006): from the scores of each step to the words that began with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

BLANK = 0  # the label that says nothing


class Decoder:
    """One stream of scores -> words. A word is out as soon as its label has the highest score; the same label counts as a
    second word only when the blank, or another, was highest in between."""

    def __init__(self) -> None:
        self._last = BLANK

    def feed(self, scores: ArrayLike) -> list[tuple[int, int]]:
        """Takes the scores of further steps [steps, labels]; returns each new word, as the step among these and its label."""
        found = []
        for step, label in enumerate(np.asarray(scores).argmax(axis=-1).tolist()):
            if label not in (BLANK, self._last):
                found.append((step, label))
            self._last = label
        return found


def matches(said: Sequence[int], heard: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """The least number of insertions, deletions and substitutions that make `heard` of `said`, and of one such way the places
    (said, heard) of the words that were heard rightly."""
    costs = np.zeros((len(said) + 1, len(heard) + 1), np.int64)
    costs[:, 0], costs[0, :] = np.arange(len(said) + 1), np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        for j, other in enumerate(heard, 1):
            costs[i, j] = min(costs[i - 1, j] + 1, costs[i, j - 1] + 1, costs[i - 1, j - 1] + (word != other))
    return int(costs[-1, -1]), list(_way(costs, said, heard))


def _way(costs: np.ndarray, said: Sequence[int], heard: Sequence[int]) -> Iterable[tuple[int, int]]:
    """The places heard rightly, from the last to the first."""
    i, j = len(said), len(heard)
    while i and j:
        if costs[i, j] == costs[i - 1, j - 1] + (said[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            if said[i] == heard[j]:
                yield i, j
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
