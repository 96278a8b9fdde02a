"""Withheld answers: callers that could not replay a step hear of it only once the store has it.

They are one-shot callers, who hold no session, and those of rollouts that commit, who are told so with the last draw. If the
store fails they are told that instead, since nobody knows for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stepstream_server.engine.books.session_table import SessionTable
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import Ints, Tensor
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.tenancy import plain


class Waiting(Protocol):
    """Something that is told once the store has a session's steps below `end`."""

    @property
    def stream(self) -> int:
        """The engine-wide number of the caller."""

    @property
    def handle(self) -> int:
        """The caller's."""

    @property
    def end(self) -> int:
        """The number behind the last step."""

    def release(self, outbox: Outbox) -> None:
        """It has them."""

    def refuse(self, outbox: Outbox, reason: Reason, message: str) -> None:
        """It cannot tell whether it ever will."""

    def forget(self, outbox: Outbox) -> None:
        """The caller has left."""


@dataclass(slots=True)
class Answer:
    """An answered row of a one-shot caller."""

    stream: int
    handle: int
    first: int
    length: int
    outputs: Sequence[Tensor]  # one per declared output: [kept, *shape]

    @property
    def end(self) -> int:
        return self.first + self.length

    def release(self, outbox: Outbox) -> None:
        outbox.answer_one(self.stream, self.handle, self.first, self.length, len(self.outputs[0]), self.outputs)

    def refuse(self, outbox: Outbox, reason: Reason, message: str) -> None:
        outbox.refuse(self.stream, self.handle, self.first, self.length, reason, self.end, message)

    def forget(self, outbox: Outbox) -> None:
        pass


@dataclass(slots=True)
class LastPiece:
    """The draws with which a rollout has ended."""

    stream: int
    end: int
    handle: int = 0

    def release(self, outbox: Outbox) -> None:
        outbox.pieces.release(self.stream)

    def refuse(self, outbox: Outbox, reason: Reason, message: str) -> None:
        self.forget(outbox)
        outbox.refuse(self.stream, self.handle, self.end, 1, reason, self.end, message)

    def forget(self, outbox: Outbox) -> None:
        outbox.pieces.drop(self.stream)


@dataclass(slots=True)
class Left:
    """Those who wait for steps of a session that has ended: they hear once the store knows that."""

    id: str
    epoch: int
    waiting: Sequence[Waiting]


class Withheld:
    """Waiting callers, by session."""

    def __init__(self, table: SessionTable, outbox: Outbox) -> None:
        self._table = table
        self._outbox = outbox
        self._of: dict[int, list[Waiting]] = {}  # by session

    def __len__(self) -> int:
        return len(self._of)

    @property
    def sessions(self) -> list[int]:
        """Those that somebody waits for."""
        return list(self._of)

    def hold(self, session: int, waiting: Waiting) -> None:
        """Somebody waits until the store has some steps of a session."""
        self._of.setdefault(session, []).append(waiting)

    def settle(self, sessions: Iterable[int]) -> None:
        """Tells those who have waited for what the store has of these sessions now."""
        for session in sessions:
            if session in self._of:
                durable_seq = int(self._table.durable_seq[session])
                waiting = self._of.pop(session)
                if later := [each for each in waiting if each.end > durable_seq]:
                    self._of[session] = later
                for each in waiting:
                    if each.end <= durable_seq:
                        self._release(each, durable_seq, int(self._table.epoch[session]))

    def refuse(self, sessions: Iterable[int], error: StepStreamError) -> None:
        """The store has failed to take these sessions."""
        for session in sessions:
            for each in self._of.pop(session, []):
                self._refuse(each, self._table.id(session), error)

    def leave(self, gone: Callable[[int], bool]) -> None:
        """Callers have left, told by their engine-wide numbers: nobody is to be told."""
        for session, waiting in list(self._of.items()):
            left = [each for each in waiting if gone(each.stream)]
            for each in left:
                each.forget(self._outbox)
            if len(left) == len(waiting):
                del self._of[session]
            elif left:
                self._of[session] = [each for each in waiting if not gone(each.stream)]

    def take(self, sessions: Ints) -> list[Left]:
        """Takes what is withheld of sessions that end."""
        found = [session for session in sessions.tolist() if session in self._of]
        return [Left(self._table.id(each), int(self._table.epoch[each]), self._of.pop(each)) for each in found]

    def tell_left(self, left: Sequence[Left], error: StepStreamError | None) -> None:
        """The store knows that the sessions have ended, or has failed to take that."""
        for session in left:
            for each in session.waiting:
                if error is None:
                    self._release(each, each.end, session.epoch)
                else:
                    self._refuse(each, session.id, error)

    def _release(self, waiting: Waiting, durable_seq: int, epoch: int) -> None:
        self._outbox.durable(waiting.stream, waiting.handle, durable_seq, epoch)
        waiting.release(self._outbox)

    def _refuse(self, waiting: Waiting, session_id: str, error: StepStreamError) -> None:
        applied = f"session {plain(session_id)!r} has applied all steps below {waiting.end}"
        message = f"{applied}, which are not in the store yet: {error.message}"
        waiting.refuse(self._outbox, error.reason, message)
