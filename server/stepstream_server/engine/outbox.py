"""The outbox: what a turn has to say, collected in order and handed to each front door at once.

Outcomes of one session leave in input order: answers in the order in which they were added, then errors. The engine keeps to
that by answering nothing more of a session in a turn that has refused it something.

What rollouts draw may wait. To tell every draw in the turn that made it would cost more than the draw: a message to a worker,
one to the client, and their wake-ups. So draws wait a little for the next ones, longer where there are many rollouts, except
the first of a rollout and the last, and unless the engine has nothing else to do.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import (
    PIECE,
    Answers,
    Delivery,
    Detached,
    Durables,
    Ending,
    Ints,
    Reply,
    Rolled,
    RowErrors,
    Tensor,
)
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.spec import ModelSpec, TensorSpec

IntOrInts = TypeVar("IntOrInts", int, Ints)

_TEXTS = {
    Reason.HANDLE_UNKNOWN: "handle {handle} is not attached to a session on this stream",
    Reason.SEQUENCE_MISMATCH: "step {first} came where step {expected} was expected",
    Reason.ANSWER_DISCARDED: "the answer to step {first} has been acknowledged and is no longer kept",
    Reason.ANSWER_NOT_KEPT: "step {first} was applied without keeping its outputs",
    Reason.WINDOW_FULL: "{length} steps from {first} on do not fit into the window: acknowledge answers first",
    Reason.QUEUE_FULL: "the server has no room for {length} more steps now",
    Reason.DEADLINE_EXCEEDED: "step {first} had not begun to run when its time was over",
    Reason.NON_FINITE_INPUT: "inputs of the {length} steps from {first} on: expected finite numbers, got NaN or infinity",
    Reason.INPUT_OUT_OF_RANGE: "inputs of the {length} steps from {first} on: expected {bounds}, got a number beyond",
    Reason.NON_FINITE_STATE: "the {length} steps from {first} on would make state or outputs non-finite: none was applied, "
    "the session is quarantined until it is reset",
    Reason.MODEL_FAILED: "the model raised an error at one of the {length} steps from {first} on: none was applied, "
    "the session is quarantined until it is reset",
    Reason.SESSION_IN_USE: "a rollout of the session is under way: it takes no steps until that has ended",
    Reason.SESSION_QUARANTINED: "the session is quarantined: reset or close it",
    Reason.INVALID_ARGUMENT: "handles: a session may have one row per message, got another from step {first} on",
    Reason.SERVER_DRAINING: "the server is about to stop: no more steps are admitted",
}

# Between two messages to rollouts, as far as they may wait: sending one takes some 0.2 ms, and others have the rest of the time.
# So 30 rollouts are told every 30 ms, and a thousand every second.
_TELLING_SECONDS = 0.001
_TOLD_AT_ONCE = 4  # for which it is worth looking who waits

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


_NO_ERRORS, _NOBODY_DETACHED = RowErrors(), Detached()  # what most turns have for a door


class _Untold:
    """Pieces of one rollout, in order."""

    __slots__ = ("outputs", "pieces", "since", "values")

    def __init__(self, since: float) -> None:
        self.since = since  # monotonic seconds
        self.pieces: list[tuple[int, ...]] = []  # as PIECE has them
        self.values: list[Tensor] = []  # beside it
        self.outputs: list[Sequence[Tensor]] = []  # of those that have some

    def joined(self) -> tuple[int, ...]:
        """All of them as one."""
        stream, first, *_ = self.pieces[0]
        *_, following, ending, _size, _kept = self.pieces[-1]
        _, _, steps, _, _, size, kept = map(sum, zip(*self.pieces, strict=True))
        return stream, first, steps, following, ending, size, kept


class Pieces:
    """What rollouts have drawn and nobody has been told yet, with engine-wide streams."""

    def __init__(self, outputs: Sequence[TensorSpec], hold_seconds: float) -> None:
        self._specs = outputs
        self._hold_seconds = hold_seconds
        self._untold: dict[int, dict[int, _Untold]] = {}  # by client and stream, of each client in the order in which they came
        self._client: dict[int, int] = {}  # of those streams
        self._looked_at = float("-inf")  # monotonic seconds
        self._room = 0.0  # rollouts that there has been time to tell since then, as far as time can be saved up
        self._urgent: dict[int, None] = {}  # streams of which nothing must wait
        self._withheld: set[int] = set()  # streams of which nothing is told until the store has the rollout

    def add(self, pieces: NDArray[Any], clients: Ints, values: Tensor, outputs: Sequence[Tensor] | None, now: float) -> None:
        """Adds some; all as in `ports.Rolled`, outputs None if no piece has any. clients: whose they are, [n]."""
        begin, kept_begin = 0, 0
        for piece, client in zip(pieces.tolist(), clients.tolist(), strict=True):
            stream, *_, size, kept = piece
            untold_of = self._untold.setdefault(client, {})
            untold = untold_of.get(stream)
            if untold is None:
                untold = untold_of[stream] = _Untold(now)
                self._client[stream] = client
            untold.pieces.append(piece)
            untold.values.append(values[begin : begin + size])
            if outputs and kept:
                untold.outputs.append([each[kept_begin : kept_begin + kept] for each in outputs])
            begin, kept_begin = begin + size, kept_begin + kept

    def hurry(self, stream: int) -> None:
        """Nothing of this rollout must wait."""
        self._urgent[stream] = None

    def withhold(self, stream: int) -> None:
        """Nothing of this rollout is told until it is released, or dropped."""
        self._withheld.add(stream)
        self._urgent.pop(stream, None)

    def release(self, stream: int) -> None:
        """All that was withheld of this rollout is told."""
        self._withheld.discard(stream)
        self.hurry(stream)

    def drop(self, stream: int) -> None:
        """Nothing that was withheld of this rollout is ever told."""
        self._withheld.discard(stream)
        if stream in self._client:
            self._pop(stream)

    @property
    def urgent(self) -> bool:
        """Tells whether something must not wait."""
        return len(self._urgent) > 0

    def take(self, now: float, *, idle: bool) -> Rolled | None:
        """Takes what is told now, a piece for each rollout; None if nothing is, or it may wait. idle: nothing follows."""
        due = [each for each in (self._client if idle else self._due(now)) if each not in self._withheld]
        self._urgent.clear()
        if not due:
            return None
        taken = [self._pop(stream) for stream in due]
        values = np.concatenate([part for each in taken for part in each.values])
        outputs = [part for each in taken for part in each.outputs] or [
            [np.zeros((0, *spec.shape), spec.dtype) for spec in self._specs]
        ]
        joined = tuple(np.concatenate(of_output) for of_output in zip(*outputs, strict=True))
        return Rolled(np.array([each.joined() for each in taken], PIECE), values, joined)

    def _due(self, now: float) -> list[int]:
        """Streams of rollouts that must not wait, or have waited long enough: of each client those that have waited longest, and
        no more than there is time to tell."""
        if not self._hold_seconds:
            return list(self._client)
        due = [stream for stream in self._urgent if stream in self._client]
        self._room = min(self._room + (now - self._looked_at) / _TELLING_SECONDS, self._hold_seconds / _TELLING_SECONDS)
        self._looked_at, room = now, int(self._room)
        if room >= _TOLD_AT_ONCE:
            waiting = [
                (rank, untold.since, stream)
                for of_client in self._untold.values()
                for rank, (stream, untold) in enumerate(itertools.islice(of_client.items(), room))
                if now - untold.since >= self._hold_seconds and stream not in self._withheld
            ]
            waited = [stream for *_, stream in sorted(waiting)[:room]]
            self._room -= len(waited)
            due += waited
        return list(dict.fromkeys(due))

    def _pop(self, stream: int) -> _Untold:
        client = self._client.pop(stream)
        untold = self._untold[client].pop(stream)
        if not self._untold[client]:
            del self._untold[client]
        return untold


class Outbox:
    """Collects one turn's outcomes; `empty` sorts them by door and stream."""

    def __init__(self, spec: ModelSpec, hold_seconds: float) -> None:
        """hold_seconds: how long what rollouts draw may wait for what they draw next."""
        self._specs = spec.outputs
        self._bounds = " and ".join(each.bounds for each in spec.inputs if each.bounds)
        self._letters: dict[int, Delivery] = {}  # by door, without answers
        self._heard: Counter[int] = Counter()  # envelopes, by door
        self._rows: list[Ints] = []  # each [5, n]: stream, handle, first, length, kept
        self._outputs: list[Sequence[Tensor]] = []  # beside it: one [sum of kept, *shape] per output
        self._grouped = True  # whether rows of equal streams are adjacent in the only part
        self.pieces = Pieces(spec.outputs, hold_seconds)  # of rollouts

    def heard(self, door: int) -> None:
        """A envelope of the door has been taken in."""
        self._heard[door] += 1
        self._of(door)

    def reply(self, door: int, reply: Reply) -> None:
        self._of(door).replies.append(reply)

    def answer(self, columns: Ints, outputs: Sequence[Tensor], *, grouped: bool = False) -> None:
        """Adds answered rows: columns [5, n] are streams, handles, first numbers, lengths, and how many of each row's last steps
        have outputs; outputs [sum of these, *shape] each. grouped: whether streams ascend."""
        self._grouped = grouped and not self._rows
        self._rows.append(columns)
        self._outputs.append(outputs)

    def answer_one(
        self, stream: int, handle: int, first_seq: int, length: int, kept: int, outputs: Sequence[Tensor] | None
    ) -> None:
        """Adds one answered row; outputs [kept, *shape] each."""
        columns = np.array([[stream], [handle], [first_seq], [length], [kept]], np.int64)
        self.answer(columns, outputs or [np.zeros((0, *spec.shape), spec.dtype) for spec in self._specs])

    def explain(self, reason: Reason, first: int, length: int, expected: int, handle: int = 0) -> str:
        """The message for the caller of so many steps from `first` on who are refused for that reason."""
        bounds = self._bounds
        return _TEXTS[reason].format(first=first, length=length, expected=expected, handle=handle, bounds=bounds)

    def refuse(self, stream: int, handle: int, first_seq: int, length: int, reason: Reason, expected: int, message: str) -> None:
        """Adds one row's refusal or failure."""
        letter = self._of(door_of(stream))
        if letter.errors is _NO_ERRORS:
            letter.errors = RowErrors()
        errors = letter.errors
        errors.streams.append(_local(stream))
        errors.handles.append(handle)
        errors.first_seqs.append(first_seq)
        errors.lengths.append(length)
        errors.reasons.append(reason)
        errors.expected_seqs.append(expected)
        errors.messages.append(message)

    def durable(self, stream: int, handle: int, count: int, epoch: int) -> None:
        """Says how many steps the store has of a session: to the stream that holds it, or to a caller who is answered in this
        turn."""
        letter = self._of(door_of(stream))
        if letter.durables is None:
            letter.durables = Durables()
        durables = letter.durables
        durables.streams.append(_local(stream))
        durables.handles.append(handle)
        durables.counts.append(count)
        durables.epochs.append(epoch)

    def detached(self, stream: int, handle: int, ending: Ending, error: StepStreamError | None = None) -> None:
        """Says that a handle no longer stands for a session. error: why that could not be ended as asked."""
        letter = self._of(door_of(stream))
        if letter.detached is _NOBODY_DETACHED:
            letter.detached = Detached()
        detached = letter.detached
        detached.streams.append(_local(stream))
        detached.handles.append(handle)
        detached.endings.append(ending)
        detached.errors.append(error)

    def empty(self, now: float, *, idle: bool) -> dict[int, Delivery]:
        """Everything collected, by door; the outbox is empty afterwards, except for pieces of rollouts that may wait."""
        if self._rows:
            for door, answers in self._answers_by_door().items():
                self._of(door).answers = answers
        if (rolled := self.pieces.take(now, idle=idle)) is not None:
            for door, part in _by_door(rolled).items():
                self._of(door).rolled = part
        letters, self._letters = self._letters, {}
        return letters

    def _of(self, door: int) -> Delivery:
        letter = self._letters.get(door)
        if letter is None:
            letter = self._letters[door] = Delivery([], None, _NO_ERRORS, _NOBODY_DETACHED)
        letter.heard = self._heard[door]
        return letter

    def _answers_by_door(self) -> dict[int, Answers]:
        parts, outputs_of, self._rows, self._outputs = self._rows, self._outputs, [], []
        if len(parts) == 1:
            rows, outputs = parts[0], outputs_of[0]
        else:
            rows = np.concatenate(parts, axis=1)
            outputs = [np.concatenate(of_output) for of_output in zip(*outputs_of, strict=True)]
        if not self._grouped:
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
    streams, handles, first_seqs, lengths, kept = rows
    if streams.item(0) > _STREAM_MASK:  # else it is the first door, whose numbers are the engine's own
        streams = streams & _STREAM_MASK
    return Answers(streams, handles, first_seqs, lengths, kept, tuple(outputs))


def _by_door(rolled: Rolled) -> dict[int, Rolled]:
    """Each door's own record."""
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
    index = _moved(order, kept)
    return rows[:, order], [part[index] for part in outputs]


def _moved(order: Ints, sizes: Ints) -> Ints:
    """Where the elements come from of groups of these sizes that are brought into an order."""
    sorted_sizes = sizes[order]
    starts = (np.cumsum(sizes) - sizes)[order]
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sorted_sizes) - sorted_sizes, sorted_sizes)
    index: Ints = np.repeat(starts, sorted_sizes) + within
    return index
