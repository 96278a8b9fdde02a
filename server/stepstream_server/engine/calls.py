"""Calls: momentary steps of callers who hold no session and name it by id. They become rows for admission, or are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.admission import Admission
from stepstream_server.engine.arrivals import concatenate, join, sums_before
from stepstream_server.engine.backlog import Rows
from stepstream_server.engine.finished import Finished
from stepstream_server.engine.ledger import Ledger
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Call, Ints, Tensor, TurnReport
from stepstream_server.engine.starts import Starts
from stepstream_server.engine.table import SessionTable, Status
from stepstream_server.errors import CallerError, Reason, StepStreamError


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """Rows of neighbouring calls: n of them, whose sessions have to be found."""

    ids: list[str]
    secrets: list[bytes]  # [n], or none at all
    rows: Rows  # `first` is NO_SEQ where the caller did not number it
    valid: NDArray[np.bool_]  # whether its inputs are numbers that the model takes
    starts: NDArray[np.bool_]  # whether its session is opened first
    inputs: tuple[Tensor, ...]  # of all calls of the turn

    def part(self, places: Ints) -> _Arrivals:
        """Some of the rows."""
        here = places.tolist()
        secrets = [self.secrets[place] for place in here] if self.secrets else []
        columns = (self.rows[places], self.valid[places], self.starts[places])
        return _Arrivals([self.ids[place] for place in here], secrets, *columns, self.inputs)


class Calls:
    """Takes in momentary calls."""

    def __init__(
        self,
        table: SessionTable,
        ledger: Ledger,
        outbox: Outbox,
        admission: Admission,
        starts: Starts,
        finished: Finished,
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._outbox = outbox
        self._admission = admission
        self._starts = starts
        self._finished = finished

    def admit(self, calls: Sequence[tuple[int, Call]], now: float, report: TurnReport) -> None:
        """Admits calls, each with its engine-wide stream; those of one session in order."""
        arrivals = self._join(calls)
        if len(set(arrivals.ids)) == len(arrivals.ids):
            self._admit_distinct(arrivals, now, report)
            return
        arrivals = self._refuse_doubles(calls, arrivals)
        if not self._admit_sequels(arrivals):
            for round_ in _rounds(arrivals.ids):
                self._admit_distinct(arrivals.part(round_), now, report)

    def _join(self, calls: Sequence[tuple[int, Call]]) -> _Arrivals:
        rows, inputs = join(calls)
        rows["first"] = concatenate([call.seqs for _, call in calls])
        rows["cached"] = rows["first"] != NO_SEQ
        ids = [session_id for _, call in calls for session_id in call.ids]
        secrets: list[bytes] = []
        if any(call.secrets for _, call in calls):
            secrets = [secret for _, call in calls for secret in call.secrets or [b""] * len(call.ids)]
        counts = [len(call.ids) for _, call in calls]
        rows["ends"] = _flags([call.ends for _, call in calls], counts)
        starts = _flags([call.starts for _, call in calls], counts)
        return _Arrivals(ids, secrets, rows, self._admission.valid(inputs, rows["length"]), starts, inputs)

    def _refuse_doubles(self, calls: Sequence[tuple[int, Call]], arrivals: _Arrivals) -> _Arrivals:
        """Refuses what names a session that an earlier row of the same call has named. Returns the others."""
        seen: set[tuple[int, str]] = set()
        single = np.ones(len(arrivals.ids), np.bool_)
        owners = [number for number, (_, call) in enumerate(calls) for _ in call.ids]
        for place, named in enumerate(zip(owners, arrivals.ids, strict=True)):
            if named in seen:
                single[place] = False
                message = f"ids: expected each once, got {named[1]!r} again"
                self._refuse(arrivals.rows[place], CallerError(Reason.INVALID_ARGUMENT, message, field="ids"))
            seen.add(named)
        return arrivals if single.all() else arrivals.part(np.flatnonzero(single))

    def _admit_distinct(self, arrivals: _Arrivals, now: float, report: TurnReport) -> None:
        """Admits rows of different sessions."""
        starts = np.flatnonzero(arrivals.starts)
        found = self._find(arrivals, now, report)
        if len(starts):
            found[starts] = self._start(arrivals.part(starts), now, report)
        here = found >= 0
        if not here.all():
            arrivals, found = arrivals.part(np.flatnonzero(here)), found[here]
        if len(found):
            arrivals.rows["session"] = found
            self._number(arrivals)
            self._admission.enter(arrivals.rows, arrivals.inputs, arrivals.valid)

    def _admit_sequels(self, arrivals: _Arrivals) -> bool:
        """Admits rows that each go on where their session's row before ends; False, with nothing done, if not all do."""
        table, rows = self._table, arrivals.rows
        sessions = table.numbers(arrivals.ids)
        if arrivals.secrets or arrivals.starts.any() or (sessions < 0).any() or (table.stream[sessions] != NO_STREAM).any():
            return False
        ahead = sums_before(sessions, rows["length"], np.argsort(sessions, kind="stable"))
        first = np.where(rows["cached"], rows["first"], table.admitted[sessions] + ahead)
        sequels = rows.copy()
        sequels["session"], sequels["first"], sequels["begin"] = sessions, first, first
        return self._admission.enter_sequels(sequels, arrivals.inputs, lambda: self._ledger.acknowledge(sessions, first))

    def _find(self, arrivals: _Arrivals, now: float, report: TurnReport) -> Ints:
        """The sessions of rows that start none; -1 for those that are settled, because nobody else may step there now: [n]."""
        found = self._table.numbers(arrivals.ids)
        doubtful = (found < 0) | (self._table.stream[found] != NO_STREAM)
        if arrivals.secrets:
            doubtful |= [secret != b"" for secret in arrivals.secrets]
        for place in np.flatnonzero(doubtful & ~arrivals.starts).tolist():
            session_id = arrivals.ids[place]
            try:
                found[place] = self._table.claim(session_id, arrivals.secrets[place] if arrivals.secrets else b"")
            except CallerError as error:
                found[place] = -1
                if not self._answer_finished(session_id, arrivals.rows[place], now, report):
                    self._refuse(arrivals.rows[place], error)
        return found

    def _answer_finished(self, session_id: str, row: np.void, now: float, report: TurnReport) -> bool:
        """Whether the row repeats the last one of a session that is gone: then it is answered."""
        answer = self._finished.find(session_id, now)
        if answer is None or not answer.answers(row):
            return False
        stream, tag, first, length = (int(row[name]) for name in ("stream", "tag", "first", "length"))
        self._outbox.answer_one(stream, tag, first, length, len(answer.outputs[0]), answer.outputs)
        report.duplicates += length
        return True

    def _start(self, arrivals: _Arrivals, now: float, report: TurnReport) -> Ints:
        """New sessions for rows of different ids; -1 for those that are refused: [n]."""
        rows = arrivals.rows
        rows["first"] = np.where(rows["cached"], rows["first"], 0)
        started = np.full(len(rows), -1)
        for place, session in enumerate(self._starts.open(arrivals.ids, rows, arrivals.valid, now, report)):
            if isinstance(session, int):
                started[place] = session
            else:
                self._refuse(rows[place], session)
        return started

    def _number(self, arrivals: _Arrivals) -> None:
        """Acknowledges what callers need no more, and gives unnumbered rows the next number of their session."""
        table, rows = self._table, arrivals.rows
        sessions, numbered = rows["session"], rows["cached"]
        admitted = table.admitted[sessions]
        # Whoever numbers a step has the answers below it. Where nobody does, nobody is there to acknowledge what an unnumbered
        # one leaves behind, unless a stream is.
        alone = (table.stream[sessions] == NO_STREAM) & (table.status[sessions] == Status.OPEN) & arrivals.valid
        acknowledges = np.where(numbered, rows["first"] <= admitted, alone)
        if acknowledges.any():
            counts = np.where(numbered, rows["first"], admitted)
            self._ledger.acknowledge(sessions[acknowledges], counts[acknowledges])
        rows["begin"] = rows["first"] = np.where(numbered, rows["first"], table.admitted[sessions])

    def _refuse(self, row: np.void, error: StepStreamError) -> None:
        first, length = max(int(row["first"]), 0), int(row["length"])
        stream, tag = int(row["stream"]), int(row["tag"])
        self._outbox.refuse(stream, tag, first, length, error.reason, error.expected_seq, error.message)


def _flags(columns: Sequence[NDArray[np.bool_] | None], counts: Sequence[int]) -> NDArray[np.bool_]:
    """Columns of so many rows each, of which those may be missing that are false throughout."""
    if all(column is None for column in columns):
        return np.zeros(sum(counts), np.bool_)
    parts = zip(columns, counts, strict=True)
    return concatenate([np.zeros(count, np.bool_) if column is None else column for column, count in parts])


def _rounds(ids: Sequence[str]) -> Iterator[Ints]:
    """Places of the ids, in rounds that have each id at most once: the first of each, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    rounds: list[list[int]] = []
    for place, session_id in enumerate(ids):
        number = seen[session_id]
        seen[session_id] += 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(place)
    yield from map(np.array, rounds)
