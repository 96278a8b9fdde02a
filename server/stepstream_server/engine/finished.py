"""Finished sessions: the last answer of each, so that a caller who did not hear it can ask again though the session is gone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import Keep, Tensor, TurnReport

_MOST_BYTES = 64 << 20  # of all that is kept: 100,000 answers of 128 numbers, more than end within the time they are kept
_ENTRY_BYTES = 512  # of one answer beside its outputs: its id, its numbers, and its place here


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """How the row was answered with which a session ended."""

    first: int  # number of its first step
    length: int  # steps
    keep: Keep
    outputs: list[Tensor]  # one [kept, *shape] per declared output

    def answers(self, row: np.void) -> bool:
        """Whether a row of the backlog's kind is just the same. Parts of longer rows are not."""
        return bool(row["ends"]) and (row["first"], row["length"], row["keep"]) == (self.first, self.length, self.keep)

    @property
    def bytes(self) -> int:
        return _ENTRY_BYTES + sum(values.nbytes for values in self.outputs)


class Finished:
    """Remembers for a while, the newest first if there is too much of it. Ids are those of sessions that are no more."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers: OrderedDict[str, tuple[float, LastAnswer]] = OrderedDict()  # id -> (forgotten at, answer)
        self._bytes = 0

    def remember(self, session_id: str, answer: LastAnswer, now: float) -> None:
        """Keeps the answer with which a session ended."""
        self.forget([session_id])
        self._answers[session_id] = (now + self._seconds, answer)
        self._bytes += answer.bytes
        while self._answers:
            oldest, (forgotten_at, _) = next(iter(self._answers.items()))
            if self._bytes <= _MOST_BYTES and forgotten_at > now:
                break
            self.forget([oldest])

    def find(self, session_id: str, now: float) -> LastAnswer | None:
        """The answer with which a session ended, while it is remembered."""
        forgotten_at, answer = self._answers.get(session_id, (0.0, None))
        return answer if forgotten_at > now else None

    def forget(self, session_ids: Iterable[str]) -> None:
        """Lets go of the answers of sessions whose ids stand for others now."""
        for session_id in session_ids if self._answers else ():
            _, answer = self._answers.pop(session_id, (0.0, None))
            if answer is not None:
                self._bytes -= answer.bytes


def answer_repeat(answer: LastAnswer | None, row: np.void, outbox: Outbox, report: TurnReport) -> bool:
    """Answers a row that repeats the last one of a session that is gone; False if it does not."""
    if answer is None or not answer.answers(row):
        return False
    stream, tag, first, length = (int(row[name]) for name in ("stream", "tag", "first", "length"))
    outbox.answer_one(stream, tag, first, length, len(answer.outputs[0]), answer.outputs)
    report.duplicates += length
    return True
