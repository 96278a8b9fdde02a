"""Calls: momentary steps of callers who hold no session and name it by id. They become rows for admission, or are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.admission import Admission
from stepstream_server.engine.arrivals import concatenate, joined_inputs, sums_before
from stepstream_server.engine.backlog import ROW, Backlog, Rows
from stepstream_server.engine.express import Express
from stepstream_server.engine.finished import Finished, answer_repeat
from stepstream_server.engine.ledger import Ledger
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.outcomes import Outcomes
from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Call, Ints, Tensor, TurnReport
from stepstream_server.engine.starts import Starts
from stepstream_server.engine.table import SessionTable, Status
from stepstream_server.errors import CallerError, StepStreamError


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
        backlog: Backlog,
        express: Express,
        outcomes: Outcomes,
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._outbox = outbox
        self._admission = admission
        self._starts = starts
        self._finished = finished
        self._backlog = backlog
        self._express = express
        self._outcomes = outcomes

    def admit(self, calls: Sequence[tuple[int, Call]], now: float, report: TurnReport, *, last: bool) -> None:
        """Admits calls, each with the number of its door; rows of one session in order. last: whether nothing that the turn has
        taken in comes behind them, so that they may be computed at once."""
        arrivals = self._join(calls)
        if len(set(arrivals.ids)) == len(arrivals.ids):
            self._admit_distinct(arrivals, now, report, at_once=last and not len(self._backlog))
            return
        started = {arrivals.ids[place] for place in np.flatnonzero(arrivals.starts).tolist()}
        again = np.array([session_id in started for session_id in arrivals.ids])
        if again.any():  # by themselves, so that they do not hold up all others
            self._admit_in_rounds(arrivals.part(np.flatnonzero(again)), now, report)
            arrivals = arrivals.part(np.flatnonzero(~again))
        if arrivals.ids and not self._admit_sequels(arrivals):
            self._admit_in_rounds(arrivals, now, report)

    def _admit_in_rounds(self, arrivals: _Arrivals, now: float, report: TurnReport) -> None:
        for round_ in _rounds(arrivals.ids):
            self._admit_distinct(arrivals.part(round_), now, report, at_once=False)

    def _join(self, calls: Sequence[tuple[int, Call]]) -> _Arrivals:
        """Left open: sessions, and first numbers where the caller does not know them."""
        only = [call for _, call in calls]
        rows = np.zeros(sum(len(call.ids) for call in only), ROW)
        rows["stream"] = concatenate([global_stream(door, call.streams) for door, call in calls])
        rows["tag"] = concatenate([call.tags for call in only])
        rows["first"] = seqs = concatenate([call.seqs for call in only])
        rows["cached"] = seqs != NO_SEQ
        rows["length"] = lengths = concatenate([call.lengths for call in only])
        rows["offset"] = np.cumsum(lengths) - lengths
        rows["keep"] = concatenate([call.keeps for call in only])
        rows["arrival"] = concatenate([call.arrivals for call in only])
        rows["deadline"] = concatenate([call.deadlines for call in only])
        rows["ends"] = concatenate([call.ends for call in only])
        starts = concatenate([call.starts for call in only])
        inputs = joined_inputs(calls)
        ids = [session_id for call in only for session_id in call.ids]
        secrets: list[bytes] = []
        if any(call.secrets for call in only):
            secrets = [secret for call in only for secret in call.secrets or [b""] * len(call.ids)]
        return _Arrivals(ids, secrets, rows, self._admission.valid(inputs, lengths), starts, inputs)

    def _admit_distinct(self, arrivals: _Arrivals, now: float, report: TurnReport, *, at_once: bool) -> None:
        """Admits rows of different sessions; or computes them at once, if nothing stands in their way."""
        starts = np.flatnonzero(arrivals.starts)
        found = self._find(arrivals, now, report)
        if len(starts):
            beside = int(arrivals.rows["length"][~arrivals.starts].sum())
            found[starts] = self._start(arrivals.part(starts), beside, now, report)
        here = found >= 0
        if not here.all():
            arrivals, found = arrivals.part(np.flatnonzero(here)), found[here]
        if len(found):
            arrivals.rows["session"] = found
            failed = self._express.run_calls(arrivals.rows, arrivals.inputs, arrivals.valid, report) if at_once else None
            if failed is None:
                self._enter(arrivals)
            elif failed.any():
                self._enter(arrivals.part(np.flatnonzero(failed)))
                self._outcomes.quarantine_all()

    def _enter(self, arrivals: _Arrivals) -> None:
        self._number(arrivals)
        self._admission.enter(arrivals.rows, arrivals.inputs, arrivals.valid)

    def _admit_sequels(self, arrivals: _Arrivals) -> bool:
        """Admits rows that start nothing and each go on where their session's row before ends; False, with nothing done, if not
        all do."""
        table, rows = self._table, arrivals.rows
        sessions = table.numbers(arrivals.ids)
        if arrivals.secrets or (sessions < 0).any() or (table.stream[sessions] != NO_STREAM).any():
            return False
        ahead = sums_before(sessions, rows["length"], np.argsort(sessions, kind="stable"))
        first = np.where(rows["cached"], rows["first"], table.admitted[sessions] + ahead)
        sequels = rows.copy()
        sequels["session"], sequels["first"], sequels["begin"] = sessions, first, first
        return self._admission.enter_sequels(
            sequels, arrivals.inputs, arrivals.valid, lambda: self._ledger.acknowledge(sessions, first)
        )

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
                if not answer_repeat(self._finished.find(session_id, now), arrivals.rows[place], self._outbox, report):
                    self._refuse(arrivals.rows[place], error)
        return found

    def _start(self, arrivals: _Arrivals, beside: int, now: float, report: TurnReport) -> Ints:
        """New sessions for rows of different ids; -1 for those that are refused: [n]. beside: steps of other rows."""
        rows = arrivals.rows
        rows["first"] = np.where(rows["cached"], rows["first"], 0)
        started = np.full(len(rows), -1)
        for place, session in enumerate(self._starts.open(arrivals.ids, rows, arrivals.valid, beside, now, report)):
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
        counts = np.where(numbered, rows["first"], admitted)
        acknowledges = np.where(numbered, counts <= admitted, alone) & (counts > table.acked[sessions])
        if acknowledges.any():
            self._ledger.acknowledge(sessions[acknowledges], counts[acknowledges])
        rows["begin"] = rows["first"] = np.where(numbered, rows["first"], table.admitted[sessions])

    def _refuse(self, row: np.void, error: StepStreamError) -> None:
        first, length = max(int(row["first"]), 0), int(row["length"])
        stream, tag = int(row["stream"]), int(row["tag"])
        self._outbox.refuse(stream, tag, first, length, error.reason, error.expected_seq, error.message)


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
