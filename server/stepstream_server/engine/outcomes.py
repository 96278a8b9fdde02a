"""Outcomes: what each row is told, in input order, once its session's earlier rows have been told theirs.

Rows that need no computing are resolved at the cut: repeats from the cache, resets, refusals, steps whose deadline has passed.
Rows that were computed are settled after the run: counts move, answers are kept and given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.backlog import Backlog, Kind, Rows
from stepstream_server.engine.ledger import KEEP_ALL, KEEP_LAST, Ledger
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import Ints, Keep, Tensor, TurnReport
from stepstream_server.engine.table import Last, SessionTable, Status
from stepstream_server.errors import Reason

_TEXTS = {
    Reason.SEQUENCE_MISMATCH: "step {first} came where step {expected} was expected",
    Reason.ANSWER_DISCARDED: "the answer to step {first} has been acknowledged and is no longer kept",
    Reason.ANSWER_NOT_KEPT: "step {first} was applied without keeping its outputs",
    Reason.WINDOW_FULL: "{length} steps from {first} on do not fit into the window: acknowledge answers first",
    Reason.QUEUE_FULL: "the server has no room for {length} more steps now",
    Reason.DEADLINE_EXCEEDED: "step {first} had not begun to run when its time was over",
    Reason.NON_FINITE_INPUT: "inputs of the {length} steps from {first} on: expected finite numbers, got NaN or infinity",
    Reason.INPUT_OUT_OF_RANGE: "inputs of the {length} steps from {first} on: expected 0 <= token < the model's limit",
    Reason.NON_FINITE_STATE: "the {length} steps from {first} on would make state or outputs non-finite: none was applied, "
    "the session is quarantined until it is reset",
    Reason.SESSION_IN_USE: "a rollout of the session is under way: it takes no steps until that has ended",
    Reason.SESSION_QUARANTINED: "the session is quarantined: reset or close it",
    Reason.INVALID_ARGUMENT: "handles: a session may have one row per message, got another from step {first} on",
    Reason.SERVER_DRAINING: "the server is about to stop: no more steps are admitted",
}
# What is resolved at once, about 5 ms; the rest follows in the next turns.
_SESSIONS_PER_TURN = 256
_ROWS_PER_TURN = 512
_RESENT_AT_ONCE = 1 << 16  # steps: a few megabytes of scratch


class Outcomes:
    """Gives rows of the backlog their outcomes."""

    def __init__(self, table: SessionTable, backlog: Backlog, cache: AnswerCache, ledger: Ledger, outbox: Outbox) -> None:
        self._table = table
        self._backlog = backlog
        self._cache = cache
        self._ledger = ledger
        self._outbox = outbox
        self._resets: list[int] = []  # slots to be zeroed before the next launch
        # Of this turn:
        self._touched = False  # whether anything was resolved
        self._refused: set[int] = set()  # sessions that were refused something: what follows belongs into the next turn
        self._duplicates = 0  # steps answered from the cache

    def resolve(self, now: float) -> Ints:
        """Settles what needs no computing. Returns the positions of the heads that do."""
        heads = self._backlog.heads()
        rows = self._backlog.rows
        late = rows["deadline"][heads] <= now
        if late.any():
            late &= rows["kind"][heads] == Kind.APPLY
            self._fail(heads[late], Reason.DEADLINE_EXCEEDED)
        special = heads[rows["kind"][heads] != Kind.APPLY]
        if not special.size and not self._touched:
            return heads  # none stands where a copy is to be taken: that was done when it came there
        self._touched = True
        gone = np.zeros(len(rows), np.bool_)
        sessions = rows["session"][special[:_SESSIONS_PER_TURN]].tolist()
        left = _ROWS_PER_TURN
        for session, positions in zip(sessions, self._backlog.by_session(sessions), strict=True):
            left -= self._resolve_session(session, positions[: max(left, 1)].tolist(), gone, now)
        self._backlog.remove(gone)
        self._ledger.release_late()
        return self._computable(now)

    def take_resets(self) -> Ints:
        """Slots that resets of this turn want zeroed."""
        slots, self._resets = np.array(self._resets, np.int64), []
        return slots

    def settle(self, rows: Rows, length: int, outputs: Sequence[Tensor], begun: float, now: float, report: TurnReport) -> None:
        """Makes `length` computed steps of each row known. outputs: [n, length, *shape]."""
        sessions, first, keep = rows["session"], rows["first"], rows["keep"]
        self._table.next_seq[sessions] = first + length
        self._table.used_at[sessions] = now
        finishes = rows["length"] == length
        kept = np.where(keep == KEEP_ALL, length, (keep == KEEP_LAST) & finishes)
        self._keep(rows, kept, outputs)
        if (last := rows["ends"] & finishes).any():
            for row in rows[last]:
                self._end(row, int(row["first"]) + length)
        lengths = np.full(len(rows), length)
        self._outbox.answer(rows["stream"], rows["tag"], first, lengths, kept, _select(outputs, kept))
        report.add(lengths, begun - rows["arrival"], now - rows["arrival"])

    def quarantine(self, positions: Ints) -> None:
        """Nothing of these rows was applied, since it would have made their sessions non-finite."""
        self._table.status[self._backlog.rows["session"][positions]] = Status.QUARANTINED
        self._fail(positions, Reason.NON_FINITE_STATE)

    def quarantine_all(self) -> None:
        """The same of the whole backlog, which was empty before these rows failed on the express way."""
        self.quarantine(np.arange(len(self._backlog)))

    def end_turn(self) -> int:
        """Drops rows with nothing left to do. Returns how many steps were answered from the cache."""
        duplicates, self._duplicates = self._duplicates, 0
        self._touched = False
        self._refused.clear()
        rows = self._backlog.rows
        if len(rows):
            self._backlog.remove((rows["length"] == 0) & (rows["kind"] == Kind.APPLY))
        return duplicates

    def resend(self, sessions: Ints) -> None:
        """Answers every step of distinct sessions from their acknowledged counts on, to the streams that hold them now."""
        counts = self._table.next_seq[sessions] - self._table.acked[sessions]
        sessions, counts = sessions[counts > 0], counts[counts > 0]
        for part in np.split(np.arange(len(sessions)), np.flatnonzero(np.diff(np.cumsum(counts) // _RESENT_AT_ONCE)) + 1):
            if len(part):
                self._resend(sessions[part], counts[part])

    def _resend(self, sessions: Ints, counts: Ints) -> None:
        table = self._table
        owners = np.repeat(sessions, counts)
        seqs = np.repeat(table.acked[sessions] - np.cumsum(counts) + counts, counts) + np.arange(len(owners))
        held = self._cache.held_at(owners, seqs)
        changes = (np.diff(owners) != 0) | np.diff(held)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])  # of runs that keep their outputs, or keep none
        lengths = np.diff(starts, append=len(owners))
        first = owners[starts]
        outputs = self._cache.fetch_at(owners[held], seqs[held])
        self._outbox.answer(table.stream[first], table.tag[first], seqs[starts], lengths, lengths * held[starts], outputs)

    def _fail(self, positions: Ints, reason: Reason) -> None:
        """The next step of these rows fails, and with it all that is pending behind."""
        rows = self._backlog.rows
        self._ledger.cut_back(rows["session"][positions], rows["first"][positions])
        rows["reason"][positions] = reason

    def _computable(self, now: float) -> Ints:
        """Heads to be computed, but for sessions that were refused something: their next answer belongs behind that."""
        heads = self._backlog.heads()
        rows = self._backlog.rows
        ready = (rows["kind"][heads] == Kind.APPLY) & (rows["deadline"][heads] > now)
        ready &= rows["first"][heads] < self._table.stop_at[rows["session"][heads]]
        if self._refused or self._table.over:
            ready &= ~np.isin(rows["session"][heads], [*self._refused, *self._table.over])
        computable: Ints = heads[ready]
        return computable

    def _resolve_session(self, session: int, positions: list[int], gone: NDArray[np.bool_], now: float) -> int:
        """Resolves a session's rows from its head on, up to the first that must be computed. Returns how many."""
        rows = self._backlog.rows
        for count, position in enumerate(positions):
            row = rows[position]
            if row["kind"] == Kind.APPLY or session in self._table.over:
                return count
            if row["kind"] == Kind.REFUSE:
                self._refuse(row, int(row["length"]), Reason(int(row["reason"])))
                self._refused.add(session)
            elif session in self._refused:
                return count
            elif row["kind"] == Kind.RESET:
                if row["first"] == self._table.stop_at[session]:
                    return count
                self._reset(session, row, now)
            elif not self._repeat(row):
                self._refused.add(session)
                if row["length"]:
                    return count
            elif row["ends"]:
                self._end(row, int(row["first"]))
            gone[position] = True
        return len(positions)

    def _end(self, row: np.void, end: int) -> None:
        """The row has been answered up to its end; what of its session is behind it will not be."""
        self._table.over[int(row["session"])] = Last(int(row["begin"]), end, Keep(int(row["keep"])), bool(row["cached"]))

    def _reset(self, session: int, row: np.void, now: float) -> None:
        """Back to the initial state; takes one number, like a step."""
        table = self._table
        self._resets.append(int(table.slot[session]))
        table.status[session] = Status.OPEN
        table.next_seq[session] += 1
        table.used_at[session] = now
        self._answer_kept(session, int(row["stream"]), int(row["tag"]), int(row["first"]), 1, 0)

    def _repeat(self, row: np.void) -> bool:
        """Answers a repeat from the cache as far as it goes. False after a refusal: what then is left stays in the row."""
        session, first, length = int(row["session"]), int(row["first"]), int(row["length"])
        released, next_seq = int(self._table.released[session]), int(self._table.next_seq[session])
        if first < released:
            self._refuse(row, min(length, released - first), Reason.ANSWER_DISCARDED)
            return False
        if first >= next_seq:  # what it repeats was pending when it came, and has failed since
            self._refuse(row, length, Reason.SEQUENCE_MISMATCH)
            return False
        here = min(length, next_seq - first)
        wanted = np.full(here, row["keep"] == Keep.ALL)
        wanted[-1] |= row["keep"] == Keep.LAST and here == length
        missing = wanted & ~self._cache.held(session, first, here)
        answered = here if not missing.any() else int(missing.argmax())
        if answered:
            kept = int(wanted[:answered].sum())
            self._answer_kept(session, int(row["stream"]), int(row["tag"]), first, answered, kept)
            self._duplicates += answered
            _shorten(row, answered)
        if answered < here:
            self._refuse(row, _run_of_equal(missing[answered:]), Reason.ANSWER_NOT_KEPT)
        elif here < length:
            self._refuse(row, length - here, Reason.SEQUENCE_MISMATCH)
        return int(row["length"]) == 0 and answered == length

    def _answer_kept(self, session: int, stream: int, tag: int, first: int, length: int, kept: int) -> None:
        """Answers steps of which the last `kept` have their outputs in the cache."""
        outputs = self._cache.fetch(session, first + length - kept, kept) if kept else None
        self._outbox.answer_one(stream, tag, first, length, kept, outputs)

    def _refuse(self, row: np.void, length: int, reason: Reason) -> None:
        """Refuses the row's next `length` steps."""
        first, expected = int(row["first"]), int(self._table.next_seq[row["session"]])
        message = self._backlog.text(int(row["intake"])) or explain(reason, first, length, expected)
        self._outbox.refuse(int(row["stream"]), int(row["tag"]), first, length, reason, expected, message)
        _shorten(row, length)

    def _keep(self, rows: Rows, kept: Ints, outputs: Sequence[Tensor]) -> None:
        """Keeps answers for repeats."""
        sessions, first, length = rows["session"], rows["first"], outputs[0].shape[1]
        cached = rows["cached"]
        if cached.all() and (kept == length).all():
            self._cache.keep(sessions, first, outputs)
            return
        whole = np.flatnonzero(cached & (kept == length))
        if whole.size:
            self._cache.keep(sessions[whole], first[whole], [values[whole] for values in outputs])
        last = np.flatnonzero(cached & (kept == 1)) if length > 1 else whole[:0]
        if last.size:
            self._cache.keep(sessions[last], first[last] + length - 1, [values[last, -1:] for values in outputs])
        # A momentary step that keeps no answer is acknowledged by itself, or it would fill the window for ever.
        table = self._table
        alone = ~cached & (table.acked[sessions] == first)
        table.acked[sessions[alone]] += length
        table.released[sessions[alone & (table.released[sessions] == first)]] += length


def explain(reason: Reason, first: int, length: int, expected: int) -> str:
    """What the caller of so many steps from `first` on is told who is refused for that reason."""
    return _TEXTS[reason].format(first=first, length=length, expected=expected)


def _select(outputs: Sequence[Tensor], kept: Ints) -> list[Tensor]:
    """The last kept steps of each row, one behind the other: [sum of kept, *shape] of each output [n, length, *shape]."""
    n, length = outputs[0].shape[:2]
    if (kept == length).all():
        return [values.reshape(n * length, *values.shape[2:]) for values in outputs]
    chosen = np.arange(length) >= (length - kept)[:, None]
    return [values[chosen] for values in outputs]


def _run_of_equal(flags: NDArray[np.bool_]) -> int:
    """How many flags from the first on equal it."""
    different = flags != flags[0]
    return int(different.argmax()) if different.any() else len(flags)


def _shorten(row: np.void, steps: int) -> None:
    """Takes steps off the front of a row of the backlog, in place."""
    for name, change in (("first", steps), ("offset", steps), ("length", -steps)):
        row[name] = int(row[name]) + change
