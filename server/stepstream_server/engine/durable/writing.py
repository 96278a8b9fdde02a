"""Writing behind: what the store is told of durable sessions, in groups, while they go on.

A session is written some time after its first step that the store does not have, or after so many steps. Whoever waits for a
session has it written at once. One group at a time is under way: where a store is slow, the lag grows, and no memory does. States
are copied out by one gather, between two launches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import StoreSettings
from stepstream_server.engine.books import Books
from stepstream_server.engine.books.records import NONE
from stepstream_server.engine.durable.questions import Questions, Retry
from stepstream_server.engine.durable.tails import Tails
from stepstream_server.engine.durable.withheld import Left, Waiting, Withheld
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import (
    HEAD,
    NO_STREAM,
    Backend,
    Group,
    Ints,
    NotDone,
    Outcome,
    Tensor,
    TurnReport,
    Write,
    Written,
)
from stepstream_server.errors import Reason, ServerFault, StepStreamError

_MOST_ROWS = 1024  # of one group: to gather them takes a millisecond, which is what a single step may be held up
_MOST_BYTES = 4 << 20  # likewise, where states are large, or many answers are kept
_LIGHT_ROWS = 128  # of a group that may be gathered on the event loop
_LIGHT_BYTES = 512 << 10
_OPENED_AGAIN_SECONDS = 1.0  # advice to whoever is refused because of the lag: it is not over sooner


class _Flight(NamedTuple):
    """A group that is being written."""

    sessions: Ints
    generations: Ints
    next_seqs: Ints
    dirty_at: NDArray[np.float64]  # monotonic seconds


class Writing:
    """Writes durable sessions, and knows what the store has of them."""

    def __init__(
        self,
        backend: Backend,
        books: Books,
        outbox: Outbox,
        questions: Questions,
        settings: StoreSettings,
        tails: Tails,
        wall_clock: Callable[[], float],
    ) -> None:
        """wall_clock: unix seconds."""
        self._backend = backend
        self._books = books
        self._table = books.table
        self._outbox = outbox
        self._questions = questions
        self._settings = settings
        self._tails = tails
        self._wall_clock = wall_clock
        self._flight: _Flight | None = None
        self._retry = Retry()
        self.withheld = Withheld(self._table, outbox)
        self.flushing = False  # whether all is to be written at once
        self.sessions = 0  # that are durable; counted, since other threads read it
        books.counters.every_steps[0] = settings.every_steps

    # Sessions --------------------------------------------------------------------------------------------------------

    def adopt(self, sessions: Ints) -> None:
        """Sessions are durable from now on; what is in the store is as they stand."""
        self._table.durable[sessions] = True
        self._table.durable_seq[sessions] = self._table.next_seq[sessions]
        self.sessions += len(sessions)

    def begin(self, sessions: Ints, now: float) -> None:
        """New sessions are durable from now on; nothing of them is in the store yet."""
        self._table.durable[sessions] = True
        self.sessions += len(sessions)
        self.touch(sessions, now)

    def touch(self, sessions: Ints, now: float) -> None:
        """Durable sessions are to be written, though nothing was applied to them."""
        self._books.mark_dirty(sessions, now)

    def ended(self, sessions: Ints) -> list[Left]:
        """Durable sessions end, or are durable no more. Returns who waits for them, to be told with `withheld.tell_left`."""
        self._books.make_clean(sessions)
        self.sessions -= len(sessions)
        self._tails.forget(sessions)
        return self.withheld.take(sessions)

    def hold(self, session: int, waiting: Waiting) -> None:
        """Somebody waits for what was applied to a durable session."""
        self.withheld.hold(session, waiting)

    def tell(self, stream: int, handle: int, session: int) -> None:
        """Tells a one-shot caller, by the engine-wide number, what the store has of a session."""
        self._outbox.durable(stream, handle, int(self._table.durable_seq[session]), int(self._table.epoch[session]))

    # The lag ---------------------------------------------------------------------------------------------------------

    def lag(self, now: float) -> float:
        """Seconds since the oldest step was applied that the store does not have; 0: it has all. From any thread."""
        dirty, flight = self._books.dirty, self._flight
        oldest = float(self._table.sessions["dirty_at"][dirty].min(initial=now))
        if flight is not None:
            oldest = min(oldest, float(flight.dirty_at.min(initial=now)))
        return max(0.0, now - oldest)

    def refuse_if_behind(self, now: float) -> None:
        """Raises ServerFault(STORE_UNAVAILABLE) while the store is too far behind for more sessions."""
        lag, most = self.lag(now), self._settings.max_lag_seconds
        if lag > most:
            message = f"the store is {lag:.1f} s behind, more than {most:g} s: no durable sessions are opened"
            raise ServerFault(Reason.STORE_UNAVAILABLE, message, retry_delay_seconds=_OPENED_AGAIN_SECONDS)

    # Groups ----------------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Tells whether the store has all."""
        return not len(self._books.dirty) and self._flight is None

    @property
    def next_deadline(self) -> float:
        """Monotonic seconds at which a group is to be written; inf while one is under way, or nothing is wanting."""
        dirty = self._books.dirty
        if self._flight is not None or not len(dirty):
            return float("inf")
        if self.flushing or self.withheld or self._books.counters.pressing[0]:
            return self._retry.at
        return max(self._retry.at, float(self._table.sessions["dirty_at"][dirty[0]]) + self._settings.every_seconds)

    @property
    def light(self) -> bool:
        """Tells whether a group that is due now may be gathered on the event loop."""
        dirty = self._books.dirty
        return len(dirty) <= _LIGHT_ROWS and int(self._bytes(dirty).sum()) <= _LIGHT_BYTES

    def write(self, now: float) -> None:
        """Has the store write the next group, which is due. Nothing is in flight."""
        sessions = self._fitting(self._due(now))
        self._books.counters.pressing[0] = False
        if not len(sessions):
            return
        table = self._table
        self._flight = _Flight(
            sessions, table.generation[sessions], table.next_seq[sessions], table.sessions["dirty_at"][sessions]
        )
        group = self.group(sessions, now)
        self._books.make_clean(sessions)
        self._questions.ask(lambda number: Write(number, group), self._written)

    def _bytes(self, sessions: Ints) -> Ints:
        """Bytes of each session's state and of what is kept of its answers, at most."""
        kept = self._table.next_seq[sessions] - self._table.acked[sessions]
        sizes: Ints = self._backend.state_bytes + kept * self._books.cache.step_bytes
        return sizes

    def _fitting(self, sessions: Ints) -> Ints:
        """The first of them, as many as may be gathered at once; at least one."""
        some = sessions[:_MOST_ROWS]
        return some[: max(1, int(np.searchsorted(self._bytes(some).cumsum(), _MOST_BYTES, "right")))]

    def _due(self, now: float) -> Ints:
        """Which dirty sessions are written next: all, if the oldest has waited long enough, since one write costs as much as
        many; else those that somebody waits for, and those with half as many steps as make a write due."""
        dirty, settings = self._books.dirty.copy(), self._settings
        if self.flushing or now >= float(self._table.sessions["dirty_at"][dirty[0]]) + settings.every_seconds:
            return dirty
        wanting = self._table.next_seq[dirty] - self._table.durable_seq[dirty]
        due = np.isin(dirty, self.withheld.sessions)
        if self._books.counters.pressing[0]:
            due |= 2 * wanting >= settings.every_steps
        return dirty[due]

    def _written(self, outcome: Outcome, now: float, report: TurnReport) -> None:
        flight, self._flight = self._flight, None
        if flight is None:
            return
        table = self._table
        here = table.durable[flight.sessions] & (table.generation[flight.sessions] == flight.generations)
        sessions = flight.sessions[here]
        if isinstance(outcome, Written):
            report.written += len(flight.sessions)
            report.written_bytes += outcome.bytes
            report.write_seconds.append(outcome.seconds)
            self._retry.worked()
            self._move(sessions, flight.next_seqs[here])
        elif isinstance(outcome, NotDone):
            self._fail(sessions, flight.dirty_at[here], outcome.error, now)

    def _move(self, sessions: Ints, counts: Ints) -> None:
        """The store has the steps of sessions below each count: whoever is concerned is told."""
        table = self._table
        moved = table.durable_seq[sessions] < counts
        table.durable_seq[sessions] = counts
        told = sessions[moved & (table.stream[sessions] != NO_STREAM)]
        columns = (table.stream[told], table.handle[told], table.durable_seq[told], table.epoch[told])
        for stream, handle, count, epoch in zip(*(column.tolist() for column in columns), strict=True):
            self._outbox.durable(stream, handle, count, epoch)
        if self.withheld:
            self.withheld.settle(sessions.tolist())

    def _fail(self, sessions: Ints, dirty_at: NDArray[np.float64], error: StepStreamError, now: float) -> None:
        """The store has failed: it is tried again, with what the sessions have become by then."""
        self._books.mark_dirty_since(sessions, dirty_at, now)
        self._retry.failed(now)
        if self.withheld:
            self.withheld.refuse(self.withheld.sessions, error)

    def group(self, sessions: Ints, now: float) -> Group:
        """Sessions as they stand."""
        table, cache = self._table, self._books.cache
        records = table.sessions[sessions]
        heads = np.zeros(len(sessions), HEAD)
        for name in ("next_seq", "acked", "rolled_from", "rolled_to"):
            heads[name] = records[name]
        to_unix = self._wall_clock() - now
        heads["epoch"], heads["idle_ttl"], heads["quarantined"] = (
            table.epoch[sessions],
            table.idle_ttl[sessions],
            table.quarantined(sessions),
        )
        fresh = sessions[np.isnan(table.opened_unix[sessions])]
        table.opened_unix[fresh] = table.opened_at[fresh] + to_unix  # once and for all, since clocks are set
        heads["opened_at"], heads["used_at"] = table.opened_unix[sessions], records["used_at"] + to_unix
        places = cache.find_all(sessions, records["acked"], records["next_seq"])
        held = places != NONE
        return Group(
            [table.id(session) for session in sessions.tolist()],
            heads,
            table.digests[sessions],
            self._backend.read(table.slot[sessions]),
            held,
            tuple(cache.get(places[held])),
            self._drawn_by(records, sessions),
        )

    def _drawn_by(self, records: NDArray[np.void], sessions: Ints) -> dict[int, Tensor]:
        """Gives what the last rollouts of sessions have drawn, where nothing was applied behind it, by place."""
        rolled = (records["rolled_to"] == records["next_seq"]) & (records["rolled_from"] < records["rolled_to"])
        self._tails.forget(sessions[~rolled])
        drawn = {place: self._tails.drawn(int(sessions[place])) for place in np.flatnonzero(rolled).tolist()}
        return {place: values for place, values in drawn.items() if values is not None}
