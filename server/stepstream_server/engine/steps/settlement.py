"""Settlement: makes known what a launch gave, and what was resolved without one: counts, kept answers, answers, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.books import Books, dirty, ledger, queue, resolution
from stepstream_server.engine.books.answer_cache import place_for, place_of
from stepstream_server.engine.books.records import NONE, Arrays, Record, Records, opened
from stepstream_server.engine.books.status import Event, move
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.durable.withheld import Answer
from stepstream_server.engine.durable.writing import Writing
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import Backend, Computed, Floats, Ints, Keep, Kind, Tensor, TurnReport
from stepstream_server.engine.steps.scheduler import Batch
from stepstream_server.errors import Reason

_RESENT_AT_ONCE = 1 << 16  # steps: a few megabytes of scratch
_NO_FAULTS = np.zeros(0, np.int64)

# Columns of an answered row, as the outbox takes them.
_STREAM, _HANDLE, _FIRST, _LENGTH, _KEPT = range(5)
_SHOWN, _PLACE, _KEPT_STEP = range(3)  # rows of `steps`, see `settle`
_SESSION, _WAITS = range(2)  # rows of `apart`


class Settlement:
    """Tells what becomes of rows."""

    def __init__(self, books: Books, backend: Backend, outbox: Outbox, writing: Writing | None = None) -> None:
        """writing: of durable sessions; None: there are none."""
        self._books = books
        self._backend = backend
        self._outbox = outbox
        self._writing = writing

    def settle(self, batch: Batch, computed: Computed, begun: float, now: float, report: TurnReport) -> int:
        """Makes the computed steps of a batch's rows of the queue known. computed: of these rows; begun, now: of the launch.

        Returns how many steps were applied.
        """
        n, length = len(batch.rows), batch.length
        self._books.expect_answers(n, length)
        faults = _NO_FAULTS if computed.faults is None else computed.faults
        columns, seconds = np.empty((5, n), np.int64), np.empty((2, n))
        steps, apart = np.empty((3, n * length), np.int64), np.empty((2, n), np.int64)
        rows, shown, kept, others, grouped = settle(
            self._books.arrays, batch.rows, length, faults, begun, now, columns, seconds, steps, apart
        )
        flat = [values.reshape(-1, *values.shape[2:]) for values in computed.outputs]  # [n * length, *shape]
        whole = shown == n * length
        answered = flat if whole else [values[steps[_SHOWN, :shown]] for values in flat]
        if kept:
            values = flat if kept == n * length else [each[steps[_KEPT_STEP, :kept]] for each in flat]
            self._books.cache.put(steps[_PLACE, :kept], values)
        if rows:
            if rows < n:
                columns, seconds = columns[:, :rows], seconds[:, :rows]
            if others and self._writing is not None:
                self._answer_apart(self._writing, columns, answered, apart[:, :rows])
            else:
                self._outbox.answer(columns, answered, grouped=grouped)
            report.add(columns[_LENGTH], seconds[0], seconds[1])
        if self._books.counters.ended[0]:
            self._books.note_ended()
        return rows * length

    def tell(self, report: TurnReport) -> None:
        """Passes on what was resolved without computing; zeroes the slots of sessions that were reset."""
        books = self._books
        if books.counters.told[0]:
            told = books.take_told()
            refused = told["kind"] == Kind.REFUSE
            self._tell_answers(told[~refused], report)
            for row in told[refused].tolist():
                self._tell_refusal(*row)
            books.note_ended()

    def resend(self, sessions: Ints) -> None:
        """Answers every step of distinct sessions from their acknowledged counts on, to the streams that hold them now."""
        counts = self._books.table.next_seq[sessions] - self._books.table.acked[sessions]
        sessions, counts = sessions[counts > 0], counts[counts > 0]
        for part in np.split(np.arange(len(sessions)), np.flatnonzero(np.diff(np.cumsum(counts) // _RESENT_AT_ONCE)) + 1):
            if len(part):
                steps = int(counts[part].sum())
                columns, places = np.empty((5, steps), np.int64), np.empty(steps, np.int64)
                runs, held = kept_answers(self._books.records, sessions[part], columns, places)
                self._outbox.answer(columns[:, :runs], self._books.cache.get(places[:held]))

    def _answer_apart(self, writing: Writing, columns: Ints, outputs: Sequence[Tensor], apart: Ints) -> None:
        """Answers rows some of which are of one-shot callers of durable sessions. They are told what the store has, and those who
        wait until it has their steps are answered then.

        columns, outputs: as `Outbox.answer` takes them. apart: [2, n], as `settle` writes it.
        """
        waits = apart[_WAITS] == 1
        ends = np.cumsum(columns[_KEPT])
        for place in np.flatnonzero(apart[_SESSION] != NONE).tolist():
            stream, handle, first, length, kept = columns[:, place].tolist()
            session, end = int(apart[_SESSION, place]), int(ends[place])
            if waits[place]:
                values = [each[end - kept : end].copy() for each in outputs]
                writing.hold(session, Answer(stream, handle, first, length, values))
            else:
                writing.tell(stream, handle, session)
        if not waits.all():
            shown = ~waits.repeat(columns[_KEPT])
            self._outbox.answer(columns[:, ~waits], [each[shown] for each in outputs])

    def _tell_answers(self, told: NDArray[Any], report: TurnReport) -> None:
        if not len(told):
            return
        resets = told["kind"] == Kind.RESET
        if resets.any():
            self._backend.zero(self._books.table.slot[told["session"][resets]])
        report.duplicates += int(told["length"][~resets].sum())
        columns = np.array([told[name] for name in ("stream", "handle", "first", "length", "shown")])
        outputs = self._books.take_told_outputs()
        if self._writing is not None and self._writing.sessions and (apart := self._apart(told)) is not None:
            self._answer_apart(self._writing, columns, outputs, apart)
        else:
            self._outbox.answer(columns, outputs)

    def _apart(self, told: NDArray[Any]) -> Ints | None:
        """Which of these rows are of one-shot callers of durable sessions, as `settle` writes it; None: none is."""
        table, sessions = self._books.table, told["session"]
        others = table.durable[sessions] & (table.stream[sessions] != told["stream"])
        if not others.any():
            return None
        ends = told["first"] + told["length"]
        waits = others & ~told["behind"] & (ends > table.durable_seq[sessions])
        return np.array([np.where(others, sessions, NONE), waits])

    def _tell_refusal(
        self,
        stream: int,
        handle: int,
        first: int,
        length: int,
        _kept: int,
        session: int,
        expected: int,
        intake: int,
        _kind: int,
        number: int,
        _behind: bool,
    ) -> None:
        reason = Reason(number)
        message = self._books.queue.text(intake) or self._outbox.explain(reason, first, length, expected)
        if reason is Reason.SEQUENCE_MISMATCH and self._books.table.rolled(session, first):
            message = f"a rollout has taken number {first}: step {expected} is expected"
        self._outbox.refuse(stream, handle, first, length, reason, expected, message)


@compiled
def settle(
    arrays: Arrays,
    numbers: Ints,
    length: int,
    faults: Ints,
    begun: float,
    now: float,
    columns: Ints,
    seconds: Floats,
    steps: Ints,
    apart: Ints,
) -> tuple[int, int, int, int, bool]:
    """Settles `length` steps of each row: sessions with a fault are quarantined, the others' steps are applied. faults: [n],
    or empty where there are none.

    Writes columns [5, n] of answered rows, seconds [2, n] from their arrival to the launch and until now,
    steps [3, n * length]: which steps of the launch are shown, where in the cache steps are kept, and which these are; and
    apart [2, n]: the session of a row that is a one-shot caller's of a durable session, or NONE, and 1 where it waits until the
    store has its steps.
    Returns how many rows, shown steps, kept ones and rows apart there are, and whether streams ascend.
    """
    records = opened(arrays)
    rows, shown, kept, others, grouped = 0, 0, 0, 0, True
    for place in range(len(numbers)):
        row = records.rows[numbers[place]]
        number = row["session"]
        session = records.sessions[number]
        if len(faults) > 0 and faults[place] > 0:
            move(session, Event.STEP_FAILED)
            dirty.mark(records, number, now)
            ledger.fail(records, number, faults[place])
            queue.come_back(records, number)
            continue
        finishes = row["length"] == length
        wanted = _wanted(row, length, finishes)
        for step in range(length - wanted, length):
            steps[_SHOWN, shown] = place * length + step
            shown += 1
        if not row["unkept"]:
            kept = _keep(records, row, place * length, length - wanted, length, steps, kept)
        columns[_STREAM, rows], columns[_HANDLE, rows], columns[_FIRST, rows] = row["stream"], row["handle"], row["first"]
        columns[_LENGTH, rows], columns[_KEPT, rows] = length, wanted
        seconds[0, rows], seconds[1, rows] = begun - row["arrival"], now - row["arrival"]
        grouped = grouped and (rows == 0 or columns[_STREAM, rows - 1] <= row["stream"])
        apart[_SESSION, rows] = NONE
        apart[_WAITS, rows] = 0
        if session["durable"] and row["stream"] != session["stream"]:
            apart[_SESSION, rows], apart[_WAITS, rows] = number, not row["behind"]
            others += 1
        rows += 1
        ledger.apply(session, row, length)
        dirty.mark(records, number, now)
        session["used_at"] = now
        if finishes and row["ends"]:
            resolution.note_end(records, row, row["first"] + length)
        queue.shorten(records, row, length)
        if finishes:
            queue.remove(records, number, numbers[place], NONE)
        queue.come_back(records, number)
    return rows, shown, kept, others, grouped


@compiled
def _wanted(row: Record, length: int, finishes: bool) -> int:
    """How many of the last of `length` steps of a row come back with outputs."""
    if row["keep"] == Keep.ALL:
        return length
    return 1 if row["keep"] == Keep.LAST and finishes else 0


@compiled
def _keep(records: Records, row: Record, offset: int, first: int, end: int, steps: Ints, kept: int) -> int:
    """Takes places in the cache for a row's steps of a launch from `first` up to `end`. Returns how many are kept now.

    offset: of the row's first step in the launch.
    """
    for step in range(first, end):
        steps[_PLACE, kept] = place_for(records.pages, row["session"], row["first"] + step)
        steps[_KEPT_STEP, kept] = offset + step
        kept += 1
    return kept


@compiled
def kept_answers(records: Records, numbers: Ints, columns: Ints, places: Ints) -> tuple[int, int]:
    """Writes columns [5, n] of what sessions have not acknowledged, in runs of steps that keep their outputs or keep none.

    Writes the places of these outputs too. Returns how many runs and places there are.
    """
    runs, held = 0, 0
    for number in numbers:
        session = records.sessions[number]
        kept_before = False
        for seq in range(session["acked"], session["next_seq"]):
            place = place_of(records.pages, number, seq)
            kept = place >= 0
            if seq == session["acked"] or kept != kept_before:
                columns[_STREAM, runs], columns[_HANDLE, runs] = session["stream"], session["handle"]
                columns[_FIRST, runs], columns[_LENGTH, runs], columns[_KEPT, runs] = seq, 0, 0
                runs += 1
            columns[_LENGTH, runs - 1] += 1
            if kept:
                columns[_KEPT, runs - 1] += 1
                places[held] = place
                held += 1
            kept_before = kept
    return runs, held
