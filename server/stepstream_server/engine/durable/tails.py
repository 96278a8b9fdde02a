"""Tails: what rollouts have drawn last in durable sessions that they commit to.

A caller whose rollout broke may not have heard all that the session has applied since, and the store may have it: those draws are
told again to whoever goes on from the last one that was heard.
"""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.books.session_table import SessionTable
from stepstream_server.engine.ports import Ints, Tensor

KEPT_DRAWS = 1024  # four times what a caller is told ahead of what it has taken; the others may lie in its connection
_LEAST_ROOM = 16  # draws, of a tail that begins


class Tail:
    """The last draws of a rollout. What was read of it never changes: draws are added behind it, or to another array."""

    def __init__(self, draws: Tensor) -> None:
        """draws: [n, *shape], the first ones."""
        self._room, self._count = draws, len(draws)

    @property
    def draws(self) -> Tensor:
        """KEPT_DRAWS at most, in order: [draws, *shape]."""
        return self._room[max(0, self._count - KEPT_DRAWS) : self._count]

    def append(self, draw: Tensor) -> None:
        """Adds one, [*shape]."""
        if self._count == len(self._room):
            kept = self.draws
            self._room = np.empty((max(_LEAST_ROOM, 2 * len(kept)), *kept.shape[1:]), kept.dtype)
            self._room[: len(kept)], self._count = kept, len(kept)
        self._room[self._count] = draw
        self._count += 1


class Tails:
    """The last draws of each session's last rollout, which end at its next step as long as nothing else is applied."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._of: dict[int, Tail] = {}  # by session

    def put(self, session: int, tail: Tail) -> None:
        """All that was applied to a session last are these draws."""
        self._of[session] = tail

    def put_stored(self, session: int, drawn: Tensor) -> None:
        """A session was restored that a rollout has committed to. drawn: [draws, *shape]."""
        self._of[session] = Tail(drawn)

    def drawn(self, session: int) -> Tensor | None:
        """The draws, [draws, *shape]; None where there are none, or something else was applied since."""
        tail = self._of.get(session)
        if tail is None or self._table.sessions["rolled_to"][session] != self._table.next_seq[session]:
            return None
        return tail.draws

    def forget(self, sessions: Ints) -> None:
        """Sessions have ended, or something else was applied to them."""
        if self._of:
            for session in sessions.tolist():
                self._of.pop(session, None)
