"""Finished sessions: the last answer of each, so that a caller who did not hear it can ask again though the session is gone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from stepstream_server.engine.ports import Keep, Tensor

_MOST_BYTES = 64 << 20  # of all that is kept: 100,000 answers of 128 numbers, more than end within the time they are kept
_ENTRY_BYTES = 512  # of one answer beside its outputs: its id, its numbers, and its place here


@dataclass(frozen=True, slots=True)
class _LastAnswer:
    steps: tuple[int, int, Keep]  # number of the first, how many, and which of them have outputs
    outputs: list[Tensor]  # one [kept, *shape] per declared output
    forgotten_at: float  # monotonic seconds

    @property
    def bytes(self) -> int:
        return _ENTRY_BYTES + sum(values.nbytes for values in self.outputs)


class Finished:
    """Remembers for a while, the newest first if there is too much of it. Ids are those of sessions that are no more."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers: OrderedDict[str, _LastAnswer] = OrderedDict()  # by id; the oldest first
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def remember(self, session_id: str, first: int, length: int, keep: Keep, outputs: list[Tensor], now: float) -> None:
        """Keeps the answer with which a session ended. outputs: one [kept, *shape] per declared output."""
        self.forget([session_id])
        answer = _LastAnswer((first, length, keep), outputs, now + self._seconds)
        self._answers[session_id] = answer
        self._bytes += answer.bytes
        while self._answers:
            oldest, answer = next(iter(self._answers.items()))
            if self._bytes <= _MOST_BYTES and answer.forgotten_at > now:
                break
            self.forget([oldest])

    def find(self, session_id: str, first: int, length: int, keep: Keep, now: float) -> list[Tensor] | None:
        """The outputs with which a session's last row was answered, if it asked for just these steps; else None."""
        answer = self._answers.get(session_id)
        if answer is None or answer.forgotten_at <= now or answer.steps != (first, length, keep):
            return None
        return answer.outputs

    def forget(self, session_ids: Iterable[str]) -> None:
        """Lets go of the answers of sessions whose ids stand for others now."""
        for session_id in session_ids if self._answers else ():
            answer = self._answers.pop(session_id, None)
            if answer is not None:
                self._bytes -= answer.bytes
