"""Admission: what becomes of a row when it arrives, by the rules of exactly once.

The admission point of a session is `next_seq` plus what is pending. A step that begins there is admitted; what lies below was
applied or is pending and will be answered from the cache; a step above is refused with the number expected. Whatever the
outcome, the row joins its session's list in the queue, so that each session hears outcomes in input order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.books import Books, ledger, queue, resolution
from stepstream_server.engine.books.answer_cache import pages_used
from stepstream_server.engine.books.records import NONE, ZERO, Arrays, Record, Records, opened
from stepstream_server.engine.books.status import Event, Status, move
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.ports import NO_STREAM, ROW, Block, Call, Ints, Keep, Kind, Refuse, Reset, Tensor
from stepstream_server.errors import Reason
from stepstream_server.spec import ModelSpec, TensorSpec

# How the session of an arriving row was found.
_BY_HANDLE: Final = 0  # its stream holds the session, or has held it
_BY_ID: Final = 1  # a one-shot caller named it

_LEAST_ARRIVALS = 256  # rows
_SMALL = 8192  # numbers
_LARGEST = float(np.finfo(np.float32).max)
_RAW = np.dtype((np.void, ROW.itemsize))  # rows as they lie in memory, which numpy copies in 1 us; by fields it takes 16

Mask = NDArray[np.bool_]


class Admission:
    """Takes rows into the queue."""

    def __init__(self, spec: ModelSpec, books: Books, outbox: Outbox) -> None:
        self._inputs = spec.inputs
        self._books = books
        self._outbox = outbox
        self._end = np.zeros(1, np.int64)  # of the only block
        self._make_room(_LEAST_ARRIVALS)

    def blocks(self, door: int, blocks: Sequence[Block], now: float) -> None:
        """Admits rows that streams sent for sessions which they hold, in the order of blocks."""
        if len(blocks) == 1:
            (block,) = blocks
            unfit = self.unfit(block.inputs, block.rows["length"])
            self._admit(block.rows, block.inputs, unfit, _BY_HANDLE, door, now)
            return
        rows = np.concatenate([block.rows.view(_RAW) for block in blocks]).view(ROW)
        inputs = tuple(np.concatenate(parts) for parts in zip(*(block.inputs for block in blocks), strict=True))
        ends = np.cumsum([len(block.rows) for block in blocks])
        self._admit(rows, inputs, self.unfit(inputs, rows["length"]), _BY_HANDLE, door, now, ends=ends)

    def one_shot(self, door: int, call: Call, sessions: Ints, now: float) -> None:
        """Admits a call's rows, whose sessions have been found."""
        unfit = self.unfit(call.inputs, call.rows["length"])
        each_alone = np.arange(1, len(sessions) + 1)
        self._admit(call.rows, call.inputs, unfit, _BY_ID, door, now, sessions=sessions, ends=each_alone)

    def reset(self, door: int, reset: Reset, now: float) -> None:
        """Admits resets: like steps without inputs and outputs."""
        rows = _rows(reset.stream, reset.sessions, reset.generations, reset.handles, reset.seqs)
        rows["length"], rows["kind"], rows["keep"], rows["arrival"] = 1, Kind.RESET, Keep.NONE, reset.arrival
        self._admit(rows, (), self._all_fit(len(rows)), _BY_HANDLE, door, now)

    def refuse(self, door: int, refuse: Refuse, now: float) -> None:
        """Takes in rows that the door found unfit: they are refused when it is their turn."""
        rows = _rows(refuse.stream, refuse.sessions, refuse.generations, refuse.handles, refuse.first_seqs)
        rows["length"], rows["kind"], rows["keep"] = refuse.lengths, Kind.REFUSE, Keep.NONE
        self._admit(rows, refuse.message, self._all_fit(len(rows)), _BY_HANDLE, door, now, int(refuse.reason))

    def unfit(self, inputs: tuple[Tensor, ...], lengths: Ints) -> Ints:
        """Reasons, as numbers, for which the model does not take the inputs of rows: [n]; 0 where it does."""
        if all(map(_is_plain, self._inputs, inputs)):
            return self._all_fit(len(lengths))
        within = _rows_all(map(TensorSpec.within, self._inputs, inputs), lengths)
        finite = _rows_all(map(np.isfinite, inputs), lengths)
        return np.where(finite, np.where(within, 0, Reason.INPUT_OUT_OF_RANGE), Reason.NON_FINITE_INPUT)

    def why_not_first(self, rows: NDArray[Any], unfit: Ints, beside: int, now: float) -> Ints:
        """Reasons, as numbers, why rows could not be the first of new sessions; 0 where they could: [n].

        unfit: as of `unfit`. beside: steps of other rows that may be admitted before them.
        """
        reasons = np.zeros(len(rows), np.int64)
        why_not_first(self._books.records, rows, unfit, beside, now, reasons)
        return reasons

    def _admit(
        self,
        rows: NDArray[Any],
        content: tuple[Tensor, ...] | str,
        unfit: Ints,
        found: int,
        door: int,
        now: float,
        reason: int = 0,
        sessions: Ints | None = None,
        ends: Ints | None = None,
    ) -> None:
        """Takes rows in with what they wait with: inputs, or the text of their refusal.

        reason: of rows of kind REFUSE. sessions: of rows that do not say so. ends: where each block ends, of several.
        """
        count = len(rows)
        if count > len(self._arrivals):
            self._make_room(count)
        self._raw[:count] = rows.view(_RAW)
        if sessions is not None:
            self._sessions[:count] = sessions
        intake = self._books.take_in(count, content)
        own = global_stream(door, 0)
        if ends is None:
            ends = self._end
            ends[0] = count
        strays = admit(self._books.arrays, self._arrivals, ends, unfit, found, intake, reason, own, now)
        if strays:
            self._refuse_strays(self._arrivals[:count][self._arrivals[:count]["session"] == NONE])

    def _refuse_strays(self, rows: NDArray[Any]) -> None:
        """Answers rows of handles that have been detached: there is no session to keep them in order with."""
        columns = (rows[name].tolist() for name in ("stream", "handle", "first", "length"))
        for stream, handle, first, length in zip(*columns, strict=True):
            message = self._outbox.explain(Reason.HANDLE_UNKNOWN, first, length, 0, handle)
            self._outbox.refuse(stream, handle, first, length, Reason.HANDLE_UNKNOWN, 0, message)

    def _make_room(self, rows: int) -> None:
        self._arrivals = np.zeros(rows, ROW)
        self._raw, self._sessions = self._arrivals.view(_RAW), self._arrivals["session"]
        self._fit = np.zeros(rows, np.int64)

    def _all_fit(self, rows: int) -> Ints:
        return self._fit[:rows] if rows <= len(self._fit) else np.zeros(rows, np.int64)


