"""Stop sequences: whether the tokens of a rollout end with one, and which of them may be told already.

A token that may turn out to be the beginning of a stop sequence is held until that is decided.
"""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Follows the tokens of one rollout. Counts are of those that have been neither let go nor dropped."""

    def __init__(self, sequences: Sequence[tuple[int, ...]]) -> None:
        """sequences: none of them empty; none at all: every token is let go at once. Of several that end at the same token
        the longest counts, so that nothing of a stop sequence is let go."""
        self._sequences = sorted(sequences, key=len, reverse=True)
        self._held: list[int] = []

    def take(self, token: int) -> tuple[int, bool]:
        """Adds a token. Returns how many of the oldest tokens can be let go, and whether the others are a stop sequence."""
        held = self._held
        held.append(token)
        for sequence in self._sequences:
            if len(sequence) <= len(held) and tuple(held[-len(sequence) :]) == sequence:
                return len(held) - len(sequence), True
        keep = max(map(self._begun, self._sequences), default=0)
        free = len(held) - keep
        del held[:free]
        return free, False

    def _begun(self, sequence: tuple[int, ...]) -> int:
        """How many of the last tokens are the beginning of the sequence; the most, if there are several ways to see it."""
        longest = min(len(sequence) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if tuple(self._held[-n:]) == sequence[:n]), 0)
