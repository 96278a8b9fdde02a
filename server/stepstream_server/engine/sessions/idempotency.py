"""Idempotency: what callers were told whose question is over, so that asking again gives the answer and does nothing.

A request id stands for what was made for it. A session that a one-shot step has ended stands for its last answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from stepstream_server.engine.books.remembered import Remembered
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import Keep, Tensor, TurnReport
from stepstream_server.errors import CallerError, Reason
from stepstream_server.snapshots import Snapshot
from stepstream_server.tenancy import plain

# Of all that is remembered of a kind: snapshots of a thousand sessions that move, 300,000 sessions opened, or 100,000 last
# answers of 128 numbers, more than end within the time they are kept.
MOST_BYTES = 64 << 20
_REQUEST_BYTES = 1024  # of one request: its id, and the fields of a snapshot
_MADE_BYTES = 200  # of one session made: its id, its number, and its place here
_ANSWER_BYTES = 512  # of a last answer beside its outputs: its id, its numbers, and its place here


@dataclass(frozen=True, slots=True)
class Made:
    """A session that was made for a request."""

    session: int
    generation: int
    id: str


@dataclass(frozen=True, slots=True)
class _Request:
    """A request, and what it has made."""

    what: Hashable  # it asked for
    made: list[Made | None]  # None: was refused
    snapshot: Snapshot | None = None

    @property
    def bytes(self) -> int:
        return _REQUEST_BYTES + len(self.made) * _MADE_BYTES + (self.snapshot.bytes if self.snapshot else 0)


class Requests:
    """Requests by their ids, and what was made for them. An empty one is never remembered.

    Whoever asks for something else under an id of before is told nothing of what was asked for then: it may be another caller.
    """

    def __init__(self, seconds: float) -> None:
        self._requests = Remembered[_Request](seconds, MOST_BYTES, lambda request: request.bytes)

    def made(self, request_id: str, what: Hashable, count: int, now: float) -> list[Made | None]:
        """Finds what a former request of this id has made, one entry per session asked for.

        what: is asked for; equal if, and only if, one request repeats the other. Raises CallerError(INVALID_ARGUMENT) if the
        former one asked for something else.
        """
        request = self._find(request_id, what, now)
        return [None] * count if request is None else list(request.made)

    def snapshot(self, request_id: str, what: Hashable, now: float) -> Snapshot | None:
        """Finds what a former export of this id has read out. Raises CallerError as `made` does."""
        request = self._find(request_id, what, now)
        return request.snapshot if request else None

    def remember(
        self, request_id: str, what: Hashable, made: Sequence[Made | None], now: float, snapshot: Snapshot | None = None
    ) -> None:
        """Keeps what a request has made, if anything, in place of what was kept for it before."""
        if request_id and (snapshot or any(made)):
            self._requests.remember(request_id, _Request(what, list(made), snapshot), now)

    def _find(self, request_id: str, what: Hashable, now: float) -> _Request | None:
        request = self._requests.find(request_id, now)
        if request is not None and request.what != what:
            raise other_request(request_id)
        return request


def other_request(request_id: str) -> CallerError:
    """The error for a request id under which something else was asked for."""
    message = f"request_id: expected one that stands for this request or for none yet, got {plain(request_id)!r} of another one"
    return CallerError(Reason.INVALID_ARGUMENT, message, field="request_id")


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """How the row was answered with which a session ended."""

    first: int  # number of its first step
    length: int  # steps
    keep: Keep
    outputs: list[Tensor]  # one [kept, *shape] per declared output

    def answers(self, row: Any) -> bool:
        """Tells whether a row is just the same. Parts of longer rows are not."""
        return bool(row["ends"]) and (row["first"], row["length"], row["keep"]) == (self.first, self.length, self.keep)

    @property
    def bytes(self) -> int:
        return _ANSWER_BYTES + sum(values.nbytes for values in self.outputs)


def answer_repeat(answer: LastAnswer | None, row: Any, stream: int, outbox: Outbox, report: TurnReport) -> bool:
    """Answers a row of a stream, by its engine-wide number, that repeats the last one of a session that is gone; False if it
    does not."""
    if answer is None or not answer.answers(row):
        return False
    handle, first, length = (int(row[name]) for name in ("handle", "first", "length"))
    outbox.answer_one(stream, handle, first, length, len(answer.outputs[0]), answer.outputs)
    report.duplicates += length
    return True