def _is_plain(spec: TensorSpec, values: Tensor) -> bool:
    """Tells whether one input is fit as a whole.

    A product of floats with themselves that is below the square of what is valid says so in a sixth of the time that a look at
    each of them takes; above `_SMALL` BLAS would do it by threads of its own.
    """
    if spec.dtype != "float32":
        return not spec.limit or bool(spec.within(values).all())
    if values.size <= _SMALL and np.vdot(values, values) < (spec.range or np.inf) ** 2:
        return True
    largest = spec.range or _LARGEST
    return bool(-largest <= values.min() and values.max() <= largest)  # neither holds of NaN


def _rows_all(masks: Iterable[Mask], lengths: Ints) -> Mask:
    """Mask [n]: True for rows all of whose numbers are marked. masks: of the shape of each input."""
    steps = np.logical_and.reduce([each.reshape(len(each), -1).all(axis=1) for each in masks])
    rows: Mask = np.logical_and.reduceat(steps, np.cumsum(lengths) - lengths)
    return rows


def _rows(stream: int, sessions: Ints, generations: Ints, handles: NDArray[np.uint32], firsts: Ints) -> NDArray[Any]:
    """Rows of a stream that bring no inputs."""
    rows = np.zeros(len(sessions), ROW)
    rows["stream"], rows["session"], rows["generation"] = stream, sessions, generations
    rows["handle"], rows["first"], rows["deadline"] = handles, firsts, np.inf
    return rows


