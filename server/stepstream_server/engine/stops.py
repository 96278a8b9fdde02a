"""Stop sequences: whether the tokens of a rollout end with one, and which of them may be told already.

A token that may turn out to be the beginning of a stop sequence is held until that is decided. All sequences are followed at
once: a bit for each place of each says whether the last tokens are the sequence up to there (Baeza-Yates and Gonnet, A New
Approach to Text Searching, CACM 1992), so that a token costs the same whatever the sequences and the tokens are.
"""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Follows the tokens of one rollout. Counts are of those that have been neither let go nor dropped."""

    def __init__(self, sequences: Sequence[tuple[int, ...]]) -> None:
        """sequences: none of them empty; none at all: every token is let go at once. Of several that end at the same token
        the longest counts, so that nothing of a stop sequence is let go."""
        self._width = max(1, len(sequences))  # bits of one place: the first places of all sequences, then the second ones, ...
        self._firsts = (1 << len(sequences)) - 1
        self._ends = 0
        self._places: dict[int, int] = {}  # where each token stands
        for number, sequence in enumerate(sequences):
            bit = 1 << number
            for token in sequence:
                self._places[token] = self._places.get(token, 0) | bit
                bit <<= self._width
            self._ends |= bit >> self._width
        self._begun = 0  # the places up to which the last tokens are a sequence
        self._held = 0

    def take(self, token: int) -> tuple[int, bool]:
        """Adds a token. Returns how many of the oldest tokens can be let go, and whether the others are a stop sequence."""
        self._begun = (self._begun << self._width | self._firsts) & self._places.get(token, 0)
        ended = self._begun & self._ends
        held, self._held = self._held + 1, self._longest(ended or self._begun)
        return held - self._held, ended > 0

    def _longest(self, places: int) -> int:
        """How many tokens the furthest of the places takes."""
        return -(-places.bit_length() // self._width)
