"""The inputs of a durable session that were applied and may have to be told again, to a server restored from before them.

Views of what callers have given; nothing is copied. What the server has told as durable is let go of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Stretch(NamedTuple):
    """Consecutive steps that were applied."""

    first_seq: int
    end: int
    inputs: Sequence[bytes] | None
    """One piece per input of the model; None: resets."""
    offset: int
    """The step of `inputs` that is step `first_seq`."""

    def within(self, start: int, end: int) -> Stretch:
        """The part of it within [start, end), which it overlaps."""
        first = max(self.first_seq, start)
        return Stretch(first, min(self.end, end), self.inputs, self.offset + first - self.first_seq)


class History:
    """Inputs of the steps [first, end) of one session, without gaps."""

    def __init__(self, first: int) -> None:
        self.first = self.end = first
        self._stretches: deque[Stretch] = deque()

    def keep(self, first_seq: int, end: int, inputs: Sequence[bytes] | None, offset: int = 0) -> None:
        """Steps [first_seq, end) were applied. Those that are kept already, or durable, are passed over; where others are missing
        before them, all that is older is of no use any more."""
        if end <= self.end:
            return
        if first_seq > self.end:
            self.let_go(first_seq)
        self._stretches.append(Stretch(first_seq, end, inputs, offset).within(self.end, end))
        self.end = end

    def let_go(self, count: int) -> None:
        """Steps below the count need not be told again, or cannot be."""
        self.first, self.end = max(self.first, count), max(self.end, count)
        while self._stretches and self._stretches[0].end <= self.first:
            self._stretches.popleft()

    def between(self, start: int, end: int) -> Iterator[Stretch]:
        """Gives what is kept of the steps [start, end), in order."""
        return (each.within(start, end) for each in self._stretches if each.first_seq < end and each.end > start)