@compiled
def admit(
    arrays: Arrays,
    arrivals: NDArray[Any],
    ends: Ints,
    unfit: Ints,
    found: int,
    intake: int,
    reason: int,
    own: int,
    now: float,
) -> int:
    """Takes arrivals in, in their order: blocks of rows, each up to its end. own: the bits that make streams' numbers engine-
    wide.

    Rows whose handle stands for no session are marked by session NONE. Returns how many these are.
    """
    records = opened(arrays)
    strays, offset, begin = ZERO, ZERO, ZERO
    for end in ends:
        for place in range(begin, end):  # first, since it makes room for all of the block
            row = arrivals[place]
            row["stream"] |= own
            if found == _BY_HANDLE and not _holds(records.sessions[row["session"]], row):
                row["session"] = NONE
                strays += 1
            else:
                _acknowledge(records, row, unfit[place], found, now)
        block = offset
        for place in range(begin, end):
            row = arrivals[place]
            if row["session"] != NONE:
                _take(records, row, unfit[place], found, intake, offset, block, reason, now)
            offset += row["length"]
        begin = end
    queue.leave_intake(records, intake)
    return strays


@compiled
def _take(
    records: Records, row: Record, unfit: int, found: int, intake: int, offset: int, block: int, reason: int, now: float
) -> None:
    """Takes an arriving row in. offset: of its first step in its intake; block: of the first step of its block."""
    number = row["session"]
    if row["kind"] == Kind.REFUSE:
        _turn_away(records, number, row, row["first"], intake, offset)["reason"] = reason
    elif found == _BY_HANDLE and _has_row_of(records, number, intake, block):
        _turn_away(records, number, row, row["first"], intake, offset)["reason"] = Reason.INVALID_ARGUMENT
    else:
        if found == _BY_ID:
            _acknowledge(records, row, unfit, found, now)
            if row["unkept"]:
                row["first"] = records.sessions[number]["admitted"]
        _enter(records, number, row, unfit, intake, offset)


@compiled
def _holds(session: Record, row: Record) -> bool:
    """Tells whether the row's stream still holds the session under the row's handle."""
    same_life = session["generation"] == row["generation"]
    return bool(same_life and session["stream"] == row["stream"] and session["handle"] == row["handle"])


@compiled
def _has_row_of(records: Records, number: int, intake: int, block: int) -> bool:
    """Tells whether the block that is taken in has brought a row of this session already. block: offset of its first step."""
    tail = records.sessions[number]["tail"]
    return bool(tail != NONE and records.rows[tail]["intake"] == intake and records.rows[tail]["offset"] >= block)


@compiled
def _acknowledge(records: Records, row: Record, unfit: int, found: int, now: float) -> None:
    """Acknowledges what a row says, or what nobody needs any more.

    A one-shot caller that numbers its step has every answer below it. Nobody would acknowledge what an unnumbered step leaves
    behind, unless a stream holds the session.
    """
    number = row["session"]
    session = records.sessions[number]
    if found == _BY_HANDLE:
        if row["acked"] > 0:
            resolution.acknowledge(records, number, row["acked"], now)
    elif row["unkept"]:
        if session["stream"] == NO_STREAM and session["status"] == Status.OPEN and not unfit:
            resolution.acknowledge(records, number, session["admitted"], now)
    elif session["acked"] < row["first"] <= session["admitted"]:
        resolution.acknowledge(records, number, row["first"], now)


