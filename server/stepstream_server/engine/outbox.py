"""The outbox: what a turn has to say, collected in order and handed to each front door at once.

Outcomes of one session leave in input order: answers in the order in which they were added, then errors. The engine keeps to
that by answering nothing more of a session in a turn that has refused it something.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.pieces import Pieces, moved
from stepstream_server.engine.ports import (
    Answers,
    Delivery,
    Detached,
    Ending,
    Ints,
    Reply,
    Rolled,
    RowErrors,
    Tensor,
)
from stepstream_server.errors import Reason
from stepstream_server.spec import TensorSpec

IntOrInts = TypeVar("IntOrInts", int, Ints)

# The engine's own number for a stream: which door it belongs to, then the door's number for it.
_STREAM_BITS = 40
_STREAM_MASK = (1 << _STREAM_BITS) - 1


def global_stream(door: int, stream: IntOrInts) -> IntOrInts:
    """The engine-wide number of a door's stream, or the numbers of several."""
    return door << _STREAM_BITS | stream


def door_of(stream: int) -> int:
    """The door that an engine-wide stream number belongs to."""
    return stream >> _STREAM_BITS


def _local(stream: int) -> int:
    return stream & _STREAM_MASK


@dataclass(slots=True)
class _Mail:
    """What is ready for one door, but for answers."""

    replies: list[Reply] = field(default_factory=list)
    errors: RowErrors = field(default_factory=RowErrors)
    detached: Detached = field(default_factory=Detached)


class Outbox:
    """Collects one turn's outcomes; `empty` sorts them by door and stream."""

    def __init__(self, outputs: Sequence[TensorSpec], hold_seconds: float) -> None:
        """hold_seconds: how long what rollouts draw may wait for what they draw next."""
        self._specs = outputs
        self._mail: dict[int, _Mail] = {}
        self._heard: Counter[int] = Counter()  # parcels, by door
        self._rows: list[Ints] = []  # each [5, n]: stream, tag, first, length, kept
        self._outputs: list[Sequence[Tensor]] = []  # beside it: one [sum of kept, *shape] per output
        self.pieces = Pieces(outputs, hold_seconds)  # of rollouts

    def heard(self, door: int) -> None:
        """A parcel of the door has been taken in."""
        self._heard[door] += 1
        self._of(door)

    def reply(self, door: int, reply: Reply) -> None:
        self._of(door).replies.append(reply)

    def answer(
        self, streams: Ints, tags: Ints, first_seqs: Ints, lengths: Ints, kept: Ints, outputs: Sequence[Tensor] | None
    ) -> None:
        """Adds answered rows; outputs [sum of kept, *shape] each, or None if no row has any."""
        self._rows.append(np.array([streams, tags, first_seqs, lengths, kept], np.int64))
        self._outputs.append(outputs or [np.zeros((0, *spec.shape), spec.dtype) for spec in self._specs])

    def answer_one(self, stream: int, tag: int, first_seq: int, length: int, kept: int, outputs: Sequence[Tensor] | None) -> None:
        """Adds one answered row; outputs [kept, *shape] each."""
        streams, tags, first_seqs, lengths, kepts = np.array([[stream], [tag], [first_seq], [length], [kept]], np.int64)
        self.answer(streams, tags, first_seqs, lengths, kepts, outputs)

    def refuse(self, stream: int, tag: int, first_seq: int, length: int, reason: Reason, expected: int, message: str) -> None:
        """Adds one row's refusal or failure."""
        errors = self._of(door_of(stream)).errors
        errors.streams.append(_local(stream))
        errors.tags.append(tag)
        errors.first_seqs.append(first_seq)
        errors.lengths.append(length)
        errors.reasons.append(reason)
        errors.expected_seqs.append(expected)
        errors.messages.append(message)

    def detached(self, stream: int, tag: int, ending: Ending) -> None:
        """Says that a handle no longer stands for a session."""
        detached = self._of(door_of(stream)).detached
        detached.streams.append(_local(stream))
        detached.tags.append(tag)
        detached.endings.append(ending)

    def empty(self, now: float, *, idle: bool) -> dict[int, Delivery]:
        """Everything collected, by door; the outbox is empty afterwards, but for pieces of rollouts that may wait."""
        answers, rolled = self._answers_by_door(), _by_door(self.pieces.take(now, idle=idle))
        mail, self._mail = self._mail, {}
        for door in (*answers, *rolled):
            mail.setdefault(door, _Mail())
        return {
            door: Delivery(
                letters.replies, answers.get(door), letters.errors, letters.detached, self._heard[door], rolled.get(door)
            )
            for door, letters in mail.items()
        }

    def _of(self, door: int) -> _Mail:
        mail = self._mail.get(door)
        if mail is None:
            mail = self._mail[door] = _Mail()
        return mail

    def _answers_by_door(self) -> dict[int, Answers]:
        if not self._rows:
            return {}
        rows = self._rows[0] if len(self._rows) == 1 else np.concatenate(self._rows, axis=1)
        outputs = (
            self._outputs[0] if len(self._outputs) == 1 else [np.concatenate(parts) for parts in zip(*self._outputs, strict=True)]
        )
        self._rows, self._outputs = [], []
        rows, outputs = _group_by_stream(rows, outputs)
        first, last = rows.item(0, 0) >> _STREAM_BITS, rows.item(0, -1) >> _STREAM_BITS
        if first == last:
            return {first: _answers(rows, outputs)}
        edges = [0, *(np.flatnonzero(np.diff(rows[0] >> _STREAM_BITS)) + 1).tolist(), rows.shape[1]]
        ends = np.concatenate([[0], np.cumsum(rows[4])])
        return {
            int(rows[0, start]) >> _STREAM_BITS: _answers(rows[:, start:end], [part[ends[start] : ends[end]] for part in outputs])
            for start, end in itertools.pairwise(edges)
        }


def _answers(rows: Ints, outputs: Sequence[Tensor]) -> Answers:
    """Rows of one door as its own record."""
    streams, tags, first_seqs, lengths, kept = rows
    local = streams & _STREAM_MASK
    return Answers(local, tags.astype(np.uint32), first_seqs, lengths, kept, tuple(outputs))


def _by_door(rolled: Rolled | None) -> dict[int, Rolled]:
    """Each door's own record."""
    if rolled is None:
        return {}
    doors = rolled.pieces["stream"] >> _STREAM_BITS
    rolled.pieces["stream"] &= _STREAM_MASK
    if (doors == doors[0]).all():
        return {int(doors[0]): rolled}
    return {door: _only(rolled, doors == door) for door in np.unique(doors).tolist()}


def _only(rolled: Rolled, mine: NDArray[np.bool_]) -> Rolled:
    """Some of the pieces, by mask."""
    pieces, kept = rolled.pieces, mine.repeat(rolled.pieces["kept"])
    return Rolled(pieces[mine], rolled.values[mine.repeat(pieces["size"])], tuple(each[kept] for each in rolled.outputs))


def _group_by_stream(rows: Ints, outputs: Sequence[Tensor]) -> tuple[Ints, Sequence[Tensor]]:
    """Brings rows of equal streams together, keeping their order, and their outputs with them."""
    streams, kept = rows[0], rows[4]
    if len(streams) == 1 or (streams[1:] >= streams[:-1]).all():
        return rows, outputs
    order = np.argsort(streams, kind="stable")
    index = moved(order, kept)
    return rows[:, order], [part[index] for part in outputs]