@compiled
def _enter(records: Records, number: int, row: Record, unfit: int, intake: int, offset: int) -> None:
    """Splits a row at the acknowledged count and at the admission point, and queues the parts.

    What would repeat a number that a rollout has taken was never applied, and nothing behind it in the row may be.
    """
    session = records.sessions[number]
    first, whole = row["first"], row["first"] + row["length"]
    acked, admitted = session["acked"], session["admitted"]
    end = whole
    if max(first, session["rolled_from"]) < min(whole, session["rolled_to"]):
        end = max(first, session["rolled_from"])
    if first < acked and first < end:
        gone = queue.append(records, number, row, first, min(end, acked), Kind.REFUSE, intake, offset)
        gone["reason"] = Reason.ANSWER_DISCARDED
    if first < min(end, admitted) and end > acked:
        queue.append(records, number, row, max(first, acked), min(end, admitted), Kind.REPEAT, intake, offset)
    if end < whole:
        _turn_away(records, number, row, end, intake, offset)["reason"] = Reason.SEQUENCE_MISMATCH
    elif end > admitted:
        _enter_new(records, number, row, max(first, admitted), unfit, intake, offset)


@compiled
def _enter_new(records: Records, number: int, row: Record, first: int, unfit: int, intake: int, offset: int) -> None:
    """Admits the steps of a row from `first` on, which is its session's admission point or above, or refuses them."""
    session = records.sessions[number]
    end = row["first"] + row["length"]
    kept = ledger.answers_of(row, end - first)
    reason = _why_not(
        records, session["status"], session["admitted"], session["released"], session["kept"], row, first, kept, unfit, 0
    )
    if reason:
        _turn_away(records, number, row, first, intake, offset)["reason"] = reason
        return
    ledger.admit(session, end - first, kept)
    if row["kind"] == Kind.RESET:
        move(session, Event.RESET_QUEUED)
    kind = Kind.RESET if row["kind"] == Kind.RESET else Kind.APPLY
    queue.append(records, number, row, first, end, kind, intake, offset)


@compiled
def _why_not(
    records: Records,
    status: int,
    admitted: int,
    released: int,
    kept_before: int,
    row: Record,
    first: int,
    kept: int,
    unfit: int,
    beside: int,
) -> int:
    """The Reason for which the steps of a row from `first` on are refused; 0: they are admitted.

    status, admitted, released, kept_before: where their session stands. kept: answers that they will keep. unfit: the Reason for
    which the model does not take their inputs, or 0. beside: steps of other
    rows that may be admitted before them.
    """
    counters = records.counters[0]
    steps = row["first"] + row["length"] - first
    computes = row["kind"] == Kind.APPLY
    if status == Status.ROLLING:
        return Reason.SESSION_IN_USE
    if first > admitted:
        return Reason.SEQUENCE_MISMATCH
    if counters["draining"]:
        return Reason.SERVER_DRAINING
    if computes and status == Status.QUARANTINED:
        return Reason.SESSION_QUARANTINED
    if unfit:
        return unfit
    if first + steps - released > counters["window_steps"] or kept_before + kept > counters["window_kept"]:
        return Reason.WINDOW_FULL
    if computes and counters["pending"] + beside + steps > counters["most_pending"]:
        return Reason.QUEUE_FULL
    if kept > 0 and pages_used(records.pages) >= counters["most_pages"]:
        return Reason.QUEUE_FULL
    return 0


@compiled
def why_not_first(records: Records, rows: NDArray[Any], unfit: Ints, beside: int, now: float, reasons: Ints) -> None:
    """The Reason for which each row cannot be the first of a new session; 0 where it can."""
    for place in range(len(rows)):
        row = rows[place]
        kept = ledger.answers_of(row, row["length"])
        reason = _why_not(records, Status.OPEN, 0, 0, 0, row, row["first"], kept, unfit[place], beside)
        if reason == 0 and row["deadline"] <= now:
            reason = Reason.DEADLINE_EXCEEDED
        if reason == 0:
            beside += row["length"]
        reasons[place] = reason


@compiled
def _turn_away(records: Records, number: int, row: Record, first: int, intake: int, offset: int) -> Record:
    """Queues the steps of a row from `first` on as a refusal, since it has its place among its session's outcomes. Returns what
    was
    queued, of which the reason is left to fill in."""
    return queue.append(records, number, row, first, row["first"] + row["length"], Kind.REFUSE, intake, offset)
